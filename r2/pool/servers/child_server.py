"""A model server in a process of its own: started, waited for until it is healthy, ended with the block that opened it.

The child prints `listening <address>` and answers `/health` once it can be called; it calls `die_with_parent` first
thing. Used for the embedded llama.cpp servers (`local.py`), for trained policies (`r2/training/server.py`) and for the
keeper of a vLLM server (`keeper.py`).
"""

import asyncio
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from r2.errors import EndpointError
from r2.lifeline import end, spawn

START_TIMEOUT_S = 180.0
_SAID_EVERY_S = 15.0


@dataclass(frozen=True, slots=True)
class Child:
    """A server that came up: where it answers, and its process."""

    address: str
    process: "subprocess.Popen[bytes]"

    def has_ended(self) -> bool:
        return self.process.poll() is not None


@asynccontextmanager
async def child_server(args: Sequence[str], what: str, log_dir: Path) -> AsyncIterator[str]:
    """The address the child printed. `what` names the endpoint in errors and its log file. EndpointError if it does not
    come up."""
    async with child(args, what, log_dir) as server:
        yield server.address


@asynccontextmanager
async def child(
    args: Sequence[str],
    what: str,
    log_dir: Path,
    *,
    start_timeout_s: float = START_TIMEOUT_S,
    patience_s: float = 5.0,
    env: Mapping[str, str] | None = None,
    say: Callable[[str], None] | None = None,
) -> AsyncIterator[Child]:
    """The same with the process, which has `patience_s` to end when asked to. `say` gets a line every 15 s of it."""
    log_dir.mkdir(parents=True, exist_ok=True)
    log = log_dir / f"{re.sub(r'[^A-Za-z0-9._@-]+', '_', what.partition(':')[2])}.log"
    read_end, write_end = os.pipe()
    server = spawn(args, stdout=write_end, log=log, env=env)
    os.close(write_end)
    try:
        address = await asyncio.wait_for(asyncio.to_thread(_first_address, read_end), start_timeout_s)
        if address is None:
            raise EndpointError(f"{what}: the server ended at start. See {log}.")
        started = Child(address, server)
        await until_healthy(address, what, f"See {log}.", start_timeout_s, started.has_ended, say)
        yield started
    except TimeoutError:
        raise EndpointError(f"{what}: the server did not come up within {start_timeout_s:g} s. See {log}.") from None
    finally:
        await asyncio.to_thread(end, server, patience_s)
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


async def until_healthy(
    address: str,
    what: str,
    hint: str,
    timeout_s: float,
    has_ended: Callable[[], bool],
    say: Callable[[str], None] | None = None,
) -> None:
    """Returns once the server answers `/health`. EndpointError, which ends with `hint`, where it ends or takes too
    long."""
    began = said_at = time.monotonic()
    last: Exception | str = "no answer"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as session:
        while (now := time.monotonic()) < began + timeout_s:
            if has_ended():
                raise EndpointError(f"{what}: the server ended at start. {hint}")
            if say is not None and now >= said_at + _SAID_EVERY_S:
                said_at = now
                say(f"{what}: the server is starting, {now - began:.0f} s of at most {timeout_s:.0f} s")
            try:
                async with session.get(f"{address.removesuffix('/v1')}/health") as reply:
                    if reply.status == 200:
                        return
                    last = f"HTTP {reply.status}"
            except (aiohttp.ClientError, TimeoutError) as error:
                last = error
            await asyncio.sleep(0.1)
    raise EndpointError(f"{what}: not healthy within {timeout_s:g} s ({last}). {hint}")
