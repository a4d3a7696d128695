"""Answering one problem with the router: decompose, allocate, solve in waves, check, escalate. A generator without I/O.

`solve` yields waves (lists of `Call`s that may run at the same time) and receives their `Completion`s in order; whoever
drives it decides what a call is. Beyond the paper (ours): direct plans, parallel waves, prompts that show only the
needed results, the cheap check with escalation, hard budgets. Left out: the paper's procedural review, which is for
training.
"""

import random
from collections.abc import Generator
from dataclasses import replace

from r2.answering.allocation import Choice, allocation_schema, allocation_tokens, choose
from r2.answering.confidence import token_confidence, with_logprobs
from r2.answering.judging import judge_call, verdict_of
from r2.answering.plan_check import plan_defect
from r2.answering.prompts import (
    DIRECT_STEP,
    FINAL_TASK,
    MODEL_LETTERS,
    allocate_messages,
    decompose_messages,
    solve_messages,
)
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, Solving, Step, Stop, Wave, ask, concluded
from r2.call import Call, Completion, Message, Purpose
from r2.errors import AllocationParseError, PlanParseError
from r2.plan import DIRECT, Plan, Subtask, parse_plan
from r2.problem import Problem
from r2.problems.benchmark import benchmark_of, failed_check
from r2.problems.checks import extract_answer
from r2.problems.own_check import OwnCheck
from r2.roster import ModelCard


def solve(problem: Problem, router: Router) -> Solving:
    """One trajectory. Whatever the models write, it ends with an Outcome; only bugs raise."""
    return concluded(_route, problem, router)


def _route(problem: Problem, router: Router, outcome: Outcome, budget: "QuestionBudget") -> Answering:
    outcome.plan = plan = yield from decompose(problem, router, outcome, budget)
    outcome.steps = yield from _allocate(problem, plan, router, outcome, budget)
    yield from execute_steps(problem, plan, router, outcome, budget, max_escalations=router.settings.max_escalations)
    return (
        yield from finalize(problem, plan, router, outcome, budget, max_escalations=router.settings.max_escalations)
    )


def decompose(
    problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget
) -> Generator[Wave, list[Completion], Plan]:
    """The plan; DIRECT where no decomposer gave one, and the trajectory says so. `Stop` where the last decomposer asked
    failed in a way that says nothing about the question.

    Ours: a second decomposer is asked where the first one's text has no plan, or one that fails the cheap check. Its
    plan stands, checked or not: it is the stronger of the two.
    """
    has_second = router.second_decomposer is not None
    plan, failed = yield from _plan_by(router.decomposer, problem, router, budget, may_escalate=has_second)
    if router.second_decomposer is not None:
        failed = failed or plan_defect(problem, plan, is_last_step_answer=router.finalizer is None)
    if failed is None:
        return plan
    outcome.failed_checks.append(failed)
    if router.second_decomposer is None:
        return plan
    second, failed = yield from _plan_by(router.second_decomposer, problem, router, budget)
    if failed is None:
        return second
    outcome.failed_checks.append(failed)
    return plan


def _plan_by(
    decomposer: str, problem: Problem, router: Router, budget: QuestionBudget, *, may_escalate: bool = False
) -> Generator[Wave, list[Completion], tuple[Plan, str | None]]:
    """One decomposer's plan, and why there is none: then it is DIRECT."""
    call = Call(
        decomposer,
        decompose_messages(problem, router.roster[decomposer].prompt_mode),
        "decompose",
        router.settings.plan_tokens,
        temperature=router.settings.temperature,
        seed=router.settings.seed or None,
    )
    [(_, completion)] = yield from ask([call], budget, may_escalate=may_escalate)
    if not completion.is_ok:
        return DIRECT, f"decompose_{completion.error_type}"
    try:
        return parse_plan(completion.text), None
    except PlanParseError:
        return DIRECT, "plan_parse"


def _allocate(
    problem: Problem, plan: Plan, router: Router, outcome: Outcome, budget: QuestionBudget
) -> Generator[Wave, list[Completion], list[Step]]:
    """One step per subtask (one for a direct plan) with its model. The pool's middle solver stands in for a missing
    allocation."""
    subtasks = plan.subtasks or (Subtask(DIRECT_STEP),)
    shown = shown_models(problem, router)
    mode = router.roster[router.allocator].prompt_mode
    call = Call(
        router.allocator,
        allocate_messages(problem, plan, shown, mode),
        "allocate",
        allocation_tokens(len(subtasks)),
        temperature=router.settings.temperature,
        seed=router.settings.seed or None,
        top_logprobs=min(20, len(shown)) if router.roster[router.allocator].has_logprobs else 0,
        json_schema=allocation_schema(len(subtasks), len(shown)) if router.roster[router.allocator].guided else None,
    )
    choices: list[Choice] | None = None
    if len(shown) == 1:
        choices = [Choice(shown[0].name, {})] * len(subtasks)
    else:
        [(_, completion)] = yield from ask([call], budget)
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
    """The solvers as the allocator is shown them, without those that cannot hold the question: in the roster's order,
    or (ours) in one drawn for the question, to see what order does."""
    solvers, seed = router.roster.solvers, router.settings.order_seed
    said = (("user", problem.question + problem.context),)
    holding = tuple(card for card in solvers if card.can_hold(said, benchmark_of(problem).answer_tokens))
    solvers = (holding or solvers)[: len(MODEL_LETTERS)]
    if seed is None:
        return solvers
    return tuple(random.Random(f"order:{seed}:{problem.problem_id}").sample(solvers, len(solvers)))


