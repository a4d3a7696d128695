"""Addresses for a pool's entries: URLs as they are, servers started for `local:` and `simulated:` entries and ended with the block."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from r2.pool.config import PoolConfig, endpoint_kind
from r2.pool.local import open_local
from r2.pool.ports import Address
from r2.pool.simulated import start_simulated


@asynccontextmanager
async def open_endpoints(pool: PoolConfig, *, models_dir: Path, log_dir: Path) -> AsyncIterator[dict[str, Address]]:
    """Entry name -> where it answers. Entries with the same weights share one server; `recording:` entries need no address.

    PoolFileError (weights not fetched, memory too small) or EndpointError (a server does not come up), before any call.
    """
    async with AsyncExitStack() as stack:
        local: dict[str, str] = {}
        simulated: str | None = None
        addresses: dict[str, Address] = {}
        for name, model in pool.models.items():
            kind, target = endpoint_kind(model.endpoint), model.endpoint.partition(":")[2]
            if kind == "http":
                addresses[name] = Address(model.endpoint.rstrip("/"), model.served_model or name)
            elif kind == "local":
                if target not in local:
                    context = max(m.context_tokens for m in pool.models.values() if m.endpoint == model.endpoint)
                    local[target] = await stack.enter_async_context(
                        open_local(target, models_dir=models_dir, log_dir=log_dir, context_tokens=context)
                    )
                addresses[name] = Address(local[target], target)
            elif kind == "simulated":
                if simulated is None:
                    simulated = await stack.enter_async_context(start_simulated(pool))
                addresses[name] = Address(simulated, target)
        yield addresses
