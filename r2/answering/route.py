"""Answering one problem with the router: decompose, allocate, solve in waves, check, escalate. A generator without I/O.

`solve` yields waves (lists of `Call`s that may run at the same time) and receives their `Completion`s in order; whoever
drives it decides what a call is. Beyond the paper (ours): direct plans, parallel waves, prompts that show only the
needed results, the cheap check with escalation, hard budgets, answers in full where no benchmark says what a result
looks like. Left out: the paper's procedural review, which is for training.
"""

import random
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace

from r2.answering.allocation import Choice, allocation_schema, allocation_tokens, choose
from r2.answering.asked import answering_entry, conversation, is_conversation, own_system, speaks_of_json, with_own
from r2.answering.confidence import token_confidence, with_logprobs
from r2.answering.judging import judge_call, verdict_of
from r2.answering.plan_check import plan_defect
from r2.answering.prompts import (
    DIRECT_STEP,
    FINAL_TASK,
    MODEL_LETTERS,
    allocate_messages,
    decompose_messages,
    free_messages,
    json_form,
    solve_messages,
)
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, Solving, Step, Stop, Wave, ask, concluded
from r2.answering.wanted import SCHEMA, Again, composes, has_own_limit, is_whole, schema_of
from r2.call import Call, Completion, Message, Purpose
from r2.errors import AllocationParseError, PlanParseError
from r2.plan import DIRECT, Plan, Subtask, parse_plan
from r2.problem import Problem
from r2.problems.benchmark import benchmark_of, failed_check, is_free, result_in
from r2.problems.checks import extract_answer
from r2.problems.own_check import OwnCheck
from r2.problems.schema import AnswerSchema
from r2.roster import ModelCard, PromptMode


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
    plan, failed = yield from plan_by(router.decomposer, problem, router, budget, may_escalate=has_second)
    if router.second_decomposer is not None:
        failed = failed or plan_defect(problem, plan, is_last_step_answer=not composes(problem, router))
    if failed is None:
        return plan
    outcome.failed_checks.append(failed)
    if router.second_decomposer is None:
        return plan
    second, failed = yield from plan_by(router.second_decomposer, problem, router, budget)
    if failed is None:
        return second
    outcome.failed_checks.append(failed)
    return plan