def execute_steps(
    problem: Problem, plan: Plan, router: Router, outcome: Outcome, budget: QuestionBudget, *, max_escalations: int
) -> Generator[Wave, list[Completion], None]:
    """Runs the steps wave by wave; a step whose check fails is asked again of the next stronger model, within the
    bound. So is one whose model is not sure of its result (`min_confidence`), or whose result the user's verifier
    refuses: such a result stands if nobody is left to ask."""
    limit = router.settings.min_confidence if max_escalations else 0.0
    verify = router.verify if max_escalations else None
    for wave in plan.waves() or [[0]]:
        open_steps = wave
        while open_steps:
            calls = [step_call(problem, plan, index, router, outcome.steps) for index in open_steps]
            if limit:
                calls = [with_logprobs(call, router.roster) for call in calls]
            answered = yield from ask(calls, budget, may_escalate=True)
            failing = []
            for index, (call, completion) in zip(open_steps, answered, strict=True):
                step = outcome.steps[index]
                step.n_asks += 1
                step.model = completion.model or call.model
                check = accept(problem, step, completion)
                if check is None and _is_unsure(completion, limit, router):
                    check = "unsure"
                is_answer = index == len(outcome.steps) - 1 and (plan.is_direct or router.finalizer is None)
                if check is None and verify is not None and (is_answer or verify.takes_step):
                    subtask = None if is_answer else step.subtask.text
                    check = yield from refused(problem, step.text or "", verify, subtask, outcome, budget)
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
    """Stores the result on the step and names the failed check, if any. A doubtful text stays: it
    may be all there is."""
    if not completion.is_ok:
        step.error_type = completion.error_type
        return f"solve_{completion.error_type}"
    step.error_type = None
    text = extract_answer(completion.text)
    check = failed_check(problem, text, completion.finish_reason)
    if text:
        step.text, step.is_cut = text, completion.finish_reason == "length"
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
    problem: Problem, plan: Plan, router: Router, outcome: Outcome, budget: QuestionBudget, *, max_escalations: int = 0
) -> Generator[Wave, list[Completion], str]:
    """The last step's result, or the finalizer's reading of all of them (paper: a final call). Direct plans need
    neither. A final answer that the user's verifier refuses is asked again of the next stronger model (ours)."""
    if plan.is_direct or router.finalizer is None:
        return outcome.steps[-1].text or ""
    results = {i + 1: step.text or "" for i, step in enumerate(outcome.steps)}
    model: str | None = router.finalizer
    answer = ""
    while model is not None:
        [(_, completion)] = yield from ask([solver_call(problem, router, model, FINAL_TASK, results, "final")], budget)
        if not completion.is_ok or not (text := extract_answer(completion.text)):
            outcome.failed_checks.append(f"final_{completion.error_type or 'empty'}")
            break
        answer, outcome.is_cut = text, completion.finish_reason == "length"
        if router.verify is None or not max_escalations:
            break
        check = yield from refused(problem, answer, router.verify, None, outcome, budget)
        if check is None:
            break
        outcome.failed_checks.append(check)
        model = router.roster.stronger(model) if outcome.n_escalations < max_escalations else None
        outcome.n_escalations += model is not None
    return answer or outcome.steps[-1].text or ""


def refused(
    problem: Problem, text: str, verify: OwnCheck, subtask: str | None, outcome: Outcome, budget: QuestionBudget
) -> Generator[Wave, list[Completion], str | None]:
    """`verify` where the user's verifier refuses a result; None where it takes it, or gave no verdict: then the outcome
    says why. `Stop` where its judge cannot be reached."""
    if verify.says is not None:
        verdict = verify.says(problem, text, subtask)
    else:
        [(_, completion)] = yield from ask([judge_call(problem, text, verify, "verify")], budget)
        verdict = verdict_of(completion, verify)
    if verdict.score is None:
        outcome.failed_checks.append("verify_error")
        outcome.check_error = verdict.error
    return "verify" if verdict.is_right is False else None


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
