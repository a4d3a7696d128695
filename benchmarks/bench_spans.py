"""What spans cost: CPU per call of the pool client without a collector, with one and with one that takes a share.

    python -m benchmarks.bench_spans [--requests 4000] [--rounds 3]

The client, server and figures of `benchmarks/bench_client.py`; every call is a problem of its own, so that it makes two
spans. CPU is of the whole process of the client, its exporting thread included. The collector is a process of its own.
"""

import argparse
import asyncio
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import uvloop
from aiohttp import web

from benchmarks import bench_client
from r2.call import Call, Completion
from r2.pool.client.client import PoolClient, to_stderr
from r2.pool.collector import collect_seldom
from r2.telemetry.ports import ENDPOINTS
from r2.telemetry.spans import RATIO, problem_span, tracing

KINDS = {"no collector": None, "a hundredth": 0.01, "all": 1.0}


def collect(ready: Connection) -> None:
    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    async def main() -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/traces", take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ready.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


@contextmanager
def collector() -> Iterator[str]:
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=collect, args=(there,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join()


class Traced(PoolClient):
    """Each call within a problem of its own."""

    async def complete(self, call: Call, *, problem_id: str, **more: Any) -> Completion:
        with problem_span("run", problem_id, "bench"):
            return await super().complete(call, problem_id=problem_id, **more)


async def calls(base_url: str, n_requests: int) -> tuple[float, float]:
    bench_client.PoolClient = Traced
    async with tracing("run", "bench", dict(os.environ), to_stderr):
        return await bench_client.ours(base_url, n_requests)


def run_one(base_url: str, n_requests: int, environ: dict[str, str], result: Connection) -> None:
    os.environ.update(environ)
    collect_seldom()
    result.send(uvloop.run(calls(base_url, n_requests)))


def in_own_process(base_url: str, n_requests: int, collector_url: str, share: float | None) -> float:
    """Microseconds of CPU per call."""
    environ = {} if share is None else {ENDPOINTS[1]: collector_url, RATIO: str(share)}
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=run_one, args=(base_url, n_requests, environ, there))
    process.start()
    there.close()
    cpu_us: float = here.recv()[1]
    process.join()
    return cpu_us


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cpu: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with bench_client.server() as base_url, collector() as collector_url:
        for _ in range(options.rounds):
            for kind, share in KINDS.items():
                cpu[kind].append(in_own_process(base_url, options.requests, collector_url, share))
    none = statistics.median(cpu["no collector"])
    print(f"{'spans':<14}{'CPU us/call':>12}{'more':>8}   (median of {options.rounds})")
    for kind, values in cpu.items():
        print(f"{kind:<14}{statistics.median(values):>12.0f}{statistics.median(values) / none - 1:>8.0%}")


if __name__ == "__main__":
    main()
