"""Logged trajectories with the probabilities their allocations were drawn from, and whether they support an estimate.
Pure.

A trajectory's weight under a candidate allocator is the product over its subtasks of candidate probability / logged
probability. `r2/evaluation/offpolicy.py` turns weights into values; `storage/runs/offpolicy_logs.py` reads the logs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from r2.errors import SupportError
from r2.evaluation.outcomes import FloatArray

Distribution = Mapping[str, float]
"""Model -> probability; models left out have none."""


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """A subtask: the model the allocator chose, the probabilities it drew from, and the kind of work it is ("" for
    unknown)."""

    model: str
    propensities: Distribution
    skill: str = ""


@dataclass(frozen=True, slots=True)
class LoggedTrajectory:
    """A plan executed once. `is_correct` is 0 or 1; `cost_usd` is all of it, escalations and the router's calls
    included."""

    problem_id: str
    steps: tuple[LoggedStep, ...]
    is_correct: float
    cost_usd: float


Target = Callable[[LoggedTrajectory], Sequence[Distribution]]
"""The candidate allocator: for a logged plan, its distribution over models at each subtask. It must not look at
outcomes."""


@dataclass(frozen=True, slots=True)
class Support:
    """How much the logs can say about the target."""

    n: int
    n_problems: int
    ess: float
    """Effective sample size (sum w)^2 / sum w^2: so many trajectories drawn from the target itself would tell as much.
    """
    unsupported_mass: float
    """Mean probability that the target takes, in a trajectory, a choice the logging allocator never takes there."""
    unsupported_decisions: float
    """Share of subtasks at which the target may take such a choice."""
    mean_weight: float
    """Near 1 where the logged probabilities are the true ones."""
    max_weight: float
    clipped_share: float
    """Share of trajectories whose weight was cut; a cut weight biases the estimate towards the logs."""


def support_of(
    logs: Sequence[LoggedTrajectory], target: Target, max_weight: float | None = None
) -> tuple[Support, FloatArray]:
    """Support of the target in the logs, and each trajectory's weight, cut at `max_weight`."""
    weights, reachable = np.ones(len(logs)), np.ones(len(logs))
    n_steps = n_unsupported = 0
    for i, logged in enumerate(logs):
        distributions = target(logged)
        if len(distributions) != len(logged.steps):
            raise ValueError(
                f"{logged.problem_id}: {len(distributions)} distributions for {len(logged.steps)} subtasks"
            )
        for step, wanted in zip(logged.steps, distributions, strict=True):
            propensity = step.propensities.get(step.model, 0.0)
            if propensity <= 0:
                raise SupportError(
                    f"problem {logged.problem_id!r}: {step.model!r} was chosen with probability {propensity:g}; the "
                    "logged "
                    "probabilities are not those the choice was drawn from. Leave such trajectories out."
                )
            weights[i] *= wanted.get(step.model, 0.0) / propensity
            missing = sum(p for model, p in wanted.items() if step.propensities.get(model, 0.0) <= 0)
            reachable[i] *= max(0.0, 1 - missing)
            n_steps += 1
            n_unsupported += missing > 0
    total = float(weights.sum())
    support = Support(
        n=len(logs),
        n_problems=len({one.problem_id for one in logs}),
        ess=total**2 / float((weights**2).sum()) if total else 0.0,
        unsupported_mass=float(1 - reachable.mean()) if logs else 1.0,
        unsupported_decisions=n_unsupported / n_steps if n_steps else 0.0,
        mean_weight=float(weights.mean()) if logs else 0.0,
        max_weight=float(weights.max()) if logs else 0.0,
        clipped_share=0.0 if max_weight is None or not logs else float((weights > max_weight).mean()),
    )
    return support, weights if max_weight is None else weights.clip(max=max_weight)


def check_support(support: Support, min_ess: float, max_unsupported: float) -> None:
    """SupportError where the effective sample is too small, or too much of what the target does was never logged."""
    found = f"{support.n} logged trajectories, effective sample size {support.ess:.1f}"
    if support.unsupported_mass > max_unsupported:
        raise SupportError(
            f"off-policy estimate refused: {found}; {support.unsupported_mass:.1%} of the candidate's trajectories "
            "take a choice that "
            f"the logging allocator never takes (at most {max_unsupported:.1%} allowed). Log with an allocator that "
            "samples "
            "(temperature above 0, cost knob 0), or evaluate the candidate by running it."
        )
    if support.ess < min_ess:
        raise SupportError(
            f"off-policy estimate refused: {found}, at least {min_ess:g} needed; the logs hold too little of what "
            "the candidate does. "
            "Log more trajectories, take a candidate nearer to the logging allocator, or evaluate it by running it."
        )
