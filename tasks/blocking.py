"""Blocking work beside the event loop: checks that may take seconds in threads of their own, file work in threads that
end what they began.

While one answer is checked, the calls of the other questions go on, and so does Ctrl-C.
"""

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from r2.problems.sandbox import CheckStopped, stop_of_checks

P = ParamSpec("P")
T = TypeVar("T")


class _Closeable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closeable)


class Checks:
    """Slow checks of answers, as many at once as there are cores; the others wait for their turn. Closed when the run
    ends."""

    def __init__(self, n_threads: int | None = None) -> None:
        self._n_threads = n_threads or os.cpu_count() or 1
        self._threads: ThreadPoolExecutor | None = None
        self._stopping = threading.Event()

    async def run(self, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `check` returns. Raises CheckStopped if `stop` was called before it was done: the answer is not judged.

        Every sandbox that `check` opens ends when `stop` is called (`r2/problems/sandbox.py`).
        """
        if self._stopping.is_set():
            raise CheckStopped("the run was asked to stop before the answer was checked")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._n_threads, thread_name_prefix="check")
        context = contextvars.copy_context()
        context.run(stop_of_checks.set, self._stopping)
        work = partial(context.run, self._checked, partial(check, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _checked(self, check: Callable[[], T]) -> T:
        if self._stopping.is_set():  # it waited for its turn until now
            raise CheckStopped("the run was asked to stop before the answer was checked")
        return check()

    def stop(self) -> None:
        """Ends the checks that are running and begins no other."""
        self._stopping.set()

    def close(self) -> None:
        """Ends what is still running, and the threads."""
        self.stop()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)


async def to_end(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns, from a thread. A caller that is cancelled meanwhile is told only when the work is done: a
    file is written whole before whoever guards it (a lock, a `with`) lets go."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


@asynccontextmanager
async def opened(open_file: Callable[P, C], *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[C]:
    """What `open_file` opens in a thread, closed when the block ends, and also where the caller is cancelled before it
    begins."""
    task = asyncio.ensure_future(asyncio.to_thread(open_file, *args, **kwargs))
    try:
        file = await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None:
            task.result().close()
        raise
    with closing(file):
        yield file
