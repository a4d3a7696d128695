"""A pool ready to be asked: its models started where they are ours, and one client over all of them.

The one way in: for runs, evaluations, labelling, trainings and calibration alike.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from r2.pool.client.client import PoolClient
from r2.pool.client.state import state_dir as state_dir_of_host
from r2.pool.file.config import PoolConfig
from r2.pool.servers.endpoints import open_endpoints


@asynccontextmanager
async def open_client(
    pool: PoolConfig,
    *,
    models_dir: Path,
    log_dir: Path,
    state_dir: Path | None = None,
    run_account: str | None = None,
    max_cost_usd: float | None = None,
    tags: Collection[str] = (),
    already_spent_usd: float = 0.0,
    has_fallbacks: bool = True,
    stands_in: bool = True,
) -> AsyncIterator[PoolClient]:
    """The client; models that were started end with the block. `log_dir` takes their logs.

    `run_account`, `max_cost_usd`, `tags`, `already_spent_usd`, `has_fallbacks` and `stands_in`: see `PoolClient`.
    `state_dir` None: the host's. PoolFileError or EndpointError before the first paid call.
    """
    async with (
        open_endpoints(pool, models_dir=models_dir, log_dir=log_dir, state_dir=state_dir) as addresses,
        PoolClient(
            pool,
            addresses,
            state_dir=state_dir or state_dir_of_host(),
            run_account=run_account,
            max_cost_usd=max_cost_usd,
            tags=tags,
            already_spent_usd=already_spent_usd,
            has_fallbacks=has_fallbacks,
            stands_in=stands_in,
        ) as client,
    ):
        yield client
