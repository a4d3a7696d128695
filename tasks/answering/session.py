"""A run's open resources in this process: endpoints, the pool client, the lake. One per run and process, shared by its
shards.

Prefect tasks take paths only (a live client cannot be a task's parameter), so they find the session here by run folder.
A task that runs in a process of its own opens one for itself.
"""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from r2.answering.admission import Admission
from r2.answering.protocol import Router
from r2.call import Call, Completion
from r2.errors import ConfigError
from r2.methods.estimate import guessed_usd
from r2.methods.router import make_router
from r2.pool.batch.choosing import batch_choices
from r2.pool.batch.lanes import Lanes
from r2.pool.client.client import PoolClient, to_stderr
from r2.pool.client.gauges import ModelGauge
from r2.pool.client.ports import CallJournal
from r2.pool.collector import collect_seldom
from r2.pool.file.config import PoolConfig
from r2.pool.file.data_policy import pool_of
from r2.pool.file.price_check import dated_warnings
from r2.pool.opening import open_client
from r2.telemetry.spans import tracing
from storage.joined.call_rows import CallRows
from storage.joined.call_rows import paid_usd as paid_in_rows
from storage.joined.claims import Claims
from storage.joined.mark import refuse_joined
from storage.lake.lake import Lake
from storage.runs.job_files import JobFiles
from storage.runs.journal import Journal
from storage.runs.journal_mark import mark_of, remove_journal
from storage.runs.paid import paid_usd
from storage.runs.plan import RunPlan, ShardPlan, read_plan
from storage.runs.reopened import Reopened, reopened
from tasks.answering.journals import JoinedJournals, Journals, LocalJournals
from tasks.answering.paid_before import PaidBefore, paid_before
from tasks.answering.progress import Progress, progress_so_far, settled_rows
from tasks.answering.simulated import is_simulated
from tasks.blocking import Checks, to_end

MOST_OPEN: Final = 20_000
"""Questions that are worked on at once where calls wait for batch jobs: some 12 KB each."""
MOST_OPEN_CAPPED: Final = 2_000
"""The same under a money cap, which is asked before each question."""


class CallClient(Protocol):
    """What a session asks: a `PoolClient`, or what stands before one (`tasks/evaluation/shared_calls.py`)."""

    @property
    def spent_usd(self) -> float:
        """Paid by this process."""

    def unspent_usd(self) -> float:
        """What its money caps still leave; inf without one."""

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

    def give_up(self) -> None:
        """Calls in flight are not waited for."""


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
    admission: Admission
    """Shared by all runs that pay from one budget."""
    reopened: Mapping[str, Reopened] = field(default_factory=dict)
    """problem_id -> what was paid before for a question that had failed and is asked again."""
    paid_before: PaidBefore | None = None
    """What earlier runs paid for; None: nothing, or the client looks itself."""
    lanes: Lanes | None = None
    """The same as `client` where some entry goes by batch."""
    max_open: int = 64
    """Questions that are worked on at once, over all shards."""
    is_simulated: bool = False
    """Some entry of the pool is a simulated model."""
    begun: dict[int, asyncio.Task[dict[str, int]]] = field(default_factory=dict)
    """Shard -> its answering, where that began ahead of the flow."""
    journals: Journals = field(init=False)
    """Where calls are kept."""

    def __post_init__(self) -> None:
        self.journals = LocalJournals(self.plan)

    def open_shards(self) -> Iterator[ShardPlan]:
        """Shards with rows that no session has settled."""
        settled = settled_rows(self.plan)
        return (shard for shard in self.plan.shards if settled[shard.index] < shard.n_rows)

    def left(self) -> list[int]:
        """The shards to see to, in order: those that have begun, whatever they settled since, and the open ones."""
        return sorted({*self.begun, *(shard.index for shard in self.open_shards())})

    def stop(self, reason: str) -> None:
        """Ends the run cleanly: no new problem is taken, calls in flight finish and are kept.

        At a budget's end the problems under way get what is left; else no new call is sent. Ctrl-C does not wait for
        answers that are being checked: the next session checks them.
        """
        if self.progress.stop_reason is None:
            self.progress.stop_reason = reason
        if reason != "budget":
            self.client.stop()
        if reason == "interrupted":
            self.checks.stop()

    def guessed_usd(self, *, is_free: bool) -> float:
        """What one question may need, before any has been answered; `is_free`: one without a benchmark. 0 where nothing
        is capped: then nobody asks."""
        if self.client.unspent_usd() == math.inf:
            return 0.0
        prices = {name: card.price for name, card in self.router.roster.by_name.items()}
        return guessed_usd(self.router, prices, is_free=is_free)

    def give_up(self) -> None:
        """After `stop`: calls in flight are not waited for. Their questions are deferred."""
        self.client.give_up()


_open_sessions: dict[Path, RunSession] = {}


