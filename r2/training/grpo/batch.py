"""What one step of GRPO samples, and what tells how it went. Pure; no heavy package.

A step draws G texts for each of a few prompts; each draw is executed as a rollout and scored
(r2/training/grpo/reward.py).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from r2.problem import Problem
from r2.training.data import ChatMessage
from r2.training.grpo.reward import ScoredTrajectory, weighted
from r2.training.sampled import SampledText

ScoreBatch = Callable[[int, Sequence["Draw"]], Sequence[ScoredTrajectory]]
"""(step, draws) -> what each earned, in order."""


@dataclass(frozen=True, slots=True)
class TrainingPrompt:
    """One problem as the policy is asked about it. `place` is the problem's index among the round's problems;
    `order_seed` draws the order in which an allocator is shown the models, None: as served."""

    place: int
    problem: Problem
    messages: list[ChatMessage]
    order_seed: int | None = None


@dataclass(frozen=True, slots=True)
class Draw:
    """One sampled text. `rollout` counts the problem's rollouts in this round, from 0."""

    prompt: TrainingPrompt
    rollout: int
    sampled: SampledText


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout of the training as it is stored. `step` is 0-based."""

    step: int
    draw: Draw
    scored: ScoredTrajectory


def batch_metrics(
    scored: Sequence[ScoredTrajectory], group_size: int, weights: Mapping[str, float]
) -> dict[str, float]:
    """What tells how a batch of rollouts went: shares of valid texts, outages, groups that teach nothing, reviews, and
    of each model.

    `zero_variance_share` counts groups whose rewards are all equal; `top_model_share` the allocations to the most used
    model, and `model_entropy` their entropy in nats; `cost_usd` is a rollout's mean.
    """
    n = len(scored)
    rewards = [weighted(one.terms, weights) for one in scored]
    groups = [rewards[i : i + group_size] for i in range(0, n, group_size)]
    known = [[reward for reward in group if reward is not None] for group in groups]
    models = Counter(step.choice.model for one in scored for step in one.trajectory.outcome.steps)
    total = sum(models.values()) or 1
    shares = {name: count / total for name, count in models.items()}
    valid = [one.terms.well_formed for one in scored if one.terms.well_formed is not None]
    return {
        "pool/valid_share": fmean(valid) if valid else 0.0,
        "pool/outage_share": sum(reward is None for reward in rewards) / n,
        "pool/zero_variance_share": sum(not group or max(group) - min(group) < 1e-9 for group in known) / len(groups),
        "pool/review_share": sum(one.n_reviews > 0 for one in scored) / n,
        "pool/cost_usd": fmean(one.trajectory.cost_usd for one in scored),
        "pool/subtasks": fmean(len(one.trajectory.outcome.steps) for one in scored),
        "pool/top_model_share": max(shares.values(), default=0.0),
        "pool/model_entropy": -sum(share * math.log(share) for share in shares.values()),
        **{f"model_share/{name}": share for name, share in shares.items()},
    }


def alarms_of(metrics: Mapping[str, float]) -> list[str]:
    """What a step's metrics warn of (ours; thresholds from runs that collapsed): names, none if all is well."""
    found = []
    if metrics.get("pool/valid_share", 1.0) < 0.9:
        found.append("malformed: fewer than 90 % of the texts can be read")
    if metrics.get("pool/zero_variance_share", 0.0) > 0.8:
        found.append("nothing to learn: over 80 % of the groups have equal rewards")
    if metrics.get("entropy", 1.0) < 0.01 and metrics.get("pool/top_model_share", 0.0) > 0.95:
        found.append("collapse: one model for all, and no entropy left to leave it")
    if metrics.get("pool/outage_share", 0.0) > 0.1:
        found.append("outage: the pool failed for over 10 % of the rollouts")
    return found
