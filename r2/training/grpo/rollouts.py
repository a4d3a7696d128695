"""Many rollouts at once: the pool and the frozen policies behind one event loop, for trainers that are not
asynchronous.

`open_rollouts` starts endpoints and client in a thread of its own. Equal calls in flight are made once, finished ones
are answered from the journal: G rollouts of one problem share most of their calls, and a step that is done again after
a kill pays nothing.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from r2.answering.drive import drive
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, Trajectory, concluded
from r2.answering.route import decompose
from r2.call import Call, Completion, Purpose
from r2.pool.client.client import PoolClient
from r2.pool.client.ports import CallJournal
from r2.pool.file.config import PoolConfig
from r2.pool.opening import open_client
from r2.problem import Problem
from r2.training.grpo.reward import PURPOSE_OF, ScoredTrajectory, reference_cost_usd, rollout, score
from r2.training.grpo.settings import Role
from r2.training.sampled import SampledText
from r2.training.sampling import Partner

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """One rollout to be made: the problem, what was sampled for it, the seed of the pool's own samples, and that of the
    order in which an allocator is shown the models (None: as served)."""

    problem: Problem
    texts: Mapping[Purpose, SampledText]
    seed: int = 0
    order_seed: int | None = None


class Rollouts:
    """Makes rollouts for a trainer. Its methods block; all work is done in the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client: PoolClient,
        journal: CallJournal,
        router: Router,
        *,
        reviewer: str | None,
        max_in_flight: int,
    ) -> None:
        self.router = router
        self.reviewer = reviewer
        self.partners: dict[str, Partner] = {}
        """Pool entry -> the policy in this process that answers for it."""
        self._loop = loop
        self._client = client
        self._journal = journal
        self._asked: dict[str, asyncio.Task[Completion]] = {}
        self._costs_ref: dict[str, float] = {}
        self._slots = asyncio.Semaphore(max_in_flight)

    @property
    def spent_usd(self) -> float:
        """Paid to the pool by this session; calls answered again from the journal are not in it."""
        return self._client.spent_usd

    def run(self, requests: Sequence[RolloutRequest], *, with_review: bool = True) -> list[Trajectory]:
        """One trajectory per request, in order."""
        return self._wait(self._all([self._rollout(request, with_review) for request in requests]))

    def score(self, requests: Sequence[RolloutRequest], role: Role) -> list[ScoredTrajectory]:
        """The same, with what each rollout earned. The text of `role` must be among the sampled ones."""
        return self._wait(self._all([self._scored(request, role) for request in requests]))

    def plan(self, problems: Sequence[Problem]) -> list[Trajectory]:
        """Each problem's plan by the router's decomposer, and nothing after it."""
        return self._wait(
            self._all([drive(p, concluded(_plan_alone, p, self.router), self._complete) for p in problems])
        )

    def reference_costs(self, problems: Sequence[Problem]) -> list[float | None]:
        """USD of each problem on the largest model alone; None where the pool failed."""
        return self._wait(self._all([self._reference(problem) for problem in problems]))

    async def _scored(self, request: RolloutRequest, role: Role) -> ScoredTrajectory:
        reference = await self._reference(request.problem)
        trajectory = await self._rollout(request, True)
        scored = score(trajectory, role, request.texts[PURPOSE_OF[role]], reference or 1.0)
        if reference is None:
            return replace(scored, terms=replace(scored.terms, right=None, cost=None, well_formed=None))
        return scored

    async def _rollout(self, request: RolloutRequest, with_review: bool) -> Trajectory:
        router = self.router
        if router.settings.temperature > 0:
            router = replace(router, settings=router.settings.model_copy(update={"seed": request.seed}))
        if request.order_seed is not None:
            router = replace(router, settings=router.settings.model_copy(update={"order_seed": request.order_seed}))
        async with self._slots:
            return await rollout(
                request.problem, request.texts, router, self._complete, reviewer=self.reviewer if with_review else None
            )

    async def _reference(self, problem: Problem) -> float | None:
        if problem.problem_id not in self._costs_ref:
            async with self._slots:
                cost = await reference_cost_usd(problem, self.router, self._complete)
            if cost is None:
                return None
            self._costs_ref[problem.problem_id] = cost
        return self._costs_ref[problem.problem_id]

    async def _complete(self, call: Call) -> Completion:
        if (partner := self.partners.get(call.model)) is not None:
            return await partner.complete(call)
        call = replace(call, subtask_index=None)
        key = call.request_sha()
        task = self._asked.get(key)
        if task is not None:
            return replace(await task, is_replayed=True)
        task = asyncio.create_task(self._client.complete(call, problem_id="", journal=self._journal))
        self._asked[key] = task
        try:
            return await task
        finally:
            del self._asked[key]

    async def _all(self, making: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in making]
        return [task.result() for task in tasks]

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def _plan_alone(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    outcome.plan = yield from decompose(problem, router, outcome, budget)
    return ""


@contextmanager
def open_rollouts(
    pool: PoolConfig,
    router: Router,
    journal: CallJournal,
    *,
    reviewer: str | None,
    max_in_flight: int,
    state_dir: Path,
    run_account: str,
    max_cost_usd: float | None,
    already_spent_usd: float,
    models_dir: Path,
    log_dir: Path,
) -> Iterator[Rollouts]:
    """Endpoints, client and their loop, in a thread that ends with the block. ConfigError or EndpointError before the
    first paid call.

    No entry stands in for one that is out: a rollout says what the models that were chosen are worth, or nothing.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="rollouts", daemon=True)
    thread.start()
    stack = AsyncExitStack()

    async def start() -> Rollouts:
        client = await stack.enter_async_context(
            open_client(
                pool,
                models_dir=models_dir,
                log_dir=log_dir,
                state_dir=state_dir,
                run_account=run_account,
                max_cost_usd=max_cost_usd,
                already_spent_usd=already_spent_usd,
                stands_in=False,
            )
        )
        return Rollouts(loop, client, journal, router, reviewer=reviewer, max_in_flight=max_in_flight)

    try:
        try:
            yield asyncio.run_coroutine_threadsafe(start(), loop).result()
        finally:
            asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
