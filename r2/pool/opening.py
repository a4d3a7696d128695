"""A pool ready to be asked: its models started where they are ours, and one client over all of them.

The one way in: for runs, evaluations, labelling, trainings and calibration alike.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from r2.pool.client.client import PoolClient, to_stderr
from r2.pool.client.state import state_dir as state_dir_of_host
from r2.pool.coordination.address import coordination_url
from r2.pool.file.config import PoolConfig
from r2.pool.servers.endpoints import open_endpoints

if TYPE_CHECKING:
    from r2.pool.coordination.database import Database
    from r2.pool.limits.remote import RemoteLimits


@asynccontextmanager
async def open_client(
    pool: PoolConfig,
    *,
    models_dir: Path,
    log_dir: Path,
    state_dir: Path | None = None,
    database: "Database | None" = None,
    run_account: str | None = None,
    max_cost_usd: float | None = None,
    tags: Collection[str] = (),
    already_spent_usd: float = 0.0,
    has_fallbacks: bool = True,
    stands_in: bool = True,
) -> AsyncIterator[PoolClient]:
    """The client; models that were started end with the block. `log_dir` takes their logs.

    `run_account`, `max_cost_usd`, `tags`, `already_spent_usd`, `has_fallbacks` and `stands_in`: see `PoolClient`.
    `state_dir` None: the host's. Limits and budgets hold over all hosts where a PostgreSQL for that is named
    (`$R2_COORDINATION_URL`); `database` is that one where it is open already. PoolFileError,
    CoordinationError or EndpointError before the first paid call.
    """
    async with AsyncExitStack() as stack:
        limits = None
        if database is not None or coordination_url() is not None:
            limits = await _remote_limits(stack, database)
        addresses = await stack.enter_async_context(
            open_endpoints(pool, models_dir=models_dir, log_dir=log_dir, state_dir=state_dir)
        )
        client = PoolClient(
            pool,
            addresses,
            state_dir=state_dir or state_dir_of_host(),
            limits=limits,
            run_account=run_account,
            max_cost_usd=max_cost_usd,
            tags=tags,
            already_spent_usd=already_spent_usd,
            has_fallbacks=has_fallbacks,
            stands_in=stands_in,
        )
        yield await stack.enter_async_context(client)


async def _remote_limits(stack: AsyncExitStack, database: "Database | None") -> "RemoteLimits":
    # Here and not above: on one host nobody need wait for the driver.
    from r2.pool.coordination.database import Database
    from r2.pool.limits.remote import RemoteLimits

    if database is None:
        url = coordination_url()
        assert url is not None, "asked by our caller"
        database = await Database.open(url, to_stderr)
        stack.push_async_callback(database.close)
    return await RemoteLimits.open(database, to_stderr)
