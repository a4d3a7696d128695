"""Small model first, large model where the small one is not sure: the rule that DataShunt uses for a question, DoT for
a subtask.

Both answers are paid for. Settings: `small_model`, `large_model`, `threshold`, `confidence_quantile`, `n_samples`,
`sample_temperature`.
"""

from collections.abc import Callable, Generator, Sequence

from r2.answering.allocation import Choice
from r2.answering.confidence import with_logprobs
from r2.answering.prompts import DIRECT_STEP
from r2.answering.protocol import Outcome, QuestionBudget, Router, Step, Stop, Wave, ask
from r2.answering.route import accept, step_call
from r2.call import Completion
from r2.methods.expected import UNSURE_SHARE, ExpectedCalls
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
    part: Callable[[Router, str, float], ExpectedCalls], router: Router, n: float
) -> list[ExpectedCalls]:
    """Calls for `n` answers per question, each the `part` of one model; samples where the small model's endpoint gives
    no log-probabilities."""
    small, large = small_model(router), large_model(router)
    n_asked = n if router.roster[small].has_logprobs else n * (1 + router.settings.n_samples)
    return [part(router, small, n_asked), *([part(router, large, n * UNSURE_SHARE)] if large != small else [])]


def _shunt(
    problem: Problem, plan: Plan, level: Sequence[int], router: Router, outcome: Outcome, budget: QuestionBudget
) -> Generator[Wave, list[Completion], None]:
    """Asks the small model for each step of a level, and the large one for those below the threshold or without a
    result."""
    calls = [with_logprobs(step_call(problem, plan, index, router, outcome.steps), router.roster) for index in level]
    answered = yield from ask(calls, budget, may_escalate=True)
    sure = yield from confidences(answered, router, budget)
    last: dict[int, Completion] = {}
    doubtful = []
    for index, (call, completion), confidence in zip(level, answered, sure, strict=True):
        step = outcome.steps[index]
        last[index] = completion
        _keep(problem, step, call.model, completion, outcome)
        if (confidence < router.settings.threshold or step.text is None) and large_model(router) != call.model:
            doubtful.append(index)
    for index in doubtful:
        outcome.steps[index].model = large_model(router)
    if doubtful:
        calls = [step_call(problem, plan, index, router, outcome.steps) for index in doubtful]
        for index, (call, completion) in zip(doubtful, (yield from ask(calls, budget, may_escalate=True)), strict=True):
            last[index] = completion
            outcome.n_escalations += 1
            _keep(problem, outcome.steps[index], call.model, completion, outcome)
    for index in level:
        step = outcome.steps[index]
        if step.text is None:
            message = last[index].error_message or f"step {index + 1}: {step.model} returned no text"
            raise Stop(step.error_type or "empty", message)


def _keep(problem: Problem, step: Step, asked: str, completion: Completion, outcome: Outcome) -> None:
    step.n_asks += 1
    step.model = completion.model or asked
    if check := accept(problem, step, completion):
        outcome.failed_checks.append(check)
