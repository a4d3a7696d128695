"""Executing a plan with given models, and remembering what was asked: what candidate plans and allocation search are
built on.

A generator of waves like `r2/answering/route.py`, without allocator, checks and escalation: what is measured is the
plan with just these models. Nothing here asks a request twice for one problem (`Memory`), so that an execution that
differs from an earlier one in one subtask pays for that subtask and for what its new result changes. Where a model is
stochastic the plan is executed several times (`execute_repeatedly`), so that one lucky success is no label.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from statistics import fmean

from r2.answering.judging import ask_check
from r2.answering.programs import runs_of, with_results
from r2.answering.prompts import DIRECT_STEP, FINAL_TASK
from r2.answering.protocol import Router, Stop, Wave
from r2.answering.route import solver_call, strongest_of
from r2.answering.wanted import composes
from r2.call import Call, Completion
from r2.errors import failure
from r2.plan import Plan, Subtask
from r2.problem import Problem
from r2.problems.benchmark import judge, result_in
from r2.problems.own_check import Verdict
from r2.settings import Labelling

STOCHASTIC_EXECUTIONS = 3
"""Times that a plan with a stochastic model is executed, unless the settings say otherwise (ours)."""


@dataclass(slots=True)
class Execution:
    """One run of a plan. `calls` and `completions` are those of the steps, in plan order; `answer` is None where a step
    got no result."""

    models: tuple[str, ...]
    calls: list[Call] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    answer: str | None = None
    is_correct: bool = False
    verdict: Verdict | None = None
    """Of the user's own check, where there is one."""
    error_type: str | None = None
    cost_usd: float = 0.0
    total_tokens: int = 0
    output_tokens: int = 0
    is_stochastic: bool = False
    """Some call of it might be answered otherwise when it is made again."""
    n_executions: int = 1
    n_right: int = 0
    """Of so many executions; `cost_usd` and the tokens are their means."""


class Memory:
    """Completions of one problem's calls, by request."""

    def __init__(self) -> None:
        self._known: dict[str, Completion] = {}

    def ask(self, wave: Wave) -> Generator[Wave, list[Completion], list[Completion]]:
        """Asks what is not known yet. `Stop`, and the problem is deferred, where a completion failed in a way that says
        nothing about the problem (column `defers` of `CALL_FAILURES`)."""
        keys = [_request(call) for call in wave]
        new = {key: call for key, call in zip(keys, wave, strict=True) if key not in self._known}
        if new:
            completions = yield list(new.values())
            for key, completion in zip(new, completions, strict=True):
                if failure(completion.error_type).defers:
                    raise Stop(completion.error_type or "", completion.error_message or "")
                self._known[key] = completion
        return [self._known[key] for key in keys]


def _request(call: Call) -> str:
    """Identity of a request's answer: log-probabilities or not, it is the same text."""
    return replace(call, top_logprobs=0).request_sha()


Executing = Generator[Wave, list[Completion], Execution]


