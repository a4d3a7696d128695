"""What a scorer is trained on, collected from the simulated models in this process: as r2 evaluate with
`start:all`, `start_steps:all` and several decomposers on training questions would leave it in a lake, whence `r2 sft
--policy scorer` reads it (storage/runs/checked_trials.py, checked_steps.py)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from benchmarks.in_process import InProcess
from benchmarks.simulated_opponents import SECOND, router_of
from r2.answering.confidence import token_confidence
from r2.answering.open_unit import STEP_BY_STEP, entry_of
from r2.answering.protocol import Router, Trajectory
from r2.answering.scored_unit import question_kind
from r2.errors import PlanParseError
from r2.methods import method_named
from r2.plan import Plan, parse_plan
from r2.pool.file.config import PoolConfig
from r2.problem import Problem
from r2.problems.benchmark import checked_part, result_in
from r2.problems.result_keys import result_key
from r2.training.scorer.steps import AskedPlan, AskedStep, plan_trials, step_trials
from r2.training.scorer.trials import Trial, Trials, trials_from

PLANNERS: Final = ("sim-0.6b", "sim-1.7b", "sim-4b", "sim-8b", "sim-14b", "sim-32b")
EXECUTES: Final = "sim-70b"
"""Answers the steps of the plans of each of them."""
HEARD: Final = 1e-9
"""A floor of confidence that no result is below: log-probabilities are asked for, and nobody is asked again."""


def trials_of(pool: PoolConfig, models: InProcess, problems: Sequence[Problem]) -> Trials:
    """One pass of every solver over the questions and over the steps of their plans, and of every planner."""
    roster = pool.roster()
    steps: list[AskedStep] = []
    plans: list[AskedPlan] = []
    whole: list[Trial] = []
    heard = {"min_confidence": HEARD, "max_escalations": 1}
    for card in roster.solvers:
        router = router_of(pool, "start_steps", model=card.name, second_decomposer=SECOND, **heard)
        for one in _played(models, router, problems):
            steps += _steps(one)
            plans += _plans(one)
        whole += [
            _whole(one, card.name)
            for one in _played(models, router_of(pool, "start", model=card.name, **heard), problems)
        ]
    for name in PLANNERS:
        router = router_of(pool, "start_steps", model=EXECUTES, decomposer=name, second_decomposer="none")
        for one in _played(models, router, problems):
            plans += _plans(one)
    strongest = roster.strongest
    thinking = router_of(pool, "cot", model=strongest)
    whole += [_whole(one, strongest + STEP_BY_STEP) for one in _played(models, thinking, problems)]
    found = [*whole, *step_trials(steps), *plan_trials(plans)]
    entries = {trial.arm: roster[entry_of(trial.arm)] for trial in found}
    return trials_from(
        found,
        {arm: entry.weights for arm, entry in entries.items()},
        {arm: (entry.price.input, entry.price.output) for arm, entry in entries.items()},
    )


def _played(models: InProcess, router: Router, problems: Sequence[Problem]) -> Iterator[Trajectory]:
    run = method_named(router.settings.method).run
    for problem in problems:
        yield models.play(problem, run(problem, router))


def _whole(played: Trajectory, arm: str) -> Trial:
    problem, answer = played.problem, played.outcome.answer or ""
    _, said = played.pairs[-1]
    part = checked_part(problem, answer)
    return Trial(
        replace(problem, target=None, aliases=()),
        question_kind(problem),
        arm,
        played.is_right,
        result_key(problem.benchmark, answer if part is None else part),
        played.answering_cost_usd,
        said.usage.output_tokens,
        token_confidence(said, 0.4),
    )


def _steps(played: Trajectory) -> Iterator[AskedStep]:
    its = played.outcome
    if its.plan is None or its.plan.is_direct:
        return
    for call, said in played.pairs:
        if call.purpose != "solve" or call.subtask_index is None:
            continue
        step = its.steps[call.subtask_index]
        text = result_in(played.problem, said.text) or None
        yield AskedStep(
            played.problem,
            step.subtask.text,
            tuple(its.steps[need].text or "" for need in step.subtask.needs),
            call.model,
            text,
            text is not None and text == step.text,
            call.subtask_index == len(its.steps) - 1,
            played.is_right,
            said.cost_usd,
            said.usage.output_tokens,
            token_confidence(said, 0.4),
        )


def _plans(played: Trajectory) -> Iterator[AskedPlan]:
    for call, said in played.pairs:
        if call.purpose == "decompose":
            plan, usage = _plan_in(said.text), said.usage
            yield AskedPlan(
                played.problem,
                call.model,
                plan,
                played.outcome.plan,
                played.is_right,
                said.cost_usd,
                usage.output_tokens,
            )


def _plan_in(text: str) -> Plan | None:
    try:
        return parse_plan(text)
    except PlanParseError:
        return None
