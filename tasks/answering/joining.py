"""A run joined by this process: shards claimed one after the other until none is open, and the run's end.

Every step goes by what is stored (the manifest, the claims, a stop), never by what this process remembers of the run:
machines come and go at any moment. Needs no Prefect; `flows/support/joined_run.py` has it with its surroundings.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from r2.errors import ClaimLostError, RunLockedError
from r2.pool.coordination.address import named_url
from r2.pool.coordination.database import Database
from r2.pool.file.config import PoolConfig
from storage.joined.adopted import mark_joined
from storage.joined.claims import Claim, Claims
from storage.joined.mark import JoinedMark
from storage.runs.plan import RunPlan
from tasks.answering.answer_rows import answer_rows
from tasks.answering.code_version import code_version
from tasks.answering.progress import Counts, settled_rows
from tasks.answering.session import RunSession
from tasks.blocking import to_end
from tasks.cause import cause

POLL_S: Final = 3.0
"""How often a worker without a shard looks for one whose owner is gone."""
FIRST_S: Final = 10.0
"""What another process may take that makes the run's mark."""
REFRESH_S: Final = 5.0
"""How often the display learns what other machines have settled."""


@asynccontextmanager
async def coordination(say: Callable[[str], None]) -> AsyncIterator[Database]:
    """The PostgreSQL that machines share. ConfigError where none is named, CoordinationError where it is not there."""
    database = await Database.open(named_url(), say)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def run_joined(plan: RunPlan, pool: PoolConfig, say: Callable[[str], None]) -> AsyncIterator[Claims]:
    """This process as a worker of the run. ConfigError where no PostgreSQL is named, CoordinationError where it is not
    there; and see `Claims.enter`."""
    async with coordination(say) as database:
        mark = await _marked(plan, database)
        claims = Claims(database, mark.key)
        settled = settled_rows(plan)
        await claims.enter(
            pool_path=str(pool.path.resolve()),
            has_day_cap=_has_day_cap(pool),
            code=await to_end(code_version),
            n_shards=len(plan.shards),
            open_shards={shard.index for shard in plan.shards if settled[shard.index] < shard.n_rows},
        )
        keeper = asyncio.create_task(claims.keep())
        try:
            yield claims
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            with suppress(TimeoutError):  # an away server frees the claims by itself
                async with asyncio.timeout(5.0):
                    await claims.leave()


async def _marked(plan: RunPlan, database: Database) -> JoinedMark:
    """The run's mark. Of two processes of a host that join at once, one waits for the other to make it."""
    end = asyncio.get_running_loop().time() + FIRST_S
    while True:
        try:
            return await mark_joined(plan, database)
        except RunLockedError:
            if asyncio.get_running_loop().time() > end:
                raise
            await asyncio.sleep(0.2)


async def answer_claimed(session: RunSession, claims: Claims) -> None:
    """Claims and answers shards, a few at a time, until none is open that this worker has not given up, or the session
    is stopped. A shard that ends with deferred questions is given up: another worker may have more luck."""
    given_up: set[int] = set()
    stopped = asyncio.Event()

    def stop(who: str) -> None:
        if session.progress.stop_reason is None:
            sys.stderr.write(f"r2: the run was stopped by {who}: calls in flight finish and are kept.\n")
        session.stop("interrupted")
        stopped.set()

    async def claim_on() -> None:
        while session.progress.stop_reason is None:
            claim = await claims.take(given_up)
            if claim is None:
                seen = await claims.look(given_up)
                if seen.n_busy == 0:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await stopped.wait()
                continue
            if not await _answer_one(session, claims, claim):
                given_up.add(claim.shard)

    claims.stopped = stop
    refresher = asyncio.create_task(_refresh(session))
    try:
        async with asyncio.TaskGroup() as lines:
            for _ in range(session.plan.settings.shards_in_flight):
                lines.create_task(claim_on())
    finally:
        refresher.cancel()
        await asyncio.gather(refresher, return_exceptions=True)
    await refresh(session)


async def _answer_one(session: RunSession, claims: Claims, claim: Claim) -> bool:
    """False where questions of it were deferred. A shard that another machine took over meanwhile is its."""
    session.lake.store.look_again()  # its owner before may have committed it
    task = claim.task = asyncio.create_task(answer_rows(session, claim.shard))
    try:
        counts = await task
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        us = asyncio.current_task()
        if not claim.is_lost or (us is not None and us.cancelling()):
            raise
    except Exception as error:
        if not isinstance(cause(error), ClaimLostError):
            raise
    else:
        return counts["n_deferred"] == 0
    sys.stderr.write(f"r2: shard {claim.shard} was taken over by another machine; what it needs is there.\n")
    return True


async def refresh(session: RunSession) -> None:
    """What other machines have settled since, from the manifest."""
    session.lake.store.look_again()
    found = await to_end(session.lake.units, session.plan.run_id)
    for name, entry in found.items():
        session.progress.settle(name, Counts.of_note(entry.meta), is_ours=False)


async def _refresh(session: RunSession) -> None:
    while True:
        await asyncio.sleep(REFRESH_S)
        await refresh(session)


def _has_day_cap(pool: PoolConfig) -> bool:
    budget = pool.tables.budget
    return budget.max_usd_per_day is not None or bool(budget.max_usd_per_day_by_tag)
