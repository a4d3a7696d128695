"""Answering one problem with the router: decompose, allocate, solve in waves, check, escalate. A generator without I/O.

`solve` yields waves (lists of `Call`s that may run at the same time) and receives their `Completion`s in order; whoever
drives it decides what a call is. Beyond the paper (ours): direct plans, parallel waves, prompts that show only the needed
results, the cheap check with escalation, hard budgets. Left out: the paper's procedural review, which is for training.
"""

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

from r2.answering.allocation import Choice, allocation_schema, choose
from r2.problems.checks import extract_answer
from r2.problems.benchmark import benchmark_of, failed_check
from r2.call import Call, Completion, Message, Purpose
from r2.answering.confidence import token_confidence, with_logprobs
from r2.errors import DEFERRING_ERROR_TYPES, AllocationParseError, PlanParseError
from r2.ledger import cost_usd, worst_case_usage
from r2.plan import DIRECT, Plan, Subtask, parse_plan
from r2.answering.plan_check import plan_defect
from r2.problem import Problem
from r2.answering.prompts import DIRECT_STEP, FINAL_TASK, MODEL_LETTERS, allocate_messages, decompose_messages, solve_messages
from r2.answering.query_router import QueryRouter
from r2.roster import ModelCard, Roster
from r2.settings import Reasoning
from r2.trial import Trial


@dataclass(slots=True)
class Step:
    """One executed subtask. `text` is the accepted result, None if there is none."""

    subtask: Subtask
    choice: Choice
    model: str
    text: str | None = None
    n_asks: int = 0
    error_type: str | None = None


@dataclass(slots=True)
class Outcome:
    """How a problem ended. `error_type` is None exactly when `answer` is not."""

    answer: str | None = None
    plan: Plan | None = None
    steps: list[Step] = field(default_factory=list)
    n_escalations: int = 0
    failed_checks: list[str] = field(default_factory=list)
    error_type: str | None = None
    error_message: str | None = None
    trials: list[Trial] = field(default_factory=list)
    """What labelling tried, right or wrong; empty for every way to answer."""

    @property
    def status(self) -> str:
        if self.error_type is None:
            return "answered"
        return "deferred" if self.error_type in DEFERRING_ERROR_TYPES else "failed"


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One problem answered once: how it ended, and every wave of calls with their completions, in order."""

    problem: Problem
    outcome: Outcome
    waves: tuple[tuple[tuple[Call, Completion], ...], ...]


Wave = list[Call]
Solving = Generator[Wave, list[Completion], Outcome]
Answering = Generator[Wave, list[Completion], str]
"""A way to answer without its ending: what `concluded` turns into a Solving."""


@dataclass(frozen=True, slots=True)
class Router:
    """The pool's roster with the entries that play the router's parts. `finalizer` None: the last step is the answer.

    `query_router` is read from its file by whoever makes the router; only the method of that name needs it.
    """

    roster: Roster
    decomposer: str
    allocator: str
    finalizer: str | None
    settings: Reasoning
    query_router: QueryRouter | None = None
    second_decomposer: str | None = None
    """Who plans again where the first plan fails its check (r2/answering/plan_check.py); None: nobody, and plans are not checked."""


class Stop(Exception):
    """Ends a problem from anywhere below its generator, which turns it into an Outcome."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


def solve(problem: Problem, router: Router) -> Solving:
    """One trajectory. Whatever the models write, it ends with an Outcome; only bugs raise."""
    return concluded(_route, problem, router)


def concluded(
    answering: "Callable[[Problem, Router, Outcome, Purse], Answering]", problem: Problem, router: Router
) -> Solving:
    """A way to answer with its ending: the text it returns is the answer, a `Stop` below it is why there is none."""
    outcome = Outcome()
    try:
        outcome.answer = yield from answering(problem, router, outcome, Purse(router))
    except Stop as stop:
        outcome.error_type, outcome.error_message = stop.error_type, str(stop)
    return outcome


def _route(problem: Problem, router: Router, outcome: Outcome, purse: "Purse") -> Answering:
    outcome.plan = plan = yield from decompose(problem, router, outcome, purse)
    outcome.steps = yield from _allocate(problem, plan, router, outcome, purse)
    yield from execute_steps(problem, plan, router, outcome, purse, max_escalations=router.settings.max_escalations)
    return (yield from finalize(problem, plan, router, outcome, purse))


