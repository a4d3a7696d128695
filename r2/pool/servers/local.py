"""Embedded llama.cpp servers for `local:` models, one process per set of weights and adapter, from the `xllamacpp`
wheel.

Each speaks llama.cpp's OpenAI-compatible API on a loopback port, with continuous batching and a prompt cache: prompts
that begin alike are read once. One thread each by default: on shared cores llama.cpp's threads wait for each other, and
two are slower than one. As a script this module is the server's own process; it ends with its parent.
"""

import argparse
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from r2.errors import PoolFileError
from r2.lifeline import die_with_parent
from r2.pool.servers.child_server import child_server
from r2.pool.servers.fetch import find_weights, is_fetched

SLOTS = 4
"""Requests a server works on at once; each slot keeps its own prompt cache."""


@asynccontextmanager
async def open_local(
    name: str,
    *,
    models_dir: Path,
    log_dir: Path,
    context_tokens: int,
    threads: int = 1,
    lora: Path | None = None,
    what: str = "",
) -> AsyncIterator[str]:
    """The base URL of a running server for `name`, a catalogue name or the path of a .gguf file; it ends with the
    block.

    `lora` is a GGUF adapter to apply; `what` names the endpoint in errors and logs where it is not `local:name`.
    PoolFileError if the weights are not there or memory does not suffice, EndpointError if the server does not come up.
    """
    what = what or f"local:{name}"
    path = weights_path(name, models_dir, what)
    _check_memory(what, path.stat().st_size)
    args = [
        sys.executable,
        "-m",
        "r2.pool.servers.local",
        "--model",
        str(path),
        "--alias",
        what.partition(":")[2],
        "--context",
        str(context_tokens * SLOTS),
        "--threads",
        str(threads),
    ]
    if lora is not None:
        args += ["--lora", str(lora)]
    async with child_server(args, what, log_dir) as base_url:
        yield f"{base_url}/v1"


def weights_path(name: str, models_dir: Path, what: str) -> Path:
    """The GGUF file behind a catalogue name, or behind a path that ends with .gguf. PoolFileError
    if it is not there."""
    if is_weights_file(name):
        if not Path(name).is_file():
            raise PoolFileError(f"{what}: no such file: {name}. Give a GGUF file that is there, or a catalogue name.")
        return Path(name)
    weights = find_weights(name)
    if not is_fetched(weights, models_dir):
        raise PoolFileError(
            f"{what}: no checked weights of {name} in {models_dir}. Run: r2 pool fetch {name} --models-dir {models_dir}"
        )
    return weights.path(models_dir)


def is_weights_file(name: str) -> bool:
    """True for the path of a GGUF file, False for a catalogue name."""
    return name.endswith(".gguf")


def _check_memory(what: str, file_bytes: int) -> None:
    """llama.cpp repacks the weights beside the mapped file; measured: 1.6 times the file, and a few hundred MB of
    caches."""
    need = 1.6 * file_bytes + 400e6
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _reclaimable_bytes()
    if available < need:
        raise PoolFileError(
            f"{what}: needs about {need / 1e6:.0f} MB of memory, {available / 1e6:.0f} MB are available. Take the "
            "model out of the pool file."
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
    parser.add_argument("--lora")
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--port", type=int, default=0)
    chosen = parser.parse_args()
    import xllamacpp

    params = xllamacpp.CommonParams()  # type: ignore[attr-defined,unused-ignore]
    params.model.path = chosen.model
    params.model_alias = {chosen.alias}
    if chosen.lora is not None:
        adapter = xllamacpp.CommonAdapterLoraInfo(chosen.lora, 1.0)  # type: ignore[attr-defined,unused-ignore]
        params.lora_adapters = [adapter]
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
