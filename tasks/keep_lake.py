"""Upkeep of a lake, one retryable step each; all of them may be done again at any time."""

import contextlib
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from r2.errors import RunLockedError
from storage.evaluations.verify import verify_lake as problems_of
from storage.lake.lake import Lake
from storage.sql.query import write_database


@task(name="compact-lake", cache_policy=NO_CACHE, persist_result=False)
def compact_lake(root: Path) -> None:
    """One file per table, with the columns of today, for every run that nobody works on."""
    lake = Lake(root)
    for run_id in lake.manifest.run_ids():
        with contextlib.suppress(RunLockedError), lake.run_lock(run_id):
            lake.compact(run_id)


@task(name="vacuum-lake", cache_policy=NO_CACHE, persist_result=False)
def vacuum_lake(root: Path, older_than_hours: float) -> int:
    """Deletes files that no manifest entry needs any more and that no reader can still have open; returns how many."""
    return len(Lake(root).vacuum(older_than_hours))


@task(name="verify-lake", cache_policy=NO_CACHE, persist_result=False)
def verify_lake(root: Path) -> list[str]:
    """Names every file whose checksum, schema or place is wrong."""
    return problems_of(root)


@task(name="refresh-views", cache_policy=NO_CACHE, persist_result=False)
def refresh_views(root: Path) -> None:
    """Rewrites `lake.duckdb` over the files that count now."""
    write_database(root)
