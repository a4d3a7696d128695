"""A run's open resources in this process: endpoints, the pool client, the lake. One per run and process, shared by its
shards.

Prefect tasks take paths only (a live client cannot be a task's parameter), so they find the session here by run folder.
A task that runs in a process of its own (a Dask or Ray task runner) opens one for itself.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from r2.answering.protocol import Router
from r2.call import Call, Completion
from r2.methods.router import make_router
from r2.pool.client.gauges import ModelGauge
from r2.pool.client.ports import CallJournal
from r2.pool.collector import collect_seldom
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.opening import open_client
from storage.lake.lake import Lake
from storage.runs.journal import Journal
from storage.runs.plan import RunPlan, ShardPlan, read_plan
from storage.runs.reopened import Reopened, reopened
from tasks.answering.progress import Progress, progress_so_far
from tasks.blocking import Checks, to_end


class CallClient(Protocol):
    """What a session asks: a `PoolClient`, or what stands before one (`tasks/evaluation/shared_calls.py`)."""

    @property
    def spent_usd(self) -> float:
        """Paid by this process."""

    async def complete(
        self,
        call: Call,
        *,
        problem_id: str,
        rollout: int = ...,
        journal: CallJournal = ...,
        replay_failures: bool = ...,
    ) -> Completion:
        """The settled outcome of a call."""

    def gauges(self) -> list[ModelGauge]:
        """Each pool entry now."""

    def stop(self) -> None:
        """No new call is sent from now on."""


@dataclass(slots=True)
class RunSession:
    """What a shard needs to be answered."""

    plan: RunPlan
    pool: PoolConfig
    router: Router
    client: CallClient
    lake: Lake
    slots: asyncio.Semaphore
    progress: Progress
    checks: Checks
    reopened: Mapping[str, Reopened] = field(default_factory=dict)
    """problem_id -> what was paid before for a question that had failed and is asked again."""

    def open_shards(self) -> Iterator[ShardPlan]:
        """Shards with rows that no session has settled."""
        settled: dict[int, int] = {}
        for name, entry in self.lake.units(self.plan.run_id).items():
            if name[:5].isdigit():
                settled[int(name[:5])] = (
                    settled.get(int(name[:5]), 0) + entry.meta["n_answered"] + entry.meta["n_failed"]
                )
        return (shard for shard in self.plan.shards if settled.get(shard.index, 0) < shard.n_rows)

    def stop(self, reason: str) -> None:
        """Ends the run cleanly: no new problem is taken, no new call is sent, calls in flight finish and are kept.
        Ctrl-C does not wait for answers that are being checked: the next session checks them."""
        if self.progress.stop_reason is None:
            self.progress.stop_reason = reason
        self.client.stop()
        if reason == "interrupted":
            self.checks.stop()


_open_sessions: dict[Path, RunSession] = {}


@asynccontextmanager
async def open_session(plan: RunPlan) -> AsyncIterator[RunSession]:
    """Opens endpoints and client for a run. ConfigError or EndpointError before the first paid call."""
    collect_seldom()
    settings = plan.settings
    pool = load_pool(settings.pool)
    pool.check_keys()
    router = make_router(pool, settings)
    lake = Lake(Path(settings.lake))
    progress = progress_so_far(plan)
    progress.unsettled_cost_usd = await to_end(_journaled_usd, plan, lake)
    again = await to_end(reopened, plan, lake)
    progress.unsettled_cost_usd += sum(one.cost_usd for one in again.values())
    already_spent_usd = progress.settled_cost_usd + progress.unsettled_cost_usd
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            open_client(
                pool,
                models_dir=Path(settings.models_dir),
                log_dir=plan.run_dir / "logs",
                run_account=f"run:{plan.run_id}",
                max_cost_usd=settings.max_cost_usd,
                already_spent_usd=already_spent_usd,
            )
        )
        checks = stack.enter_context(closing(Checks()))
        slots = asyncio.Semaphore(settings.max_in_flight)
        session = RunSession(plan, pool, router, client, lake, slots, progress, checks, again)
        _open_sessions[plan.run_dir] = session
        stack.callback(_open_sessions.pop, plan.run_dir)
        yield session
        progress.wall_s = time.time() - progress.started_at
        progress.session_cost_usd = client.spent_usd
        progress.unsettled_cost_usd = already_spent_usd + client.spent_usd - progress.settled_cost_usd


def _journaled_usd(plan: RunPlan, lake: Lake) -> float:
    """What earlier sessions paid for problems they did not settle. A journal left beside a finished
    shard is removed."""
    units = lake.units(plan.run_id)
    paid_usd = 0.0
    for shard in plan.shards:
        path = plan.journal_file(shard.index)
        if not path.exists():
            continue
        entries = [entry for name, entry in units.items() if name.startswith(f"{shard.index:05d}-")]
        if sum(entry.meta["n_answered"] + entry.meta["n_failed"] for entry in entries) == shard.n_rows:
            path.unlink()
            continue
        with Journal.open(path) as journal:
            paid_usd += sum(Completion.from_bytes(record).cost_usd for _, record in journal.records())
    return paid_usd


@asynccontextmanager
async def session_of(run_dir: Path) -> AsyncIterator[RunSession]:
    """The session this process has open for a run; one of its own where it has none."""
    if (session := _open_sessions.get(run_dir)) is not None:
        yield session
    else:
        async with open_session(read_plan(run_dir)) as session:
            yield session