def plan_by(
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
    n_wanted = router.settings.max_answer_tokens if is_free(problem) else benchmark_of(problem).answer_tokens
    holding = tuple(card for card in solvers if card.can_hold(said, n_wanted))
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
    last = answer_step(problem, plan, router)

    def call_of(index: int, is_doubled: bool) -> Call:
        call = step_call(problem, plan, index, router, outcome.steps, is_doubled=is_doubled)
        return with_logprobs(call, router.roster) if limit else call

    for wave in plan.waves() or [[0]]:
        steps = {index: outcome.steps[index] for index in wave}
        yield from _settle(problem, steps, call_of, last, router, outcome, budget, max_escalations=max_escalations)


def answer_step(problem: Problem, plan: Plan, router: Router) -> int | None:
    """Index of the step whose result is the answer; None where a final call writes it."""
    if plan.is_direct:
        return 0
    return None if composes(problem, router) else len(plan.subtasks) - 1


def _settle(
    problem: Problem,
    steps: Mapping[int, Step],
    call_of: Callable[[int, bool], Call],
    answer_index: int | None,
    router: Router,
    outcome: Outcome,
    budget: QuestionBudget,
    *,
    max_escalations: int,
) -> Generator[Wave, list[Completion], None]:
    """Asks for these steps side by side until each has a result that may stand. `Stop` for one that gets none.

    A result that is cut, or does not match its schema, is first asked for again of the same entry.
    """
    limit = router.settings.min_confidence if max_escalations else 0.0
    verify = router.verify if max_escalations else None
    tried = {index: Again() for index in steps}
    open_calls = {index: call_of(index, False) for index in steps}
    while open_calls:
        answered = yield from ask(list(open_calls.values()), budget, may_escalate=True)
        asked, open_calls = list(open_calls), {}
        for index, (call, completion) in zip(asked, answered, strict=True):
            step = steps[index]
            schema = schema_of(problem, router) if index == answer_index else None
            step.n_asks += 1
            step.model = completion.model or call.model
            step.confidence = token_confidence(completion, router.settings.confidence_quantile)
            check = accept(problem, step, completion, schema=schema, purpose=call.purpose)
            if check is None and _is_unsure(completion, limit, router):
                check = "unsure"
            if check is None and verify is not None and (index == answer_index or verify.takes_step):
                subtask = None if index == answer_index else step.subtask.text
                check = yield from refused(problem, step.text or "", verify, subtask, outcome, budget)
            if check is None:
                continue
            outcome.failed_checks.append(check)
            again = tried[index].call(problem, check, call, completion, schema, router, budget)
            if again is not None:
                open_calls[index] = replace(again, sample_index=step.n_asks)
                continue
            stronger = router.roster.stronger(call.model)
            if stronger is not None and outcome.n_escalations < max_escalations:
                before, step.model = step.model, stronger
                further = call_of(index, tried[index].is_doubled)
                if step.text is None or not is_whole(problem, router) or budget.fits(further):
                    outcome.n_escalations += 1
                    open_calls[index] = further
                    continue
                step.model = before  # the question's cap has no room: what there is stands
            if step.text is None:
                raise Stop(
                    step.error_type or check, why_none(step, index, check, completion, is_answer=schema is not None)
                )


def why_none(step: Step, index: int, check: str, completion: Completion, *, is_answer: bool) -> str:
    """Why a step has no result, in words."""
    if completion.error_message:
        return completion.error_message
    where = "the answer" if is_answer else f"step {index + 1}"
    return f"{where}: {check}{f' ({step.misfit})' if step.misfit else ''} and nobody stronger to ask"


def _is_unsure(completion: Completion, limit: float, router: Router) -> bool:
    """False where the completion came without log-probabilities: then its form alone is checked."""
    confidence = token_confidence(completion, router.settings.confidence_quantile) if limit else None
    return confidence is not None and confidence < limit


def accept(
    problem: Problem,
    step: Step,
    completion: Completion,
    *,
    schema: AnswerSchema | None = None,
    purpose: Purpose = "solve",
) -> str | None:
    """Stores the result on the step and names the failed check, if any. A doubtful text stays: it
    may be all there is. One that does not match `schema`, where the answer must, does not."""
    if not completion.is_ok:
        step.error_type = completion.error_type
        return f"{purpose}_{completion.error_type}"
    step.error_type = None
    whole, is_cut = schema is not None, completion.finish_reason == "length"
    text = result_in(problem, completion.text, is_whole=whole)
    check = failed_check(problem, text, completion.finish_reason, is_whole=whole)
    value = None
    if schema is not None and text:
        found = schema.find(text, is_cut=is_cut)
        text, value, step.misfit = found.text or "", found.value, found.error or ""
        if found.error is None:
            check, is_cut = None, False  # nothing but white space was cut off
        elif not is_cut:
            check = SCHEMA
    if is_cut and text and has_own_limit(problem):
        check = None
    if text:
        step.text, step.value, step.is_cut = text, value, is_cut
    elif check is not None and step.text is None:
        step.error_type = check
    return check


def step_call(
    problem: Problem,
    plan: Plan,
    index: int,
    router: Router,
    steps: list[Step],
    *,
    mode: PromptMode | None = None,
    is_doubled: bool = False,
) -> Call:
    """The call for one step. `mode` None: the entry's own. `is_doubled`: at twice the limit, where the row has no
    benchmark."""
    step = steps[index]
    results = {i + 1: steps[i].text or "" for i in step.subtask.needs}
    task = None if plan.is_direct else step.subtask.text
    is_answer = index == answer_step(problem, plan, router)
    call = solver_call(
        problem, router, step.model, task, results, "solve", mode=mode, is_answer=is_answer, is_doubled=is_doubled
    )
    return replace(call, subtask_index=index, sample_index=step.n_asks)


def finalize(
    problem: Problem, plan: Plan, router: Router, outcome: Outcome, budget: QuestionBudget, *, max_escalations: int = 0
) -> Generator[Wave, list[Completion], str]:
    """The last step's result, or the finalizer's reading of all of them (paper: a final call). Direct plans need
    neither. A final answer that the user's verifier refuses is asked again of the next stronger model (ours).

    An answer that is wanted in full is always written by a final call, unless the user says otherwise: by the
    finalizer, or where the pool names none by the strongest model of the steps (ours).
    """
    if plan.is_direct or not composes(problem, router):
        return outcome.steps[-1].text or ""
    results = {i + 1: step.text or "" for i, step in enumerate(outcome.steps)}
    if is_whole(problem, router):
        return (yield from _compose(problem, results, router, outcome, budget, max_escalations=max_escalations))
    model = router.finalizer
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


def _compose(
    problem: Problem,
    results: Mapping[int, str],
    router: Router,
    outcome: Outcome,
    budget: QuestionBudget,
    *,
    max_escalations: int,
) -> Generator[Wave, list[Completion], str]:
    """The whole answer, written from the results, checked and escalated as a step's. `Stop` where there is none: the
    last step's result answers another question."""
    model = router.finalizer or strongest_of(router, [step.model for step in outcome.steps])
    final = Step(Subtask(FINAL_TASK), Choice(model, {}), model)

    def call_of(_: int, is_doubled: bool) -> Call:
        call = solver_call(problem, router, final.model, FINAL_TASK, results, "final", is_doubled=is_doubled)
        return replace(call, sample_index=final.n_asks)

    yield from _settle(problem, {0: final}, call_of, 0, router, outcome, budget, max_escalations=max_escalations)
    outcome.is_cut, outcome.value = final.is_cut, final.value
    return final.text or ""


def strongest_of(router: Router, models: Sequence[str]) -> str:
    """The strongest solver among these; the pool's middle one where none is a solver."""
    order = [card.name for card in router.roster.solvers]
    return max((name for name in models if name in order), key=order.index, default=router.roster.middle)


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
    problem: Problem,
    router: Router,
    model: str,
    task: str | None,
    results: Mapping[int, str],
    purpose: Purpose,
    *,
    mode: PromptMode | None = None,
    is_answer: bool | None = None,
    is_doubled: bool = False,
) -> Call:
    """The call that asks `model` for one subtask (`task`), or with None for the answer to the question itself.

    `mode` None: the entry's own. `is_answer` None: a whole question and a final call are answers, and no subtask is.
    `is_doubled` asks for twice the limit, where the answer is wanted in full. A row's own conversation goes to the
    model as it is, and its own settings are in the call (`asked.py`).
    """
    is_answer = task in (None, FINAL_TASK) if is_answer is None else is_answer
    if is_answer:
        model = answering_entry(model, problem, router.roster)
    card = router.roster[model]
    mode = mode or card.prompt_mode
    examples = card.examples_for(mode)
    benchmark = benchmark_of(problem)
    schema = schema_of(problem, router) if is_answer else None
    messages: tuple[Message, ...]
    is_own = is_conversation(problem) and task in (None, FINAL_TASK)
    if is_own or is_free(problem) or schema is not None:
        is_any_object = problem.asked is not None and problem.asked.json_object
        is_guided = schema is not None and card.guided
        form = "" if schema is None else json_form(None if is_guided or is_any_object else schema.text)
        if is_own:
            is_said = is_guided and (not is_any_object or speaks_of_json(problem))
            messages = conversation(problem, task, results, system=router.system, form="" if is_said else form)
        else:
            system = own_system(problem) or router.system
            messages = free_messages(
                problem, task, results, mode, wording=benchmark.wording, system=system, form=form, examples=examples
            )
        limit = card.answer_limit(messages, router.settings.max_answer_tokens * (2 if is_doubled else 1))
    else:
        system = own_system(problem) or router.system
        messages = solve_messages(problem, task, results, mode, benchmark.wording, system, examples)
        # A bare entry was trained to end by itself, and may work its result out first; a program needs room.
        limit = (
            benchmark.answer_tokens if mode == "direct" else max(router.settings.cot_tokens, benchmark.answer_tokens)
        )
    call = Call(
        model,
        messages,
        purpose,
        limit,
        temperature=router.settings.temperature,
        seed=router.settings.seed or None,
        json_schema=schema.text if schema is not None and card.guided else None,
    )
    return with_own(call, problem, router.roster, is_answer=is_answer)
