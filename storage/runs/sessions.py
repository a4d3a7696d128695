"""A session of a run in the table `runs`: one row each time somebody worked on it, whatever kind of run it is."""

import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import orjson

from r2.records.tables import RunRow
from storage.lake.lake import Lake
from storage.sql.query import connect

ENDED = ("completed", "completed_with_errors", "failed")
"""Statuses of a session that was not stopped."""


def add_session(lake: Lake, row: RunRow) -> None:
    """Adds the row of a session that has ended. Of several machines that end at once the later ones take the next
    numbers."""
    while not lake.commit(row.run_id, f"session-{row.session:04d}", {"runs": [row]}):
        row = replace(row, session=row.session + 1)


def is_closed(lake: Path, run_id: str) -> bool:
    """True where the run's newest session was not stopped and left nothing over: its row is stored. Whether
    what follows on that was done too (`tasks.answering.finish_run`) is not said by it: a kill may come between."""
    with connect(lake, runs=[run_id], tables=["runs"], views=()) as db:
        found = db.execute("select status, n_deferred from runs_latest where run_id = ?", [run_id]).fetchall()
    return any(status in ENDED and n_deferred == 0 for status, n_deferred in found)


def has_session(lake: Lake, run_id: str) -> bool:
    """Whether the row of some session is stored."""
    return any(map(_is_session, lake.units(run_id)))


def _is_session(unit: str) -> bool:
    return unit.startswith("session-")


def session_row(
    lake: Lake,
    run_id: str,
    *,
    flow_run_id: str,
    kind: str,
    method: str,
    input_path: str,
    pool_path: str,
    config: Mapping[str, object],
    status: str,
    n_requested: int,
    n_answered: int,
    n_failed: int = 0,
    n_deferred: int = 0,
    n_calls_lost: int = 0,
    cost_usd: float,
    session_cost_usd: float,
    started_at: float,
    tags: Mapping[str, str] | None = None,
) -> RunRow:
    """The row of the session that ends now. Counts and `cost_usd` are over all sessions of the run; see `RunRow`.

    `flow_run_id` is Prefect's, "" outside a flow.
    """
    number = sum(map(_is_session, lake.units(run_id)))
    ended_at = time.time()
    return RunRow(
        run_id=run_id,
        session=number,
        flow_run_id=flow_run_id,
        kind=kind,
        method=method,
        input_path=input_path,
        pool_path=pool_path,
        config=orjson.dumps(dict(config)).decode(),
        code_version=version("r2-reasoner"),
        status=status,
        n_requested=n_requested,
        n_answered=n_answered,
        n_failed=n_failed,
        n_deferred=n_deferred,
        n_calls_lost=n_calls_lost,
        cost_usd=cost_usd,
        session_cost_usd=session_cost_usd,
        wall_s=ended_at - started_at,
        started_at=started_at,
        ended_at=ended_at,
        tags=orjson.dumps(dict(tags), option=orjson.OPT_SORT_KEYS).decode() if tags else None,
    )
