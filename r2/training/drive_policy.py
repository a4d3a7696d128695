"""A policy in the router's place, executed on a pool for held-out problems: what its plans and allocations are worth,
and what they cost.

`solve` itself answers, as it does for users; only the calls to the policy's entries are completed by the model in this
process. Those entries stand in the router under names of their own, at the price of the pool's cheapest solver, which
is what a small policy is served at.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from r2.answering.drive import drive, drive_all
from r2.answering.protocol import Router, Trajectory
from r2.answering.route import solve
from r2.call import Call, Completion, Purpose
from r2.errors import TrainingError, failure
from r2.pool.client.ports import CallJournal
from r2.pool.file.config import PoolConfig
from r2.pool.opening import open_client
from r2.problem import Problem
from r2.roster import ModelCard, PromptMode, Roster
from r2.training.sampling import LocalPolicy, Partner

DECOMPOSER_ENTRY = "policy-decomposer"
ALLOCATOR_ENTRY = "policy-allocator"
ENTRY: Mapping[Purpose, str] = {"decompose": DECOMPOSER_ENTRY, "allocate": ALLOCATOR_ENTRY}
"""Names of the policies' entries in the router."""


@dataclass(frozen=True, slots=True)
class HeldOutAnswers:
    """Held-out problems answered with a policy. Shares are of all problems, an unanswered one is wrong; USD are per
    question."""

    n_problems: int
    accuracy: float
    cost_usd: float
    router_cost_usd: float
    calls: float
    paid_usd: float
    """What all of it cost at the pool; the policy's own calls are not paid to anybody."""

    def metrics(self) -> dict[str, float]:
        """As points of a curve."""
        return {
            "executed_accuracy": self.accuracy,
            "executed_cost_usd": self.cost_usd,
            "executed_router_cost_usd": self.router_cost_usd,
            "executed_calls": self.calls,
            "executed_problems": self.n_problems,
        }


def router_with_policies(router: Router, purposes: Sequence[Purpose], mode: PromptMode) -> Router:
    """The router with policy entries for `decompose`, `allocate` or both; they are asked by name
    and never allocated."""
    cheapest = min(router.roster.solvers, key=lambda card: card.blended_price)
    cards = [ModelCard(ENTRY[p], "small", cheapest.price, prompt_mode=mode, is_solver=False) for p in purposes]
    return replace(
        router,
        roster=Roster([*router.roster.by_name.values(), *cards]),
        decomposer=ENTRY["decompose"] if "decompose" in purposes else router.decomposer,
        allocator=ENTRY["allocate"] if "allocate" in purposes else router.allocator,
    )


async def execute(
    problems: Sequence[Problem],
    policies: Mapping[Purpose, LocalPolicy],
    mode: PromptMode,
    pool: PoolConfig,
    router: Router,
    *,
    models_dir: Path,
    state_dir: Path,
    log_dir: Path,
    journal: CallJournal,
    already_paid_usd: float,
    max_in_flight: int = 32,
) -> HeldOutAnswers:
    """Answers every problem once. What `journal` has is not asked again; `already_paid_usd` is what it was paid for.
    PoolFileError or EndpointError before the first call; TrainingError where the pool failed for some of the
    problems."""
    policed = router_with_policies(router, list(policies), mode)
    async with open_client(pool, models_dir=models_dir, log_dir=log_dir, state_dir=state_dir) as client:
        partners = {ENTRY[purpose]: Partner(policy, policed.roster) for purpose, policy in policies.items()}
        finished: list[Trajectory] = []

        async def answer(problem: Problem) -> None:
            async def complete(call: Call) -> Completion:
                if call.model in partners:
                    return await partners[call.model].complete(call)
                return await client.complete(call, problem_id=problem.problem_id, journal=journal)

            finished.append(await drive(problem, solve(problem, policed), complete))

        await drive_all(problems, answer, slots=asyncio.Semaphore(max_in_flight), max_workers=max_in_flight)
        n_lost = sum(not failure(trajectory.outcome.error_type).counts for trajectory in finished)
        if n_lost:
            raise TrainingError(
                f"the pool failed for {n_lost} of {len(problems)} held-out problems, so that the policy cannot be "
                "measured. Run the same command again when it is up; what was trained and answered is kept."
            )
        return summed(finished, already_paid_usd + client.spent_usd)


def summed(trajectories: Sequence[Trajectory], paid_usd: float) -> HeldOutAnswers:
    """Means over the trajectories."""
    n = max(1, len(trajectories))
    return HeldOutAnswers(
        len(trajectories),
        sum(t.is_right for t in trajectories) / n,
        sum(t.cost_usd for t in trajectories) / n,
        sum(t.router_cost_usd for t in trajectories) / n,
        sum(len(t.pairs) for t in trajectories) / n,
        paid_usd,
    )
