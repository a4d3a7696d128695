"""Requests in flight, counted and timed: requests per second and this process's CPU for each. Needs only Python, since
it also runs in the environments of other clients."""

import asyncio
import gc
import resource
import time
from collections.abc import Awaitable, Callable, Iterator

IN_FLIGHT = 64
PROMPT = "What is the sum of the digits of 2 ** 64? Show each step. ".ljust(600, ".")
MAX_TOKENS = 200
One = Callable[[int], Awaitable[None]]


class Clock:
    """Seconds on the clock and of this process since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), _cpu_s()

    def per_request(self, n: int) -> tuple[float, float]:
        """(requests per second, microseconds of CPU for each)."""
        return n / (time.perf_counter() - self._wall), (_cpu_s() - self._cpu) / n * 1e6


async def measure(one: One, n_requests: int) -> tuple[float, float]:
    """As `Clock.per_request`, of `one` called with so many numbers by IN_FLIGHT workers, after a short warm-up."""

    async def work(numbers: Iterator[int]) -> None:
        for number in numbers:
            await one(number)

    async def run(first: int, n: int) -> None:
        numbers = iter(range(first, first + n))
        await asyncio.gather(*(work(numbers) for _ in range(IN_FLIGHT)))

    await run(0, 2 * IN_FLIGHT)
    clock = Clock()
    await run(2 * IN_FLIGHT, n_requests)
    return clock.per_request(n_requests)


def collect_seldom() -> None:
    """The garbage collector as our runs set it (r2/pool/collector.py), for the other clients too."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


def message(number: int) -> str:
    """No two requests are the same."""
    return f"{number} {PROMPT}"


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
