"""Sessions of a run with batch lanes, each in a process that may be killed at any moment.

    python -m tests.support.answer_by_batch SETTINGS.toml

Everything is imported once; then each line on standard input forks a session and prints its process id, and when it has
ended its exit code. Jobs are polled every few hundredths of a second. Nothing of Prefect runs.
"""

import asyncio
import os
import sys
import traceback
from pathlib import Path

from r2.pool.batch import choosing, opening
from r2.pool.batch.jobs import LaneTimes
from r2.settings import AnswerSettings, load_settings
from storage.lake.lake import Lake
from storage.runs.plan import read_plan
from tasks.answering.answer_rows import answer_rows
from tasks.answering.finish_run import finish_run
from tasks.answering.plan_file import plan_file
from tasks.answering.progress import progress_so_far
from tasks.answering.session import open_session

QUICK = LaneTimes(0.02, 1.0, 0.02, 0.05, 0.02, 0.05, 0.05, 0.1, 1.0)


async def answer(settings: AnswerSettings) -> None:
    """One session, to its end."""
    run_dir = plan_file(settings)
    plan = read_plan(run_dir, settings)
    with Lake(settings.lake).run_lock(plan.run_id):
        progress = progress_so_far(plan)
        if progress.n_settled < plan.n_requested:
            async with open_session(plan) as session:
                async with asyncio.TaskGroup() as shards:
                    for shard in session.open_shards():
                        shards.create_task(answer_rows(session, shard.index))
                progress = session.progress
        finish_run(run_dir, progress, settings.out)


def quick() -> None:
    """Every wait of the lanes as short as a test needs it."""
    choosing.LEAST_DEADLINE_S = 0.1  # type: ignore[misc]
    opening.TIMES = QUICK  # type: ignore[misc]
    real = opening.open_provider

    def without_lag(*args, **kwargs):  # type: ignore[no-untyped-def]
        provider = real(*args, **kwargs)
        return None if provider is None else _NoLag(provider)

    opening.open_provider = without_lag


class _NoLag:
    """A provider whose list is never behind."""

    def __init__(self, provider) -> None:  # type: ignore[no-untyped-def]
        from dataclasses import replace

        self._provider = provider
        self.limits = replace(provider.limits, listing_lag_s=0.0)

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        return getattr(self._provider, name)


def main() -> None:
    """The script."""
    settings = load_settings(Path(sys.argv[1]), {})
    quick()
    print("ready", flush=True)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.run(answer(settings))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
