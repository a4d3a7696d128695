"""The pool client against bare aiohttp and the openai SDK: requests per second and CPU per request, interleaved in one
run.

    python -m benchmarks.bench_client [--requests 2000] [--rounds 5]

A trivial server in a process of its own, 64 calls in flight, prompts of 600 bytes, replies of 0.7 KB. Our client runs
with everything on: gate, request and token limits (too high to block, so that the shared window is really asked), a run
and a day budget, the ledger, and the journal with its fsyncs. Every client has a process of its own, with the garbage
collector and the event loop (uvloop) of our runs. CPU is of the client's process alone (`getrusage`). Absolute numbers
are of one machine and its load; the ratios are what is claimed. Exit code 1 if a target is missed.
"""

import argparse
import asyncio
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web

from r2.call import Call
from r2.pool.client.client import PoolClient
from r2.pool.client.ports import Address
from r2.pool.collector import collect_seldom
from r2.pool.file.config import load_pool
from storage.runs.journal import Journal

IN_FLIGHT = 64
PROMPT = "What is the sum of the digits of 2 ** 64? Show each step. ".ljust(600, ".")
REPLY = json.dumps(
    {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "created": 1793491200,
        "model": "served",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "18 44 67 ".ljust(440, "4")},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 170, "completion_tokens": 120, "total_tokens": 290},
    }
).encode()
POOL = """
[router]
decomposer = "small"
allocator = "small"
[budget]
max_usd_per_day = 1e6
[models.small]
endpoint = "http://127.0.0.1:9/v1"
tier = "small"
price_usd_per_mtok = {input = 1.0, output = 2.0, date = "2026-11-01", source = "made up for the benchmark"}
max_requests_per_minute = 6e6
max_tokens_per_minute = 1e10
"""
One = Callable[[int], Awaitable[None]]


def serve(ready: Connection) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=REPLY, content_type="application/json")

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ready.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


@contextmanager
def server() -> Iterator[str]:
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}/v1"
    finally:
        process.terminate()
        process.join()


async def measure(one: One, n_requests: int) -> tuple[float, float]:
    """(requests per second, microseconds of this process's CPU per request) with IN_FLIGHT workers, after a short
    warm-up."""

    async def work(numbers: Iterator[int]) -> None:
        for number in numbers:
            await one(number)

    async def run(first: int, n: int) -> None:
        numbers = iter(range(first, first + n))
        await asyncio.gather(*(work(numbers) for _ in range(IN_FLIGHT)))

    await run(0, 2 * IN_FLIGHT)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    await run(2 * IN_FLIGHT, n_requests)
    wall_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return n_requests / wall_s, cpu_s / n_requests * 1e6


async def bare(base_url: str, n_requests: int) -> tuple[float, float]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(number: int) -> None:
            body = {
                "model": "served",
                "messages": [{"role": "user", "content": f"{number} {PROMPT}"}],
                "temperature": 0.0,
                "max_tokens": 200,
            }
            async with session.post(f"{base_url}/chat/completions", json=body) as response:
                document = await response.json()
                assert document["choices"][0]["message"]["content"]

        return await measure(one, n_requests)


async def ours(base_url: str, n_requests: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pool.toml")
        path.write_text(POOL, "utf-8")
        client = PoolClient(
            load_pool(path),
            {"small": Address(base_url, "served")},
            state_dir=Path(folder),
            run_account="bench",
            max_cost_usd=1e6,
        )
        with Journal.open(Path(folder, "journal")) as journal:
            async with client:

                async def one(number: int) -> None:
                    call = Call("small", (("user", f"{number} {PROMPT}"),), "solve", 200)
                    completion = await client.complete(call, problem_id=str(number), journal=journal)
                    assert completion.is_ok and completion.text

                return await measure(one, n_requests)


async def sdk(base_url: str, n_requests: int) -> tuple[float, float]:
    import openai

    async with openai.AsyncOpenAI(base_url=base_url, api_key="none-is-needed", max_retries=0) as client:

        async def one(number: int) -> None:
            completion = await client.chat.completions.create(
                model="served",
                messages=[{"role": "user", "content": f"{number} {PROMPT}"}],
                temperature=0.0,
                max_tokens=200,
            )
            assert completion.choices[0].message.content

        return await measure(one, max(4 * IN_FLIGHT, n_requests // 5))


CLIENTS = {"bare aiohttp": bare, "r2 client": ours, "openai SDK": sdk}


def run_one(name: str, base_url: str, n_requests: int, result: Connection) -> None:
    if name == "openai SDK":
        import openai  # noqa: F401  # before the heap is frozen, as the others' imports are
    collect_seldom()
    result.send(uvloop.run(CLIENTS[name](base_url, n_requests)))


def in_own_process(name: str, base_url: str, n_requests: int) -> tuple[float, float]:
    """Each client alone in a fresh process: what the others import would be walked by its garbage collector too."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=run_one, args=(name, base_url, n_requests, there))
    process.start()
    figures: tuple[float, float] = here.recv()
    process.join()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in CLIENTS}
    cpus: dict[str, list[float]] = {name: [] for name in CLIENTS}
    with server() as base_url:
        for _ in range(options.rounds):
            for name in CLIENTS:
                per_s, cpu_us = in_own_process(name, base_url, options.requests)
                rates[name].append(per_s)
                cpus[name].append(cpu_us)
    rate = {name: statistics.median(values) for name, values in rates.items()}
    cpu = {name: statistics.median(values) for name, values in cpus.items()}
    print(
        f"{'client':<14}{'req/s':>8}{'CPU us/req':>12}{'rate ratio':>12}{'CPU ratio':>11}   (to bare aiohttp; median "
        f"of {options.rounds})"
    )
    for name in CLIENTS:
        print(
            f"{name:<14}{rate[name]:>8.0f}{cpu[name]:>12.0f}"
            f"{rate[name] / rate['bare aiohttp']:>12.2f}{cpu[name] / cpu['bare aiohttp']:>11.2f}"
        )
    targets = [
        ("requests/s >= 0.6 x bare aiohttp", rate["r2 client"] / rate["bare aiohttp"], 0.6, True),
        ("CPU/request <= 1.8 x bare aiohttp", cpu["r2 client"] / cpu["bare aiohttp"], 1.8, False),
        ("requests/s >= 5 x openai SDK", rate["r2 client"] / rate["openai SDK"], 5.0, True),
    ]
    missed = 0
    for label, value, bound, is_floor in targets:
        is_met = value >= bound if is_floor else value <= bound
        missed += not is_met
        print(f"{'PASS' if is_met else 'MISS'}  {label}: {value:.2f}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
