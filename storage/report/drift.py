"""The section of a report on drift: the newest day of a lake's traffic against the 30 days before (view `drift`)."""

from pathlib import Path

import duckdb

from storage.lake.schema import OF_RUNS
from storage.report import wording
from storage.report.content import Caution, Table
from storage.sql.query import connect

_SHARES = ("accuracy", "judged", "failed", "model_share", "errors")
_NAMES = {
    "accuracy": "accuracy",
    "judged": "judged",
    "failed": "failed",
    "model_share": "share of answering calls",
    "errors": "errors",
    "usd_per_question": "USD per question",
    "price_input": "price, prompt tokens",
    "price_output": "price, generated tokens",
}
_QUERY = """
    select what, name, detail, recent, recent_low, recent_high, n_recent, before, before_low, before_high, n_before,
           has_moved
    from drift order by list_position(?, what), name, detail
"""


_RECENT = """
    select distinct run_id from runs
    where kind = 'answer' and ended_at >= (select max(ended_at) from runs where kind = 'answer') - interval 32 day
"""


def drift_of(lake: Path, db: duckdb.DuckDBPyConnection) -> tuple[Table | None, list[Caution]]:
    """As `drift_table`, of the runs of the last month. `db` has the table `runs` whole, and of the others one run."""
    runs = [str(run_id) for (run_id,) in db.execute(_RECENT).fetchall()]
    with connect(lake, runs=runs, of_all_runs=OF_RUNS, views=["drift"]) as recent:
        return drift_table(recent)


def drift_table(db: duckdb.DuckDBPyConnection) -> tuple[Table | None, list[Caution]]:
    """The table and what is to be said of it; None where there is nothing to compare with."""
    rows = db.execute(_QUERY, [list(_NAMES)]).fetchall()
    if not any(row[10] for row in rows):
        return None, []
    shown, moved = [], []
    for what, name, detail, recent, low, high, n, before, before_low, before_high, n_before, has_moved in rows:
        label = " ".join(part for part in (_NAMES[what], name, detail) if part)
        now = _value(what, recent), _bounds(what, low, high)
        then = _value(what, before), _bounds(what, before_low, before_high)
        shown.append((label, *now, f"{n:,}", *then, f"{n_before:,}", "moved" if has_moved else ""))
        if has_moved:
            moved.append(f"{label}: {then[0]} before, {now[0]} now")
    columns = ("", "newest day", "between", "n", "30 days before", "between", "n", "")
    table = Table("Drift: the newest day of the lake's traffic against the 30 days before", columns, tuple(shown))
    cautions = [Caution("Drift.", f"{'; '.join(moved)}.")] if moved else []
    return table, cautions


def _value(what: str, value: float | None) -> str:
    if value is None:
        return ""
    return wording.percent(value) if what in _SHARES else wording.number(value)


def _bounds(what: str, low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_value(what, low)} to {_value(what, high)}"
