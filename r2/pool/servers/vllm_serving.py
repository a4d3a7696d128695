"""`r2 pool serve` for a pool file with `vllm:` entries: their servers stay until it is stopped, and every run of the
pool file finds them, also one that begins after a promotion (r2/pool/servers/vllm_shared.py)."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from r2.errors import EndpointError
from r2.pool.file.config import PoolConfig
from r2.pool.servers.child_server import Child
from r2.pool.servers.vllm import load_adapters, plan_server, started_server, targets_of
from r2.pool.servers.vllm_shared import Place

_LOOK_S = 0.5


async def serve_vllm(pool: PoolConfig, *, models_dir: Path, state_dir: Path, say: Callable[[str], None]) -> None:
    """Until SIGINT or SIGTERM; prints `listening <base URL>` for each server once it can be called.

    EndpointError if a server does not come up, is served already, or died more often than it is started again; else as
    `plan_server`.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log_dir = state_dir / "logs"
    async with AsyncExitStack() as stack:
        serving: dict[str, Child] = {}
        for target in targets_of(pool):
            planned = await asyncio.to_thread(plan_server, pool, target, models_dir, say)
            place = Place.of(state_dir, planned.start)
            stack.enter_context(place.held(planned.what))
            starting = asyncio.create_task(
                stack.enter_async_context(started_server(planned, place.adapters, log_dir, say))
            )
            await asyncio.wait({starting, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():  # asked to stop while it starts
                starting.cancel()
                with suppress(asyncio.CancelledError):
                    await starting
                return
            server = serving[planned.what] = await starting
            await load_adapters(server.address, planned, place.adapters)
            place.publish(server.address)
            print(f"{planned.what} listening {server.address}", flush=True)
        while not stop.is_set():
            for what, server in serving.items():
                if server.has_ended():
                    raise EndpointError(f"{what}: the server died, and was given up. Its log is in {log_dir}.")
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOK_S)
