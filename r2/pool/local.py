"""Embedded llama.cpp servers for `local:` models, one process per set of weights, from the `xllamacpp` wheel.

Each speaks llama.cpp's OpenAI-compatible API on a loopback port, with continuous batching and a prompt cache: prompts that begin alike
are read once. One thread each by default: on shared cores llama.cpp's threads wait for each other, and two are slower than one.
As a script this module is the server's own process; it ends with its parent.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from r2.errors import EndpointError, PoolFileError
from r2.pool.fetch import find_weights, is_fetched
from r2.pool.lifeline import die_with_parent, end, spawn

SLOTS = 4
"""Requests a server works on at once; each slot keeps its own prompt cache."""
START_TIMEOUT_S = 180.0


@asynccontextmanager
async def open_local(
    name: str, *, models_dir: Path, log_dir: Path, context_tokens: int, threads: int = 1
) -> AsyncIterator[str]:
    """The base URL of a running server for the catalogue's `name`; it ends with the block.

    PoolFileError if the weights are not fetched or memory does not suffice, EndpointError if the server does not come up.
    """
    weights = find_weights(name)
    if not is_fetched(weights, models_dir):
        raise PoolFileError(
            f"local:{name}: no checked weights in {models_dir}. Run: r2 pool fetch {name} --models-dir {models_dir}"
        )
    path = weights.path(models_dir)
    _check_memory(name, path.stat().st_size)
    log_dir.mkdir(parents=True, exist_ok=True)
    log = log_dir / f"{name}.log"
    read_end, write_end = os.pipe()
    server = spawn(
        [sys.executable, "-m", "r2.pool.local", "--model", str(path), "--alias", name, "--context", str(context_tokens * SLOTS), "--threads", str(threads)],
        stdout=write_end, log=log,
    )  # fmt: skip
    os.close(write_end)
    try:
        base_url = await asyncio.wait_for(asyncio.to_thread(_first_address, read_end), START_TIMEOUT_S)
        if base_url is None:
            raise EndpointError(f"local:{name}: the server ended at start. See {log}.")
        await _until_healthy(base_url, name, log)
        yield f"{base_url}/v1"
    except TimeoutError:
        raise EndpointError(
            f"local:{name}: the server did not come up within {START_TIMEOUT_S:g} s. See {log}."
        ) from None
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


async def _until_healthy(base_url: str, name: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            try:
                async with session.get(f"{base_url}/health") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientError as error:
                last = error
            await asyncio.sleep(0.1)
    raise EndpointError(f"local:{name}: not healthy within {START_TIMEOUT_S:g} s ({last}). See {log}.")


def _check_memory(name: str, file_bytes: int) -> None:
    """llama.cpp repacks the weights beside the mapped file; measured: 1.6 times the file, and a few hundred MB of caches."""
    need = 1.6 * file_bytes + 400e6
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _reclaimable_bytes()
    if available < need:
        raise PoolFileError(
            f"local:{name}: needs about {need / 1e6:.0f} MB of memory, {available / 1e6:.0f} MB are available. Take the model out of the pool file."
        )


def _reclaimable_bytes() -> int:
    """Page cache that the kernel gives back when asked (Linux's MemAvailable less MemFree); 0 where it is not told."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return 0
    kib = {line.split(":")[0]: int(line.split()[1]) for line in meminfo.read_text("utf-8").splitlines()}
    return max(0, kib["MemAvailable"] - kib["MemFree"]) * 1024


def _serve() -> None:
    die_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--port", type=int, default=0)
    chosen = parser.parse_args()
    import xllamacpp

    params = xllamacpp.CommonParams()  # type: ignore[attr-defined,unused-ignore]
    params.model.path = chosen.model
    params.model_alias = {chosen.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = chosen.port
    params.n_parallel = SLOTS
    params.n_ctx = chosen.context
    params.cont_batching = True
    params.kv_unified = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = chosen.threads
    params.ui = False
    server = xllamacpp.Server(params)  # type: ignore[attr-defined,unused-ignore]
    print(f"listening {server.listening_address}", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    _serve()
