"""A model server in a process of its own: started, waited for until it is healthy, ended with the block that opened it.

The child prints `listening <address>` once it can be called and answers `/health`; it calls `die_with_parent` first
thing. Used for the embedded llama.cpp servers (`local.py`) and for trained policies (`r2/training/server.py`).
"""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from r2.errors import EndpointError
from r2.lifeline import end, spawn

START_TIMEOUT_S = 180.0


@asynccontextmanager
async def child_server(args: Sequence[str], what: str, log_dir: Path) -> AsyncIterator[str]:
    """The address the child printed. `what` names the endpoint in errors and its log file. EndpointError if it does not
    come up."""
    log_dir.mkdir(parents=True, exist_ok=True)
    log = log_dir / f"{re.sub(r'[^A-Za-z0-9._@-]+', '_', what.partition(':')[2])}.log"
    read_end, write_end = os.pipe()
    server = spawn(args, stdout=write_end, log=log)
    os.close(write_end)
    try:
        address = await asyncio.wait_for(asyncio.to_thread(_first_address, read_end), START_TIMEOUT_S)
        if address is None:
            raise EndpointError(f"{what}: the server ended at start. See {log}.")
        await _until_healthy(address.removesuffix("/v1"), what, log)
        yield address
    except TimeoutError:
        raise EndpointError(f"{what}: the server did not come up within {START_TIMEOUT_S:g} s. See {log}.") from None
    finally:
        await asyncio.to_thread(end, server, 5.0)
        os.close(read_end)


def _first_address(descriptor: int) -> str | None:
    """Reads the server's output up to its line `listening <address>`; None if it ends before."""
    text = b""
    while chunk := os.read(descriptor, 4096):
        text += chunk
        for line in text.splitlines():
            if line.startswith(b"listening ") and text.endswith(b"\n"):
                return line.split()[1].decode()
    return None


async def _until_healthy(base_url: str, what: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    last: Exception | str = "no answer"
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            try:
                async with session.get(f"{base_url}/health") as reply:
                    if reply.status == 200:
                        return
                    last = f"HTTP {reply.status}"
            except aiohttp.ClientError as error:
                last = error
            await asyncio.sleep(0.1)
    raise EndpointError(f"{what}: not healthy within {START_TIMEOUT_S:g} s ({last}). See {log}.")
