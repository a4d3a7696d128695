"""Around a flow run: its tags, and what Ctrl-C ends."""

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from prefect import runtime
from prefect.client.orchestration import get_client


async def tag_run(*tags: str) -> None:
    """Says on the flow run what it runs. Not by `prefect.tags`, which tags the tasks instead: each tagged task asks the
    API for a place under its tags' concurrency limits before it starts, half a second to two in all shards at once
    (`benchmarks/bench_flow.py prefect`).
    """
    async with get_client() as client:
        await client.update_flow_run(runtime.flow_run.id, tags=sorted({*runtime.flow_run.tags, *tags}))


class Stoppable(Protocol):
    """What a signal ends: a run's session, or an evaluation."""

    def stop(self, reason: str) -> None:
        """Cleanly: nothing new is sent, calls in flight finish."""


@contextmanager
def stopped_by_signals(session: Stoppable) -> Iterator[None]:
    """The first Ctrl-C (or a worker's SIGTERM) ends the run cleanly; a second one ends it at once. The run can be
    resumed after either."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        sys.stderr.write(
            "\nStopping: calls in flight finish, nothing new is sent. Again to stop at once. The same command goes "
            "on.\n"
        )
        session.stop("interrupted")
        loop.remove_signal_handler(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
