"""Tokens per second of a vLLM server through our client, at 1, 16 and 64 calls in flight; and what a token costs in
core-seconds, which is how pools/vllm.toml is priced.

    python -m benchmarks.bench_vllm [--pool FILE] [--models-dir models] [--tokens 32] [--in-flight 1 16 64]
        [--rows base adapter prompts adapter-prompts]

The server is the pool file's (`vllm:` entries): found where `r2 pool serve` keeps one, else started and ended. Each
row is one round with as many calls as are in flight (four rounds of a single call): the base model, then its adapter
where an entry has one; last prompts of some 450 tokens with one token of answer, which price the input. CPU seconds are
of the server's processes, read from /proc.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from r2.call import Call
from r2.pool.client.client import PoolClient
from r2.pool.client.state import state_dir
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.opening import open_client

CORE_HOUR_USD = 0.05
ROWS = ("base", "adapter", "prompts", "adapter-prompts")
LONG = "The river runs past the mill, and the miller counts the sacks that the carts bring down from the hills. " * 20


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement; `tokens` are of prompts where a round is about them, else of answers."""

    what: str
    n_in_flight: int
    tokens: int
    wall_s: float
    cpu_s: float

    @property
    def usd_per_mtok(self) -> float:
        return self.cpu_s / self.tokens * 1e6 / 3600 * CORE_HOUR_USD

    def line(self) -> str:
        speed = f"{self.tokens / self.wall_s:8.1f} tok/s {self.tokens / self.cpu_s:8.1f} tok/core-s"
        return f"{self.what:22} {self.n_in_flight:4} in flight {speed}   {self.usd_per_mtok:.4f} USD/Mtok"


def server_cpu_s(target: str) -> float:
    """CPU seconds so far of every process of the server of this model, found by its keeper's command line."""
    total = 0.0
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "r2.pool.servers.keeper" in line and target in line:
            for one in (process, *process.children(recursive=True)):
                times = one.cpu_times()
                total += times.user + times.system
    return total


async def measured(client: PoolClient, what: str, calls: list[Call], target: str, *, of_prompts: bool = False) -> Round:
    """All calls at once; AssertionError if one fails, for then the figure would be of something else."""
    cpu_s, began = server_cpu_s(target), time.monotonic()
    done = await asyncio.gather(
        *(client.complete(call, problem_id=f"{what}-{len(calls)}-{n}") for n, call in enumerate(calls))
    )
    wall_s, cpu_s = time.monotonic() - began, server_cpu_s(target) - cpu_s
    failed = [one.error_message for one in done if not one.is_ok]
    if failed:
        raise SystemExit(f"{what}: {len(failed)} of {len(calls)} calls failed: {failed[0]}")
    tokens = sum(one.usage.input_tokens if of_prompts else one.usage.output_tokens for one in done)
    return Round(what, len(calls), tokens, wall_s, cpu_s)


def together(rounds: Sequence[Round]) -> Round:
    """Rounds that followed one another as one."""
    first = rounds[0]
    tokens, wall_s, cpu_s = (sum(getattr(one, name) for one in rounds) for name in ("tokens", "wall_s", "cpu_s"))
    return Round(first.what, first.n_in_flight, tokens, wall_s, cpu_s)


def calls_of(entry: str, n: int, tokens: int, *, salt: str) -> list[Call]:
    """Different questions, each with an answer of `tokens` tokens: no server ends one earlier."""
    text = f"Tell a long story about a town, its people and the number {salt}"
    return [Call(entry, (("user", f"{text}{number}."),), "solve", tokens) for number in range(n)]


def long_calls(entry: str, n: int) -> list[Call]:
    """Long prompts that begin differently, so that no cache holds them, with one token of answer."""
    return [Call(entry, (("user", f"{number}. {LONG}What runs past the mill?"),), "solve", 1) for number in range(n)]


async def bench(pool: PoolConfig, models_dir: Path, tokens: int, in_flight: list[int], rows: list[str]) -> None:
    entries = {name: model for name, model in pool.models.items() if model.vllm_target is not None}
    base = next(name for name, model in entries.items() if model.adapter is None)
    adapted = next((name for name, model in entries.items() if model.adapter is not None), None)
    target = entries[base].vllm_target or ""
    pool = pool.only([name for name in (base, adapted) if name is not None])
    logs = state_dir() / "logs"
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, answers of at most {tokens} tokens", flush=True)
    async with open_client(pool, models_dir=models_dir, log_dir=logs) as client:
        await client.complete(calls_of(base, 1, 4, salt="w")[0], problem_id="warm-up")
        for n in in_flight:
            if n > 16:  # the gate starts at 16 and grows to what the server takes
                await measured(client, base, calls_of(base, n, 2, salt=f"w{n}"), target)
            for row, entry in (("base", base), ("adapter", adapted)):
                if entry is None or row not in rows:
                    continue
                rounds = [
                    await measured(client, entry, calls_of(entry, n, tokens, salt=f"{n} {again}"), target)
                    for again in range(4 if n == 1 else 1)
                ]
                print(together(rounds).line(), flush=True)
        for row, entry, n in (("prompts", base, 16), ("adapter-prompts", adapted, 4)):
            if entry is not None and row in rows:
                calls = long_calls(entry, n)
                print((await measured(client, f"{entry}, prompts", calls, target, of_prompts=True)).line(), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", default="pools/vllm.toml")
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--in-flight", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    chosen = parser.parse_args()
    pool = load_pool(chosen.pool)
    asyncio.run(bench(pool, chosen.models_dir, chosen.tokens, chosen.in_flight, chosen.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