@asynccontextmanager
async def open_session(plan: RunPlan, claims: Claims | None = None) -> AsyncIterator[RunSession]:
    """Opens endpoints and client for a run; with `claims` beside other machines that have joined it. ConfigError or
    EndpointError before the first paid call."""
    if claims is None:
        refuse_joined(plan.run_dir, plan.run_id)
    collect_seldom()
    settings = plan.settings
    pool = pool_of(settings)
    pool.check_keys()
    router = make_router(pool, settings)
    lake = Lake(settings.lake)
    progress = progress_so_far(plan)
    again = await to_end(reopened, plan, lake)
    if claims is None:
        left = await to_end(_left_over, plan)
    else:
        left = _LeftOver(await paid_in_rows(claims.database, claims.run))
    progress.unsettled_cost_usd = progress.lost_cost_usd + left.paid_usd
    progress.unsettled_cost_usd += sum(one.cost_usd for one in again.values())
    progress.unsettled_cost_usd += JobFiles(plan.jobs_dir).unused_usd()
    progress.warnings += [said for said in (router.cannot_run, router.scorer_misfit) if said]
    progress.warnings += [*left.warnings, *dated_warnings(pool, datetime.now(UTC).date())]
    before, said = await to_end(paid_before, plan, pool)
    progress.warnings += said
    already_spent_usd = progress.settled_cost_usd + progress.unsettled_cost_usd
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(tracing(plan.run_id, settings.reasoning.method, os.environ, to_stderr))
        client = await stack.enter_async_context(
            open_client(
                pool,
                models_dir=Path(settings.models_dir),
                log_dir=plan.run_dir / "logs",
                database=None if claims is None else claims.database,
                run_account=f"run:{plan.run_id if claims is None else claims.run}",
                max_cost_usd=settings.max_cost_usd,
                tags=tuple(f"{name}={value}" for name, value in settings.tags.items()),
                already_spent_usd=already_spent_usd,
            )
        )
        if before is not None:
            before.not_sent = client.not_sent
        lanes = await _lanes(stack, plan, pool, client, progress)
        asked: CallClient = lanes or client
        checks = stack.enter_context(closing(Checks()))
        max_open = settings.max_in_flight
        if lanes is not None:
            max_open = MOST_OPEN if client.unspent_usd() == math.inf else MOST_OPEN_CAPPED
        admission = Admission(asked.unspent_usd)
        slots = asyncio.Semaphore(max_open)
        session = RunSession(plan, pool, router, asked, lake, slots, progress, checks, admission, again, before)
        session.lanes, session.max_open = lanes, max_open
        session.is_simulated = is_simulated(pool)
        if claims is not None:
            session.journals = JoinedJournals(claims, await stack.enter_async_context(CallRows(claims)))
        _open_sessions[plan.run_dir] = session
        stack.callback(_open_sessions.pop, plan.run_dir)
        yield session
        if lanes is not None:
            await lanes.close()
        progress.wall_s = time.time() - progress.started_at
        progress.session_cost_usd = asked.spent_usd
        progress.unsettled_cost_usd = already_spent_usd + asked.spent_usd - progress.settled_cost_usd
        if claims is not None:  # what all machines have paid for, and no unit has
            in_rows_usd = await paid_in_rows(claims.database, claims.run)
            progress.unsettled_cost_usd = in_rows_usd + progress.lost_cost_usd + progress.dropped_cost_usd


async def _lanes(
    stack: AsyncExitStack, plan: RunPlan, pool: PoolConfig, client: PoolClient, progress: Progress
) -> Lanes | None:
    """The batch lanes of a run; None where no entry goes by batch, and no job of an earlier session waits."""
    chosen, stay = batch_choices(pool, plan.settings.lane, plan.settings.deadline_s)
    if chosen and client.shares_limits:
        raise ConfigError(
            f"{', '.join(chosen)}: asked by batch, whose jobs one machine waits for, within limits that several share. "
            "Choose --lane live, or unset R2_COORDINATION_URL to send by batch from this machine alone."
        )
    progress.warnings += stay
    store = stack.enter_context(JobFiles(plan.jobs_dir))
    if not chosen and not store.open_jobs():
        return None
    # Here and not above: runs without a batch lane need not wait for it.
    from r2.pool.batch.opening import open_lanes

    def say(line: str) -> None:
        to_stderr(line)
        progress.said.append(line)

    return await stack.enter_async_context(
        open_lanes(
            client,
            pool,
            chosen,
            store,
            plan.run_id,
            deadline_s=plan.settings.deadline_s,
            say=say,
        )
    )


@dataclass(slots=True)
class _LeftOver:
    """What earlier sessions left on disk: paid for problems that they did not settle; what there is to say about
    it."""

    paid_usd: float = 0.0
    warnings: list[str] = field(default_factory=list)


def _left_over(plan: RunPlan) -> _LeftOver:
    """Read before anything is paid. A journal left beside a finished shard is removed. LakeError, with its name, for a
    file of an open shard that is not as it was planned, and for a damaged journal."""
    settled = settled_rows(plan)
    left = _LeftOver()
    for shard in plan.shards:
        path = plan.journal_file(shard.index)
        if settled[shard.index] == shard.n_rows:
            remove_journal(path)
            continue
        plan.check_shard(shard.index)
        if not path.exists() and not mark_of(path).exists():
            continue
        with Journal.open(path) as journal:
            left.paid_usd += paid_usd(journal)
            if journal.n_missing_at_open:
                left.warnings.append(journal.loss())
    return left


@asynccontextmanager
async def session_of(run_dir: Path) -> AsyncIterator[RunSession]:
    """The session this process has open for a run; one of its own where it has none."""
    if (session := _open_sessions.get(run_dir)) is not None:
        yield session
    else:
        async with open_session(read_plan(run_dir)) as session:
            yield session
