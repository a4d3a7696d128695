"""How fast a batch lane is, and what it holds in memory: calls gathered, written, read back and made durable.

    python benchmarks/bench_lanes.py --calls 100000

Calls wait as those of a run do: a coroutine for each question, with a wave of `--wave` calls. The provider is in this
process: it reads the lines of each job once, as an upload would, and gives a row of about 300 bytes for each. What is
measured is the lane, its files (jobs, claims) and the call journal, synced; nothing of HTTP. Prints calls per second
and the peak of resident memory, Python and its packages included. Exit code 1 below 20,000 calls a second or above
300 MB.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import orjson

from benchmarks.figures import memory_mb
from r2.call import Call
from r2.ledger import Price
from r2.pool.batch.jobs import LaneTimes
from r2.pool.batch.lanes import BatchEntry, Lanes
from r2.pool.batch.protocol import BatchJob, BatchLimits, BatchLine, BatchRow, BatchStatus
from r2.pool.client.client import PoolClient
from r2.pool.client.ports import Address
from r2.pool.collector import collect_seldom
from r2.pool.file.config import load_pool
from storage.runs.job_files import JobFiles
from storage.runs.journal import Journal

LEAST_PER_S, MOST_MB = 20_000, 300

POOL = """
[router]
decomposer = "a"
allocator = "a"
[models.a]
endpoint = "http://127.0.0.1:9/v1"
tier = "small"
price_usd_per_mtok = {input = 1.0, output = 2.0, date = "2026-11-01", source = "made up"}
"""


class Provider:
    """Reads the lines of its jobs where they are, and answers every one with the same body."""

    limits = BatchLimits(50_000, 200_000_000, listing_lag_s=0.0)

    def __init__(self) -> None:
        self._lines: dict[str, Collection[BatchLine]] = {}
        self._body = orjson.dumps(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "model": "a",
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": "Answer: 42"}, "finish_reason": "stop"}
                ],
                "usage": {
                    "prompt_tokens": 150,
                    "completion_tokens": 5,
                    "total_tokens": 155,
                    "prompt_tokens_details": {"cached_tokens": 0},
                },
            }
        )

    async def submit(self, job: BatchJob, lines: Collection[BatchLine]) -> str:
        assert sum(len(line.body) for line in lines) == job.n_bytes
        self._lines[job.id] = lines
        return job.id

    async def status(self, provider_id: str) -> BatchStatus:
        return BatchStatus(provider_id, "ended")

    async def results(self, provider_id: str) -> AsyncIterator[BatchRow]:
        for line in self._lines.pop(provider_id):
            yield BatchRow(line.custom_id, 200, self._body)

    async def cancel(self, provider_id: str) -> None:
        raise AssertionError("nothing is cancelled here")

    async def find(self, job: BatchJob, custom_ids: Collection[str]) -> str | None:
        raise AssertionError("nothing is lost here")


def question(number: int) -> str:
    """About 500 bytes, different for each."""
    return f"Question {number}. " + "The tank holds water, and two pipes fill it at their own rates. " * 7 + "How long?"


async def measure(n_calls: int, n_wave: int, folder: Path) -> float:
    """Seconds from the first call to the last answer."""
    path = folder / "pool.toml"
    path.write_text(POOL, "utf-8")
    pool = load_pool(path)
    client = PoolClient(pool, {"a": Address("http://127.0.0.1:9/v1", "a")}, state_dir=folder / "state")
    times = LaneTimes(gather_s=0.05, poll_first_s=0.05)
    with JobFiles(folder / "jobs") as store, Journal.open(folder / "calls.journal") as journal:
        async with client:
            client.opened.entries["a"].habits.has_answered = True  # no call is sent ahead
            half = Price(0.5, 0.5, 1.0, "2026-11-01", "half")
            lanes = Lanes(client, {"a": BatchEntry(Provider(), half)}, store, "run", times=times, say=print)
            async with lanes:
                began, cpu = time.perf_counter(), time.process_time()

                async def ask(first: int) -> None:
                    numbers = range(first, min(n_calls, first + n_wave))
                    calls = [Call("a", (("user", question(number)),), "solve", 64) for number in numbers]
                    completions = await lanes.complete_all(calls, problem_id=f"p{first}", journal=journal)
                    assert [one.text for one in completions] == ["Answer: 42"] * len(calls)

                async with asyncio.TaskGroup() as group:
                    for first in range(0, n_calls, n_wave):
                        group.create_task(ask(first))
                seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        assert len(journal) == n_calls
    assert all(job.is_settled for job in JobFiles(folder / "jobs").records())
    print(f"{cpu:.2f} s of CPU")
    return seconds


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(description="Measure a batch lane.")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--wave", type=int, default=5, help="calls that a question waits for together")
    parser.add_argument("--dir", type=Path, help="a folder on the disk to measure; default: the system's temporary one")
    given = parser.parse_args()
    collect_seldom()
    before_mb = memory_mb()[1]
    with tempfile.TemporaryDirectory(dir=given.dir) as folder:
        seconds = asyncio.run(measure(given.calls, given.wave, Path(folder)))
    peak_mb = memory_mb()[1]
    print(f"{given.calls} calls in {seconds:.2f} s: {given.calls / seconds:,.0f} a second")
    print(f"peak of resident memory {peak_mb:.0f} MB, {before_mb:.0f} MB of it before the first call")
    sys.exit(given.calls / seconds < LEAST_PER_S or peak_mb > MOST_MB)


if __name__ == "__main__":
    main()