class Purse:
    """The per-question budget: what was spent, and which models a further call may still go to."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.cap_usd = router.settings.max_cost_per_question_usd
        self.spent_usd = 0.0

    def affordable(self, wave: Wave) -> Wave:
        """The wave with calls that could pass the cap sent to the strongest cheaper solver that cannot. `Stop` if there is none."""
        if self.cap_usd is None:
            return wave
        left = self.cap_usd - self.spent_usd
        kept: Wave = []
        for call in wave:
            call, cost = self._within(call, left)
            left -= cost
            kept.append(call)
        return kept

    def _within(self, call: Call, left_usd: float) -> tuple[Call, float]:
        roster = self.router.roster
        cheaper = [c.name for c in reversed(roster.solvers) if c.blended_price < roster[call.model].blended_price]
        for name in [call.model, *cheaper]:
            cost = cost_usd(roster[name].price, worst_case_usage(call.messages, call.max_output_tokens))
            if cost <= left_usd:
                return replace(call, model=name), cost
        raise Stop(
            "question_budget",
            f"the next {call.purpose} call could pass the question's cap of {self.cap_usd} USD ({self.spent_usd:.6f} spent); "
            "raise --max-cost-per-question-usd or add a cheaper model",
        )

    def pay(self, completions: Sequence[Completion]) -> None:
        self.spent_usd += sum(completion.cost_usd for completion in completions)


def ask(wave: Wave, purse: Purse) -> Generator[Wave, list[Completion], list[tuple[Call, Completion]]]:
    """Sends a wave within the purse; a completion that says nothing about the question (`DEFERRING_ERROR_TYPES`) ends the problem."""
    wave = purse.affordable(wave)
    completions = yield wave
    purse.pay(completions)
    for completion in completions:
        if completion.error_type in DEFERRING_ERROR_TYPES:
            raise Stop(completion.error_type or "", completion.error_message or "")
    return list(zip(wave, completions, strict=True))


def decompose(
    problem: Problem, router: Router, outcome: Outcome, purse: Purse
) -> Generator[Wave, list[Completion], Plan]:
    """The plan; DIRECT where no decomposer gave one, and the trajectory says so.

    Ours: a second decomposer is asked where the first one's text has no plan, or one that fails the cheap check. Its plan stands, checked or
    not: it is the stronger of the two.
    """
    plan, failed = yield from _plan_by(router.decomposer, problem, router, purse)
    if router.second_decomposer is not None:
        failed = failed or plan_defect(problem, plan, is_last_step_answer=router.finalizer is None)
    if failed is None:
        return plan
    outcome.failed_checks.append(failed)
    if router.second_decomposer is None:
        return plan
    second, failed = yield from _plan_by(router.second_decomposer, problem, router, purse)
    if failed is None:
        return second
    outcome.failed_checks.append(failed)
    return plan


def _plan_by(
    decomposer: str, problem: Problem, router: Router, purse: Purse
) -> Generator[Wave, list[Completion], tuple[Plan, str | None]]:
    """One decomposer's plan, and why there is none: then it is DIRECT."""
    call = Call(
        decomposer, decompose_messages(problem, router.roster[decomposer].prompt_mode), "decompose", router.settings.plan_tokens,
        temperature=router.settings.temperature, seed=router.settings.seed or None,
    )  # fmt: skip
    [(_, completion)] = yield from ask([call], purse)
    if not completion.is_ok:
        return DIRECT, f"decompose_{completion.error_type}"
    try:
        return parse_plan(completion.text), None
    except PlanParseError:
        return DIRECT, "plan_parse"


def _allocate(
    problem: Problem, plan: Plan, router: Router, outcome: Outcome, purse: Purse
) -> Generator[Wave, list[Completion], list[Step]]:
    """One step per subtask (one for a direct plan) with its model. The pool's middle solver stands in for a missing allocation."""
    subtasks = plan.subtasks or (Subtask(DIRECT_STEP),)
    shown = shown_models(problem, router)
    mode = router.roster[router.allocator].prompt_mode
    call = Call(
        router.allocator, allocate_messages(problem, plan, shown, mode), "allocate", 16 + 20 * len(subtasks),
        temperature=router.settings.temperature, seed=router.settings.seed or None,
        top_logprobs=min(20, len(shown)) if router.roster[router.allocator].has_logprobs else 0,
        json_schema=allocation_schema(len(subtasks), len(shown)) if router.roster[router.allocator].guided else None,
    )  # fmt: skip
    choices: list[Choice] | None = None
    if len(shown) == 1:
        choices = [Choice(shown[0].name, {})] * len(subtasks)
    else:
        [(_, completion)] = yield from ask([call], purse)
        try:
            if completion.is_ok:
                choices = choose(completion, len(subtasks), shown, router.settings.b)
            else:
                outcome.failed_checks.append(f"allocate_{completion.error_type}")
        except AllocationParseError:
            outcome.failed_checks.append("allocation_parse")
    if choices is None:
        choices = [Choice(router.roster.middle, {})] * len(subtasks)
    return [Step(subtask, choice, choice.model) for subtask, choice in zip(subtasks, choices, strict=True)]


