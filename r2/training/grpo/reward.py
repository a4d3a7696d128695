"""The reward: a sampled plan or allocation executed by the router's real code, and the terms it earns. Needs no
trainer.

`rollout` drives `r2.answering.route.solve`: the calls whose texts were sampled are answered from them, at the policy's
price and with its token counts, all others by the pool. So the reward charges the router's own calls as answering does.
Terms (docs/method.md, section 5; lambda 0 is the paper's):

    R = right - lambda * cost_usd / cost_ref + 0.1 * well_formed

`cost_ref` is what the same problem costs on the largest model alone, thinking step by step. Pure but for the calls that
`complete` makes.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from r2.answering.drive import Complete, drive
from r2.answering.judging import judged
from r2.answering.protocol import Router, Solving, Trajectory
from r2.answering.route import solve
from r2.call import Call, Completion, Purpose
from r2.errors import failure
from r2.methods.cot import chain_of_thought
from r2.problem import Problem
from r2.training.grpo.review import reviewed
from r2.training.grpo.settings import Role
from r2.training.sampled import SampledText, completion_of

PURPOSE_OF: Final[Mapping[Role, Purpose]] = {"decomposer": "decompose", "allocator": "allocate"}
UNREAD: Final[Mapping[Role, str]] = {"decomposer": "plan_parse", "allocator": "allocation_parse"}
"""The failed check by which a trajectory says that a fallback stood in for the role's text."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one rollout. All None where the pool failed: the rollout leaves its group's baseline and has no
    advantage."""

    right: float | None
    cost: float | None
    well_formed: float | None

    def value(self, term: str) -> float | None:
        value: float | None = getattr(self, term)
        return value


@dataclass(frozen=True, slots=True)
class ScoredTrajectory:
    """A rollout with what it earned."""

    trajectory: Trajectory
    terms: Terms
    n_reviews: int = 0


def weighted(terms: Terms, weights: Mapping[str, float]) -> float | None:
    """The reward: the weighted sum of the terms, None where they are."""
    values = [(weight, terms.value(term)) for term, weight in weights.items()]
    if any(value is None for _, value in values):
        return None
    return sum(weight * value for weight, value in values if value is not None)


async def rollout(
    problem: Problem,
    texts: Mapping[Purpose, SampledText],
    router: Router,
    complete: Complete,
    *,
    reviewer: str | None = None,
) -> Trajectory:
    """The problem answered with the sampled texts. `reviewer` names the pool entry of procedural review; None: no
    review."""

    async def answered(call: Call) -> Completion:
        sampled = texts.get(call.purpose)
        return await complete(call) if sampled is None else completion_of(sampled, call, router.roster)

    solving: Solving = solve(problem, router)
    if reviewer is not None:
        solving = reviewed(problem, solving, router, reviewer)
    solving = judged(problem, solving, router.check)
    return await drive(problem, solving, answered, asyncio.to_thread if router.blocks else None)


def score(trajectory: Trajectory, role: Role, sampled: SampledText, cost_ref_usd: float) -> ScoredTrajectory:
    """The terms of a rollout in which `role`'s text was `sampled`.

    `right`: 1 for a right answer, 0 for a wrong one or none; with a check of the user's own the number it gives.
    `cost`: the trajectory's USD, router and review included, a judge's calls not, over `cost_ref_usd`. `well_formed`: 1
    if the text was read as a plan or an allocation and was not cut. A rollout that the own check gave no verdict on
    teaches nothing.
    """
    n_reviews = sum(call.purpose == "review" for call, _ in trajectory.pairs)
    verdict = trajectory.outcome.verdict
    is_unjudged = verdict is not None and verdict.score is None
    if is_unjudged or met_outage(trajectory):
        return ScoredTrajectory(trajectory, Terms(None, None, None), n_reviews)
    is_read = UNREAD[role] not in trajectory.outcome.failed_checks and not sampled.is_cut
    terms = Terms(trajectory.right, trajectory.answering_cost_usd / cost_ref_usd, float(is_read))
    return ScoredTrajectory(trajectory, terms, n_reviews)


def met_outage(trajectory: Trajectory) -> bool:
    """True if the pool failed for the trajectory as a whole or for any of its calls, though another call may have made
    up for it: it says nothing about the policies."""
    ends = [trajectory.outcome.error_type, *(completion.error_type for _, completion in trajectory.pairs)]
    return not all(failure(end).counts for end in ends)


def all_read(trajectory: Trajectory) -> bool:
    """True if no fallback stood in for a plan or an allocation that could not be read. A text that was cut but could be
    read counts as read."""
    return not set(UNREAD.values()) & set(trajectory.outcome.failed_checks)


async def reference_cost_usd(problem: Problem, router: Router, complete: Complete) -> float | None:
    """USD of the problem on the largest model alone, thinking step by step (`cost_ref` in docs/method.md, section 5);
    None where the pool failed."""
    trajectory = await drive(problem, chain_of_thought(problem, router, router.roster.strongest), complete)
    if not failure(trajectory.outcome.error_type).counts:
        return None
    return trajectory.cost_usd or None


def rollout_seed(seed: int, number: int, step: int, problem_id: str, index: int) -> int:
    """Seed of the pool's samples for one rollout, positive and below 2**31: the same place in a training draws the same
    again."""
    key = f"{seed}:{number}:{step}:{problem_id}:{index}".encode("utf-8", "surrogatepass")
    return 1 + int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) % (2**31 - 2)
