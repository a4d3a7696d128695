"""A run's session as a command has it: the run held, progress shown, Ctrl-C heard. It may be open before its flow runs.

Prefect and its API take seconds to start, in which models could already be asked. `begun_ahead` holds the run, opens
its session and begins its first shards; the flow finds all three under the run's folder and goes on with them. Needs no
Prefect.
"""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.support.progress import shown
from flows.support.terminal import stopped_by_signals
from storage.lake.lake import Lake
from storage.runs.plan import RunPlan
from tasks.answering.answer_rows import answer_rows
from tasks.answering.session import RunSession, open_session


@dataclass(slots=True)
class _Begun:
    """What the flow of a run takes over."""

    lock: ExitStack
    opened: AsyncExitStack
    session: RunSession


_begun: dict[Path, _Begun] = {}
"""Run folder -> what began ahead of its flow. In one task of the event loop, as the flow itself."""


@contextmanager
def run_held(plan: RunPlan) -> Iterator[None]:
    """While open, no other process works on the run. RunLockedError where one does."""
    begun = _begun.get(plan.run_dir)
    with begun.lock.pop_all() if begun is not None else Lake(plan.settings.lake).run_lock(plan.run_id):
        yield


def has_begun(plan: RunPlan) -> bool:
    """True where `begun_ahead` holds the run and `run_open` has not taken it yet."""
    return plan.run_dir in _begun


@asynccontextmanager
async def run_open(plan: RunPlan, said: Iterable[str] = ()) -> AsyncIterator[RunSession]:
    """The session of a run that is held, with its progress shown and signals heard. `said`: what there is to say before
    anything is paid; the session's warnings follow."""
    if (begun := _begun.pop(plan.run_dir, None)) is not None:
        async with begun.opened.pop_all():
            yield begun.session
        return
    _say(said)
    async with open_session(plan) as session, shown(session):
        _say(session.progress.warnings)
        with stopped_by_signals(session):
            yield session


@asynccontextmanager
async def begun_ahead(plan: RunPlan, said: Iterable[str]) -> AsyncIterator[RunSession]:
    """The run's first shards are under way, for its flow to go on with. What the flow did not take, because it never
    came or failed before, ends with the block: its paid calls are in the journals."""
    with ExitStack() as lock:
        lock.enter_context(run_held(plan))
        async with AsyncExitStack() as opened:
            session = await opened.enter_async_context(run_open(plan, said))
            opened.push_async_callback(_ended, session.begun)
            for shard in itertools.islice(session.open_shards(), plan.settings.shards_in_flight):
                session.begun[shard.index] = asyncio.create_task(answer_rows(session, shard.index))
            _begun[plan.run_dir] = _Begun(lock, opened, session)
            try:
                yield session
            finally:
                _begun.pop(plan.run_dir, None)


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stderr.write(f"r2: {line}\n")


async def _ended(begun: dict[int, asyncio.Task[dict[str, int]]]) -> None:
    """Ends the shards that no flow has taken."""
    left = list(begun.values())
    for one in left:
        one.cancel()
    await asyncio.gather(*left, return_exceptions=True)
