"""Labelling one problem: candidate plans from a teacher, scored and executed, then the cheapest right allocation of the
best one.

A generator of waves with the signature of every method (paper: dataset flow; docs/method.md, sections 2.1 and 3.1), so
it runs on the same driver, journal, budgets and lake. Its answer is that of the target allocation; a problem without
one is failed, with the reason.
"""

from collections.abc import Generator, Sequence

from r2.answering.prompts import decompose_messages, judge_messages, teach_messages
from r2.answering.protocol import Outcome, Router, Solving, Stop, Trial, Wave
from r2.call import Call, Completion
from r2.errors import PlanParseError
from r2.labelling.execution import Execution, Memory, execute_repeatedly, side_by_side
from r2.labelling.plan_scores import lexical_coherence, mean_coherence, read_judgement, score_plans
from r2.labelling.search import cheapest_right, probe, search_allocation
from r2.plan import Plan, format_plan, parse_plan
from r2.problem import Problem
from r2.problems.benchmark import benchmark_of
from r2.settings import Labelling

DROPPED = {
    "label_no_target": "the problem has no answer to check against",
    "label_no_verdict": "your own check gave no verdict on any candidate's answer",
    "label_no_plan": "no text of the teacher held a plan",
    "label_no_right_plan": "no candidate's execution was right, nor the best-scored plan's with stronger models",
    "label_no_right_allocation": "wrong with the strongest models too",
}
"""Why a problem gives no label: `error_type` -> what it means."""

LEXICAL = "lexical"


def label(problem: Problem, router: Router) -> Solving:
    """One labelled problem. Whatever the models write, it ends with an Outcome whose `trials` are
    all that was tried."""
    outcome = Outcome()
    try:
        yield from _label(problem, router, router.settings.labelling or Labelling(), outcome)
    except Stop as stop:
        outcome.answer = None
        outcome.error_type, outcome.error_message = stop.error_type, str(stop)
    return outcome


def _label(
    problem: Problem, router: Router, settings: Labelling, outcome: Outcome
) -> Generator[Wave, list[Completion], None]:
    if problem.target is None and (router.check is None or router.check.needs_gold):
        raise _dropped("label_no_target")
    memory = Memory()
    plans = yield from _candidates(problem, router, settings, memory, outcome)
    if not plans:
        raise _dropped("label_no_plan")
    m_eval = settings.m_eval or router.roster.middle
    runs = yield from side_by_side(
        [execute_repeatedly(problem, plan, [m_eval] * _n_steps(plan), router, with_logprobs=True) for _, plan in plans],
        memory,
    )
    coherence = yield from _coherence(problem, [plan for _, plan in plans], router, settings, memory)
    _score([trial for trial, _ in plans], runs, coherence, settings)
    right = [i for i, run in enumerate(runs) if run.is_correct]
    outcome.check_error = next(
        (run.verdict.error for run in runs if run.verdict is not None and run.verdict.error), None
    )
    is_judged = outcome.check_error is None or any(run.verdict.score is not None for run in runs if run.verdict)
    if not right and not is_judged:
        raise _dropped("label_no_verdict")
    # What M_eval cannot do is searched upward on the plan that scores best: the plan may be right and M_eval too weak.
    best = min(right or range(len(plans)), key=lambda i: (plans[i][0].score or 0.0, runs[i].total_tokens))
    target, plan = plans[best]
    confidences, source = yield from probe(problem, runs[best], router, settings, memory)
    confidences += (0.0,) * (_n_steps(plan) - len(confidences))  # subtasks that M_eval did not come to
    tried = yield from search_allocation(problem, plan, confidences, router, settings, memory, runs[best])
    chosen = cheapest_right(tried)
    for index, run in enumerate(tried):
        trial = _trial(index, plan, run)
        trial.confidences, trial.confidence_source = confidences, source
        trial.is_target = index == chosen
        outcome.trials.append(trial)
    if chosen is None and not right:
        raise _dropped("label_no_right_plan")
    target.is_target = True
    outcome.plan = plan
    if chosen is None:
        raise _dropped("label_no_right_allocation")
    outcome.answer, outcome.verdict = tried[chosen].answer, tried[chosen].verdict


