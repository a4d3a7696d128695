"""Small model first, large model where the small one is not sure: the rule that DataShunt uses for a question, DoT for
a subtask.

Both answers are paid for. Settings: `small_model`, `large_model`, `threshold`, `confidence_quantile`, `n_samples`,
`sample_temperature`.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

from r2.answering.allocation import Choice
from r2.answering.confidence import with_logprobs
from r2.answering.prompts import DIRECT_STEP
from r2.answering.protocol import Outcome, QuestionBudget, Router, Step, Stop, Wave, ask
from r2.answering.route import accept, answer_step, step_call
from r2.answering.wanted import SCHEMA, TRUNCATED, Again, is_whole, schema_of
from r2.call import Call, Completion
from r2.methods.direct_step import lack_of
from r2.methods.expected import ExpectedCalls, unsure_share
from r2.methods.measured_confidence import confidences
from r2.plan import Plan, Subtask
from r2.problem import Problem


def small_model(router: Router) -> str:
    return router.settings.small_model or router.roster.cheapest


def large_model(router: Router) -> str:
    return router.settings.large_model or router.roster.strongest


def open_steps(plan: Plan, model: str) -> list[Step]:
    """A step per subtask (one for a direct plan), all for one model."""
    return [Step(subtask, Choice(model, {}), model) for subtask in plan.subtasks or (Subtask(DIRECT_STEP),)]


def execute_shunted(
    problem: Problem, plan: Plan, router: Router, outcome: Outcome, budget: QuestionBudget
) -> Generator[Wave, list[Completion], None]:
    """Runs every level of the plan, the deepest included (the published DoT runner stops before it). `Stop` where a
    step ends without a result."""
    for level in plan.waves() or [[0]]:
        yield from _shunt(problem, plan, level, router, outcome, budget)


def expected_shunted(
    part: Callable[[Router, str, float], ExpectedCalls], router: Router, n: float, *, is_step: bool = False
) -> list[ExpectedCalls]:
    """Calls for `n` answers per question, each the `part` of one model; samples where the small model's endpoint gives
    no log-probabilities."""
    small, large = small_model(router), large_model(router)
    n_asked = n if router.roster[small].has_logprobs else n * (1 + router.settings.n_samples)
    n_unsure = n * unsure_share(router, small, is_step=is_step)
    return [part(router, small, n_asked), *([part(router, large, n_unsure)] if large != small else [])]


def _shunt(
    problem: Problem, plan: Plan, level: Sequence[int], router: Router, outcome: Outcome, budget: QuestionBudget
) -> Generator[Wave, list[Completion], None]:
    """Asks the small model for each step of a level, and the large one for those below the threshold or without a
    result. A result that is wanted in full and is cut, or does not match its schema, is not sure either."""
    calls = {
        index: with_logprobs(step_call(problem, plan, index, router, outcome.steps), router.roster) for index in level
    }
    last = yield from _asked(problem, plan, calls, router, outcome, budget)
    sure = yield from confidences(problem, [last[index][:2] for index in level], router, budget)
    doubtful = []
    for index, confidence in zip(level, sure, strict=True):
        step, (call, _, check) = outcome.steps[index], last[index]
        is_sure = confidence >= router.settings.threshold and step.text is not None
        if is_whole(problem, router) and check in (TRUNCATED, SCHEMA):
            is_sure = False
        if not is_sure and large_model(router) != call.model:
            doubtful.append(index)
    for index in doubtful:
        outcome.steps[index].model = large_model(router)
    if doubtful:
        calls = {index: step_call(problem, plan, index, router, outcome.steps) for index in doubtful}
        outcome.n_escalations += len(doubtful)
        last |= yield from _asked(problem, plan, calls, router, outcome, budget)
    for index in level:
        step = outcome.steps[index]
        if step.text is None:
            message = last[index][1].error_message or f"step {index + 1}: {step.model} returned {lack_of(step)}"
            raise Stop(step.error_type or "empty", message)


def _asked(
    problem: Problem, plan: Plan, calls: dict[int, Call], router: Router, outcome: Outcome, budget: QuestionBudget
) -> Generator[Wave, list[Completion], dict[int, tuple[Call, Completion, str | None]]]:
    """Asks for these steps; each with its last call, completion and failed check. One that is cut, or does not match
    its schema, is asked for once more of the same entry."""
    tried = {index: Again() for index in calls}
    last: dict[int, tuple[Call, Completion, str | None]] = {}
    while calls:
        answered = yield from ask(list(calls.values()), budget, may_escalate=True)
        asked, calls = list(calls), {}
        for index, (call, completion) in zip(asked, answered, strict=True):
            step = outcome.steps[index]
            schema = schema_of(problem, router) if index == answer_step(problem, plan, router) else None
            step.n_asks += 1
            step.model = completion.model or call.model
            check = accept(problem, step, completion, schema=schema)
            last[index] = call, completion, check
            if check is None:
                continue
            outcome.failed_checks.append(check)
            again = tried[index].call(problem, check, call, completion, schema, router, budget)
            if again is not None:
                calls[index] = replace(again, sample_index=step.n_asks)
    return last
