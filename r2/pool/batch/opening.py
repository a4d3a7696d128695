"""The lanes of a run, ready to be asked: a batch endpoint for each chosen entry, and one for each that earlier sessions
left a job with."""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from r2.errors import PoolFileError
from r2.pool.batch.choosing import BatchChoice
from r2.pool.batch.jobs import LaneTimes
from r2.pool.batch.lanes import BatchEntry, Lanes
from r2.pool.batch.ports import JobStore
from r2.pool.batch.prices import asked_by_batch, batch_price
from r2.pool.batch.providers import open_provider
from r2.pool.client.client import PoolClient
from r2.pool.client.dialects import dialect_of
from r2.pool.file.config import PoolConfig

TIMES: Final = LaneTimes()


@asynccontextmanager
async def open_lanes(
    client: PoolClient,
    pool: PoolConfig,
    chosen: Mapping[str, BatchChoice],
    store: JobStore,
    run_id: str,
    *,
    deadline_s: float | None,
    say: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
) -> AsyncIterator[Lanes]:
    """Stands before `client` until the block ends. Jobs that earlier sessions left with entries that are not `chosen`
    are read, and nothing further is sent there. PoolFileError where such an entry has no batch endpoint any more."""
    left = {stored.job.entry for stored in store.open_jobs()} - set(chosen)
    entries: dict[str, BatchEntry] = {}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for name in (*chosen, *sorted(left)):
            entries[name] = _opened(pool, name, chosen.get(name), session, environ)
        lanes = Lanes(client, entries, store, run_id, deadline_s=deadline_s, times=TIMES, say=say)
        for name in left:
            lanes.lanes[name].why_closed = "no further calls of this entry go by batch in this session"
        async with lanes:
            yield lanes


def _opened(
    pool: PoolConfig,
    name: str,
    choice: BatchChoice | None,
    session: aiohttp.ClientSession,
    environ: Mapping[str, str],
) -> BatchEntry:
    table = pool.models.get(name)
    price = choice.price if choice is not None else None
    if table is not None:
        price = price or batch_price(pool, name)
        dialect = dialect_of(table.endpoint, table.dialect)
        provider = open_provider(
            dialect,
            table.endpoint.rstrip("/"),
            asked_by_batch(table, table.served_model or name),
            table.api_key_env,
            session=session,
            environ=environ,
        )
        if provider is not None and price is not None:
            return BatchEntry(provider, price, routes=choice is not None and choice.routes)
    raise PoolFileError(
        f"{pool.path}: {name} has no batch endpoint that we know"
        + ("" if choice is not None else ", and a job of this run is waiting there: give the entry back as it was")
    )
