"""Off-policy estimates against the truth, on the simulated pool, where an allocator's value can be computed.

    python benchmarks/bench_offpolicy.py [--logs 100] [--trajectories 600]

Problems with their gold plans; a model is right at a step with the probability its ability gives it
(r2/pool/simulated/mind.py), and a trajectory where all its steps are. The logging allocator draws with a preference for
small models; the candidate wants stronger ones where the step is hard. Prints for each estimator how many of the logs'
95 % intervals cover the candidate's true value, with bias and width.
"""

import argparse
import math
import time
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from statistics import fmean

import numpy as np

from r2.answering.prompts import QUESTION_MARK, RESULT_MARK, TASK_MARK
from r2.evaluation.offpolicy import (
    LoggedStep,
    LoggedTrajectory,
    OffPolicyValues,
    Outcome,
    Value,
    accuracy,
    cost_usd,
    estimate_value,
)
from r2.pool.simulated.mind import gold_steps, p_right, read_job
from r2.problems import arithmetic, scan

ABILITIES = {"sim-0.6b": 1.2, "sim-4b": 2.8, "sim-14b": 4.0, "sim-120b": 5.8}
"""Four of pools/simulated.toml's models."""
USD_PER_STEP = {"sim-0.6b": 1e-6, "sim-4b": 4e-6, "sim-14b": 1.5e-5, "sim-120b": 1.2e-4}
HARD = ("multiply", "scan_phrase")
ESTIMATORS = ("logged", "ips", "snips", "doubly_robust")


@dataclass(frozen=True, slots=True)
class KnownStep:
    """A gold step: the kind of work, and the probability that each model does it right."""

    skill: str
    p_right: dict[str, float]


KnownPlan = tuple[KnownStep, ...]


def known_plans(n: int, seed: int = 7) -> list[KnownPlan]:
    """Gold plans of generated arithmetic and SCAN problems, n of each less those that are answered directly."""
    plans = []
    for problem in [*arithmetic.generate(n, seed, min_operations=2, max_number=999), *scan.generate(n, seed)]:
        plan, results = gold_steps(problem.question)
        steps = []
        for subtask in plan.subtasks:
            shown = [RESULT_MARK.format(step=i + 1) + results[i] for i in subtask.needs]
            job = read_job("\n".join([QUESTION_MARK + problem.question, *shown, TASK_MARK + subtask.text]))
            assert job is not None
            steps.append(KnownStep(job.skill, {m: p_right(a, job.difficulty) for m, a in ABILITIES.items()}))
        if steps:
            plans.append(tuple(steps))
    return plans


@cache
def logging_allocator(skill: str) -> dict[str, float]:
    """Draws small models more often, somewhat less so at hard steps; never rules one out."""
    return _softmax([0.6, 0.4, 0.2, 0.0] if skill not in HARD else [0.5, 0.3, 0.1, -0.1])


@cache
def candidate_allocator(skill: str) -> dict[str, float]:
    """Draws small models for easy steps and stronger ones for hard steps."""
    return _softmax([1.2, 0.6, 0.0, -1.0] if skill not in HARD else [-1.0, 0.2, 1.0, 0.8])


def _softmax(scores: Sequence[float]) -> dict[str, float]:
    weights = [math.exp(score) for score in scores]
    return {model: weight / sum(weights) for model, weight in zip(ABILITIES, weights, strict=True)}


def target(logged: LoggedTrajectory) -> list[dict[str, float]]:
    return [candidate_allocator(step.skill) for step in logged.steps]


def true_values(plans: Sequence[KnownPlan]) -> dict[Outcome, float]:
    """The candidate's expected accuracy and cost over these plans, exactly."""
    rights, costs = [], []
    for plan in plans:
        chosen = [candidate_allocator(step.skill) for step in plan]
        rights.append(
            math.prod(sum(p * s.p_right[m] for m, p in wanted.items()) for s, wanted in zip(plan, chosen, strict=True))
        )
        costs.append(sum(p * USD_PER_STEP[m] for wanted in chosen for m, p in wanted.items()))
    return {accuracy: fmean(rights), cost_usd: fmean(costs)}


def simulate_log(plans: Sequence[KnownPlan], n: int, seed: int) -> list[LoggedTrajectory]:
    """n trajectories of the logging allocator over plans drawn with replacement; each counts as a
    problem of its own."""
    chance = np.random.default_rng(seed)
    models = list(ABILITIES)
    skills = {step.skill for plan in plans for step in plan}
    cumulated = {skill: list(accumulate(logging_allocator(skill).values())) for skill in skills}
    logs = []
    picked = chance.integers(0, len(plans), n).tolist()
    all_draws = chance.random((n, max(map(len, plans)), 2)).tolist()
    for i, (at, draws) in enumerate(zip(picked, all_draws, strict=True)):
        plan = plans[at]
        chosen = [
            models[min(bisect(cumulated[step.skill], draws[k][0]), len(models) - 1)] for k, step in enumerate(plan)
        ]
        is_right = all(draws[k][1] < step.p_right[chosen[k]] for k, step in enumerate(plan))
        steps = tuple(LoggedStep(m, logging_allocator(s.skill), s.skill) for m, s in zip(chosen, plan, strict=True))
        logs.append(LoggedTrajectory(f"p{i}", steps, float(is_right), sum(USD_PER_STEP[m] for m in chosen)))
    return logs


def coverage(
    plans: Sequence[KnownPlan], outcome: Outcome, n_logs: int, n_trajectories: int
) -> tuple[dict[str, int], list[OffPolicyValues]]:
    """Estimator -> how many of the logs' intervals cover the candidate's true value; and the estimates themselves."""
    truth = true_values(plans)[outcome]
    found = [
        estimate_value(simulate_log(plans, n_trajectories, seed), target, outcome, n_folds=3) for seed in range(n_logs)
    ]
    return {name: sum(_covers(getattr(one, name), truth) for one in found) for name in ESTIMATORS}, found


def _covers(value: Value, truth: float) -> bool:
    return value.interval is not None and truth in value.interval


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of off-policy intervals on the simulated pool.")
    parser.add_argument("--logs", type=int, default=100)
    parser.add_argument("--trajectories", type=int, default=600)
    given = parser.parse_args()
    plans = known_plans(500)
    for outcome in (accuracy, cost_usd):
        started = time.perf_counter()
        counts, found = coverage(plans, outcome, given.logs, given.trajectories)
        truth = true_values(plans)[outcome]
        print(
            f"{outcome.__name__}: truth {truth:.4g}, {given.logs} logs of {given.trajectories} trajectories, mean "
            "effective sample size "
            f"{fmean(one.support.ess for one in found):.0f}, {time.perf_counter() - started:.1f} s"
        )
        for name in ESTIMATORS:
            values = [getattr(one, name) for one in found]
            widths = [value.interval.high - value.interval.low for value in values if value.interval]
            print(
                f"  {name:14} covers {counts[name]:3} of {given.logs}   bias "
                f"{fmean(v.value for v in values) - truth:+.3g}   width {fmean(widths):.3g}"
            )


if __name__ == "__main__":
    main()
