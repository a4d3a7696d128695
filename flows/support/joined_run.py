"""A run joined, with its surroundings: planned or read, held beside others, shown, stopped by signals, closed. Needs no
Prefect: flows, the command and Ray's actors call it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import Final

from flows.support.progress import shown
from flows.support.terminal import stopped_by_signals
from r2.errors import ConfigError, LakeError, RunLockedError
from r2.pool.file.data_policy import pool_of
from r2.settings import AnswerSettings
from storage.joined.mark import read_mark
from storage.lake.address import lake_folder
from storage.lake.lake import Lake
from storage.lake.stores import store_of
from storage.runs.plan import RunPlan, read_plan, run_dir_of
from tasks.answering.finish_joined import finish_joined
from tasks.answering.finished import RunResult, finished_run, is_finished
from tasks.answering.joining import answer_claimed, run_joined
from tasks.answering.plan_file import plan_file, said_before, who_answers_digest
from tasks.answering.progress import progress_so_far
from tasks.answering.session import RunSession, open_session
from tasks.answering.simulated import warning

LOCK_S: Final = 15.0
"""What another process of this host may take that is about to join the same run."""
Beside = Callable[[RunSession], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def _nothing(session: RunSession) -> AsyncIterator[None]:
    yield


async def joined_file(settings: AnswerSettings, beside: Beside = _nothing) -> RunResult:
    """Joins the run of a question file, which the first machine plans; the result of a finished one."""
    plan = read_plan(plan_file(settings), settings)
    if is_finished(plan, progress_so_far(plan)) and read_mark(plan.run_dir) is None:
        result = finished_run(settings)
        assert result is not None, "it is finished"
        return result
    return await joined_plan(plan, said_before(settings, plan), beside)


async def joined_plan(plan: RunPlan, said: list[str], beside: Beside = _nothing) -> RunResult:
    """Joins a planned run until no shard is open, or it is stopped. ConfigError, CoordinationError or EndpointError
    before the first paid call."""
    _say_all(said)
    settings = plan.settings
    async with run_joined(plan, pool_of(settings), _say) as claims, _held(plan):
        async with open_session(plan, claims) as session, shown(session), beside(session):
            _say_all(session.progress.warnings)
            with stopped_by_signals(session):
                await answer_claimed(session, claims)
        progress = session.progress
        summary, written = await finish_joined(plan, progress, claims, settings.out, settings.more_columns)
    return RunResult(summary, progress, lake_folder(settings.lake), written, progress.wall_s, warning=warning(plan))


def planned_run(lake: str, run_id: str, pool: str | None = None, out: str | None = None) -> RunPlan:
    """A run that some machine has planned, by its id. ConfigError where the lake has none, and where the pool file that
    this machine has is not the one it was planned with."""
    folder = lake_folder(lake)
    run_dir = run_dir_of(folder, run_id)
    store_of(folder).receive_once(run_dir / "manifest.json")
    try:
        stored = read_plan(run_dir)
    except LakeError as error:
        if (run_dir / "manifest.json").exists():
            raise
        raise ConfigError(f"{lake} has no run {run_id}: {error}") from None
    changed = {"lake": lake, "pool": pool or stored.settings.pool, "out": out or stored.settings.out}
    settings = stored.settings.model_copy(update=changed)
    plan = read_plan(run_dir, settings)
    if who_answers_digest(settings, pool_of(settings).digest) != plan.pool_digest:
        raise ConfigError(
            f"{settings.pool}: not the pool file that run {run_id} was planned with (its text is in "
            f"{run_dir / 'pool.toml'}), or a check, a scorer or a schema is another. Name the right one with --pool."
        )
    return plan


@asynccontextmanager
async def _held(plan: RunPlan) -> AsyncIterator[None]:
    """The run's lock, beside others who have joined it; another who makes its mark has it alone for a moment."""
    end = asyncio.get_running_loop().time() + LOCK_S
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(Lake(plan.settings.lake).run_lock(plan.run_id, is_joined=True))
                break
            except RunLockedError:
                if asyncio.get_running_loop().time() > end:
                    raise
            await asyncio.sleep(0.2)
        yield


def _say(line: str) -> None:
    sys.stderr.write(f"r2: {line}\n")


def _say_all(lines: list[str]) -> None:
    for line in lines:
        _say(line)