def shown_models(problem: Problem, router: Router) -> tuple[ModelCard, ...]:
    """The solvers as the allocator is shown them: in the roster's order, or (ours) in one drawn for the question, to see what order does."""
    solvers, seed = router.roster.solvers[: len(MODEL_LETTERS)], router.settings.order_seed
    if seed is None:
        return solvers
    return tuple(random.Random(f"order:{seed}:{problem.problem_id}").sample(solvers, len(solvers)))


def execute_steps(
    problem: Problem, plan: Plan, router: Router, outcome: Outcome, purse: Purse, *, max_escalations: int
) -> Generator[Wave, list[Completion], None]:
    """Runs the steps wave by wave; a step whose check fails is asked again of the next stronger model, within the bound. So is one whose model is
    not sure of its result (`min_confidence`): that result stands if nobody is left to ask."""
    limit = router.settings.min_confidence if max_escalations else 0.0
    for wave in plan.waves() or [[0]]:
        open_steps = wave
        while open_steps:
            calls = [step_call(problem, plan, index, router, outcome.steps) for index in open_steps]
            if limit:
                calls = [with_logprobs(call, router.roster) for call in calls]
            answered = yield from ask(calls, purse)
            failing = []
            for index, (call, completion) in zip(open_steps, answered, strict=True):
                step = outcome.steps[index]
                step.n_asks += 1
                step.model = completion.model or call.model
                check = accept(problem, step, completion)
                if check is None and _is_unsure(completion, limit, router):
                    check = "unsure"
                if check is None:
                    continue
                outcome.failed_checks.append(check)
                stronger = router.roster.stronger(call.model)
                if stronger is not None and outcome.n_escalations < max_escalations:
                    outcome.n_escalations += 1
                    step.model = stronger
                    failing.append(index)
                elif step.text is None:
                    raise Stop(
                        step.error_type or check,
                        completion.error_message or f"step {index + 1}: {check} and nobody stronger to ask",
                    )
            open_steps = failing


def _is_unsure(completion: Completion, limit: float, router: Router) -> bool:
    """False where the completion came without log-probabilities: then its form alone is checked."""
    confidence = token_confidence(completion, router.settings.confidence_quantile) if limit else None
    return confidence is not None and confidence < limit


def accept(problem: Problem, step: Step, completion: Completion) -> str | None:
    """Stores the result on the step and names the failed check, if any. A doubtful text stays: it may be all there is."""
    if not completion.is_ok:
        step.error_type = completion.error_type
        return f"solve_{completion.error_type}"
    step.error_type = None
    text = extract_answer(completion.text)
    check = failed_check(problem, text, completion.finish_reason)
    if text:
        step.text = text
    elif check is not None and step.text is None:
        step.error_type = check
    return check


def step_call(problem: Problem, plan: Plan, index: int, router: Router, steps: list[Step]) -> Call:
    step = steps[index]
    results = {i + 1: steps[i].text or "" for i in step.subtask.needs}
    task = None if plan.is_direct else step.subtask.text
    return replace(
        solver_call(problem, router, step.model, task, results, "solve"), subtask_index=index, sample_index=step.n_asks
    )


def finalize(
    problem: Problem, plan: Plan, router: Router, outcome: Outcome, purse: Purse
) -> Generator[Wave, list[Completion], str]:
    """The last step's result, or the finalizer's reading of all of them (paper: a final call). Direct plans need neither."""
    if plan.is_direct or router.finalizer is None:
        return outcome.steps[-1].text or ""
    results = {i + 1: step.text or "" for i, step in enumerate(outcome.steps)}
    [(_, completion)] = yield from ask(
        [solver_call(problem, router, router.finalizer, FINAL_TASK, results, "final")], purse
    )
    if completion.is_ok and (text := extract_answer(completion.text)):
        return text
    outcome.failed_checks.append(f"final_{completion.error_type or 'empty'}")
    return outcome.steps[-1].text or ""


def solver_call(
    problem: Problem, router: Router, model: str, task: str | None, results: dict[int, str], purpose: Purpose
) -> Call:
    """The call that asks `model` for one subtask (`task`), or with None for the answer to the question itself."""
    card = router.roster[model]
    benchmark = benchmark_of(problem)
    messages: tuple[Message, ...] = solve_messages(problem, task, results, card.prompt_mode, benchmark.wording)
    # A bare entry was trained to end by itself, and may work its result out first.
    limit = (
        benchmark.answer_tokens
        if card.prompt_mode == "direct"
        else max(router.settings.cot_tokens, benchmark.answer_tokens)
    )
    return Call(
        model, messages, purpose, limit, temperature=router.settings.temperature, seed=router.settings.seed or None
    )