def _candidates(
    problem: Problem, router: Router, settings: Labelling, memory: Memory, outcome: Outcome
) -> Generator[Wave, list[Completion], list[tuple[Trial, Plan]]]:
    """The teacher's distinct plans. Every text it wrote becomes a trial; texts without a plan, and repeats, are not
    executed. A teacher of the prompt mode `bare` is a trained decomposer, and is asked as it was trained."""
    first_seed = 1 + router.settings.seed * settings.n_candidates
    teacher = settings.teacher or router.roster.strongest
    is_trained = router.roster[teacher].prompt_mode == "bare"
    example = benchmark_of(problem).plan_example
    messages = decompose_messages(problem, "bare") if is_trained else teach_messages(problem, example)
    calls = [
        Call(
            teacher,
            messages,
            "teach",
            router.settings.plan_tokens,
            temperature=settings.temperature,
            seed=first_seed,
            sample_index=k,
        )
        for k in range(settings.n_candidates)
    ]
    plans: list[tuple[Trial, Plan]] = []
    seen: set[str] = set()
    for index, completion in enumerate((yield from memory.ask(calls))):
        trial = Trial("plan", index, completion.text, error_type=completion.error_type)
        outcome.trials.append(trial)
        if not completion.is_ok:
            continue
        try:
            plan = parse_plan(completion.text)
        except PlanParseError:
            trial.error_type = "plan_parse"
            continue
        trial.plan, trial.n_subtasks = format_plan(plan), len(plan.subtasks)
        normalised = " ".join(trial.plan.casefold().split())
        if normalised in seen:
            trial.error_type = "duplicate"
            continue
        seen.add(normalised)
        plans.append((trial, plan))
    return plans


def _coherence(
    problem: Problem, plans: Sequence[Plan], router: Router, settings: Labelling, memory: Memory
) -> Generator[Wave, list[Completion], list[tuple[float, str]]]:
    """Mean Coe of each plan, and who judged. A plan for which the judge gave no number somewhere is judged by its
    words."""
    judged: list[list[float | None]] = [[None] * (len(plan.subtasks) - 1) for plan in plans]
    if settings.judge != LEXICAL:
        pairs = [(i, at) for i, plan in enumerate(plans) for at in range(1, len(plan.subtasks))]
        calls = [Call(settings.judge, judge_messages(problem, plans[i], at), "judge", 8) for i, at in pairs]
        completions = yield from memory.ask(calls)
        for (i, at), completion in zip(pairs, completions, strict=True):
            judged[i][at - 1] = read_judgement(completion.text) if completion.is_ok else None
    scores = []
    for plan, coes in zip(plans, judged, strict=True):
        given = [coe for coe in coes if coe is not None]
        if settings.judge != LEXICAL and len(given) == len(coes):
            scores.append((mean_coherence(given), settings.judge))
        else:
            scores.append((mean_coherence(lexical_coherence(problem.question, plan)), LEXICAL))
    return scores


def _score(
    trials: Sequence[Trial], runs: Sequence[Execution], coherence: Sequence[tuple[float, str]], settings: Labelling
) -> None:
    scores = score_plans(
        [max(1, trial.n_subtasks) for trial in trials],
        [run.total_tokens for run in runs],
        [coe for coe, _ in coherence],
        settings.weights,
    )
    for trial, run, (_, judge), scored in zip(trials, runs, coherence, scores, strict=True):
        trial.conciseness, trial.practicality = scored.conciseness, scored.practicality
        trial.coherence, trial.score, trial.judge = scored.coherence, scored.score, judge
        _note(trial, run)


def _trial(index: int, plan: Plan, run: Execution) -> Trial:
    trial = Trial("allocation", index, format_plan(plan), len(plan.subtasks))
    _note(trial, run)
    return trial


def _note(trial: Trial, run: Execution) -> None:
    trial.models, trial.answer, trial.is_correct = run.models, run.answer, run.is_correct
    trial.cost_usd, trial.output_tokens, trial.error_type = run.cost_usd, run.output_tokens, run.error_type
    trial.n_executions, trial.n_right = run.n_executions, run.n_right


def _n_steps(plan: Plan) -> int:
    return max(1, len(plan.subtasks))


def _dropped(error_type: str) -> Stop:
    return Stop(error_type, DROPPED[error_type])