def execute(
    problem: Problem,
    plan: Plan,
    models: Sequence[str],
    router: Router,
    *,
    with_logprobs: bool = False,
    sample: int = 0,
) -> Executing:
    """Runs the plan with `models[i]` on subtask i (one model for a direct plan) and judges the answer. `sample` draws
    anew what stochastic models answer; the others are asked the same."""
    subtasks = plan.subtasks or (Subtask(DIRECT_STEP),)
    run = Execution(tuple(models))

    def drawn(call: Call) -> Call:
        if call.temperature <= 0 and router.roster[call.model].takes_temperature:
            return call
        run.is_stochastic = True
        return replace(call, sample_index=sample)

    asked: dict[int, Call] = {}
    done: dict[int, Completion] = {}
    texts: dict[int, str] = {}
    programs: list[Completion] = []
    for wave in plan.waves() or [[0]]:
        calls = []
        for index in wave:
            results = {i + 1: texts[i] for i in subtasks[index].needs}
            task = None if plan.is_direct else subtasks[index].text
            call = solver_call(problem, router, models[index], task, results, "solve")
            listed = 1 if with_logprobs and router.roster[models[index]].has_logprobs else 0
            asked[index] = drawn(replace(call, subtask_index=index, top_logprobs=listed))
            calls.append(asked[index])
        completions, ran = yield from _run_programs(calls, (yield calls))
        programs += ran
        for index, completion in zip(wave, completions, strict=True):
            done[index] = completion
            texts[index] = result_in(problem, completion.text)
            if not texts[index] and run.error_type is None:
                run.error_type = completion.error_type or "empty"
        if run.error_type is not None:
            break
    run.calls = [asked[i] for i in sorted(done)]
    run.completions = [done[i] for i in sorted(done)]
    spent = [*run.completions, *programs]
    if run.error_type is None:
        run.answer = texts[len(subtasks) - 1]
        if not plan.is_direct and composes(problem, router):
            results = {i + 1: text for i, text in sorted(texts.items())}
            name = router.finalizer or strongest_of(router, models)
            calls = [drawn(solver_call(problem, router, name, FINAL_TASK, results, "final"))]
            [final], ran = yield from _run_programs(calls, (yield calls))
            spent += [final, *ran]
            run.answer = result_in(problem, final.text) or run.answer
        if router.check is None:
            run.is_correct = judge(problem, run.answer) is True
        else:
            run.verdict, _ = yield from ask_check(problem, run.answer, router.check)
            run.is_correct = run.verdict.is_right is True
    run.n_right = int(run.is_correct)
    run.cost_usd = sum(completion.worth_usd for completion in spent)
    run.output_tokens = sum(completion.usage.output_tokens for completion in spent)
    run.total_tokens = run.output_tokens + sum(completion.usage.input_tokens for completion in spent)
    return run


def execute_repeatedly(
    problem: Problem, plan: Plan, models: Sequence[str], router: Router, *, with_logprobs: bool = False
) -> Executing:
    """The plan's execution with these models; where one of them is stochastic, several of them, until it is decided
    whether `min_right_share` of them are right.

    What is returned is the first one that ended as the whole did, with the means of cost and tokens.
    """
    settings = router.settings.labelling or Labelling()
    first = yield from execute(problem, plan, models, router, with_logprobs=with_logprobs)
    if not first.is_stochastic:
        return first
    n = STOCHASTIC_EXECUTIONS if settings.n_executions is None else settings.n_executions
    needed = ceil(settings.min_right_share * n - 1e-9)
    runs = [first]
    while (n_right := sum(run.is_correct for run in runs)) < needed <= n_right + n - len(runs):
        runs.append((yield from execute(problem, plan, models, router, sample=len(runs))))
    is_right = n_right >= needed
    shown = next(run for run in runs if run.is_correct == is_right)
    return replace(
        shown,
        calls=first.calls,
        completions=first.completions,
        cost_usd=fmean(run.cost_usd for run in runs),
        total_tokens=round(fmean(run.total_tokens for run in runs)),
        output_tokens=round(fmean(run.output_tokens for run in runs)),
        is_stochastic=True,
        n_executions=len(runs),
        n_right=n_right,
    )


def remembered(executing: Executing, memory: Memory) -> Executing:
    """The same execution, with what is known already answered from memory."""
    [run] = yield from side_by_side([executing], memory)
    return run


def side_by_side(executing: Sequence[Executing], memory: Memory) -> Generator[Wave, list[Completion], list[Execution]]:
    """Several executions at once: the waves they are at are asked as one."""
    runs: dict[int, Execution] = {}
    waves: dict[int, Wave] = {i: next(one) for i, one in enumerate(executing)}
    while waves:
        completions = iter((yield from memory.ask([call for wave in waves.values() for call in wave])))
        answered = {i: [next(completions) for _ in wave] for i, wave in waves.items()}
        waves = {}
        for i, theirs in answered.items():
            try:
                waves[i] = executing[i].send(theirs)
            except StopIteration as end:
                runs[i] = end.value
    return [runs[i] for i in range(len(executing))]


def _run_programs(
    calls: Sequence[Call], completions: Sequence[Completion]
) -> Generator[Wave, list[Completion], tuple[list[Completion], list[Completion]]]:
    """The replies with what came of the programs among them, and the runs of these."""
    answered = list(zip(calls, completions, strict=True))
    runs = runs_of(answered)
    wave = [call for call in runs if call is not None]
    ran = (yield wave) if wave else []
    return with_results(answered, runs, ran), ran
