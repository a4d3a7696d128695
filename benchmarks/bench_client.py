"""The pool client against bare aiohttp, the limit, and against the clients that a user would pick instead: requests per
second and CPU per request, in turns.

    python benchmarks/bench_client.py [--rounds 5] [--requests 4000]

A trivial server in a process of its own, 64 calls in flight, prompts of 600 bytes, replies of 0.7 KB. Our client runs
with everything on: gate, request and token limits (too high to block, so that the shared window is really asked), a run
and a day budget, the ledger, and the journal with its fsyncs. Every client has a process of its own with the garbage
collector of our runs and, where its caller chooses the event loop, with uvloop as our runs have it; the others'
processes are those of their own environments (benchmarks/peers.py). CPU is of the client's process alone (`getrusage`).
Absolute numbers are of one machine and its load; the ratios are what is claimed. Exit code 1 if a bar is missed.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web

from benchmarks.figures import ROOT, Bar, Part, at_least, at_most, say
from benchmarks.in_flight import IN_FLIGHT, MAX_TOKENS, measure, message
from benchmarks.peers import PEERS, NotInstalledError, Peer, python_of
from benchmarks.run_part import run_part
from r2.call import Call
from r2.pool.client.client import PoolClient
from r2.pool.client.ports import Address
from r2.pool.collector import collect_seldom
from r2.pool.file.config import load_pool
from storage.runs.journal import Journal

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
R2, LIMIT = "r2 client", "bare aiohttp"
RATE, CPU = "requests/s, 64 in flight", "CPU per request"
RATIO_BARS: dict[str, Bar] = {
    LIMIT: at_least(0.75),
    "openai SDK": at_least(10),
    "litellm": at_least(26),
    "inspect_ai": at_least(24),
}
"""Our requests per second over theirs."""
MOST_CPU = at_most(1.8)
"""Our CPU per request over bare aiohttp's."""
REQUESTS = 4000
LONGEST_S = 300


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

    uvloop.run(main())


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


async def bare(base_url: str, n_requests: int) -> tuple[float, float]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(number: int) -> None:
            body = {
                "model": "served",
                "messages": [{"role": "user", "content": message(number)}],
                "temperature": 0.0,
                "max_tokens": MAX_TOKENS,
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
                    call = Call("small", (("user", message(number)),), "solve", MAX_TOKENS)
                    completion = await client.complete(call, problem_id=str(number), journal=journal)
                    assert completion.is_ok and completion.text

                return await measure(one, n_requests)


CLIENTS = {LIMIT: bare, R2: ours}


def run_one(name: str, base_url: str, n_requests: int, result: Connection) -> None:
    collect_seldom()
    result.send(uvloop.run(CLIENTS[name](base_url, n_requests)))


def in_own_process(name: str, base_url: str, n_requests: int) -> tuple[float, float]:
    """Each client alone in a fresh process: what the others import would be walked by its garbage collector too."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=run_one, args=(name, base_url, n_requests, there))
    process.start()
    there.close()
    figures: tuple[float, float] = here.recv()
    process.join()
    return figures


def by_peer(peer: Peer, python: Path, base_url: str, n_requests: int) -> tuple[float, float]:
    """The same of a client in its own environment. RuntimeError with its last words where it fails."""
    n = max(4 * IN_FLIGHT, round(n_requests * peer.share))
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [str(python), str(ROOT / "benchmarks" / "peer_client.py"), peer.name, base_url, str(n)],
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
            cwd=home,
            env={"PATH": "/usr/bin:/bin", "HOME": home, "DO_NOT_TRACK": "1"},
        )
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
    per_s, cpu_us = json.loads(done.stdout.strip().splitlines()[-1])
    return per_s, cpu_us


def measure_clients(part: Part, options: argparse.Namespace) -> None:
    """Every round asks each client once. A peer that fails is left out of all rounds."""
    n_requests = 1000 if options.small else options.requests
    pythons: dict[str, Path] = {}
    for peer in PEERS:
        try:
            pythons[peer.name] = python_of(peer, options.peers_dir.absolute())
            part.versions.update(zip(*_name_and_version(peer), strict=True))
        except NotInstalledError as error:
            part.skip(peer.name, f"cannot be installed: {error}")
    taken: dict[str, list[tuple[float, float]]] = {}
    with server() as base_url:
        for number in range(options.rounds):
            for name in CLIENTS:
                taken.setdefault(name, []).append(in_own_process(name, base_url, n_requests))
            for peer in [peer for peer in PEERS if peer.name in pythons]:
                try:
                    figures = by_peer(peer, pythons[peer.name], base_url, n_requests)
                    taken.setdefault(peer.name, []).append(figures)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    part.skip(peer.name, f"does not run: {error}")
                    taken.pop(peer.name, None)
                    del pythons[peer.name]
            say(f"clients: round {number + 1} of {options.rounds}")
    for name, figures in taken.items():
        part.add(RATE, name, "requests/s", (per_s for per_s, _ in figures))
        part.add(CPU, name, "us", (cpu_us for _, cpu_us in figures))
    for name in taken:
        if name != R2:
            part.add_ratio(RATE, R2, name, RATIO_BARS.get(name))
    part.add_ratio(CPU, R2, LIMIT, MOST_CPU)


def _name_and_version(peer: Peer) -> tuple[list[str], list[str]]:
    pairs = [requirement.split("==") for requirement in peer.requirements]
    return [name for name, _ in pairs], [version for _, version in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description="The pool client against bare aiohttp and other clients.")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="1000 requests")
    parser.add_argument("--peers-dir", type=Path, default=ROOT / ".bench", help="where other clients are installed")
    run_part("clients", "python benchmarks/bench_client.py", measure_clients, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
