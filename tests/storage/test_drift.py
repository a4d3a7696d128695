"""The view `drift` and its section of the report, on days worked by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r2.evaluation.intervals import wilson_interval
from storage.lake.lake import Lake
from storage.report import write_report
from storage.sql.query import connect
from tests.support.lake_rows import CALL, NOON, RUN, Tables, problem, together

DAY = 86_400


def day(number: int, *, n: int, n_right: int, cost_usd: float, run_id: str, price: str = "1/0.5/2") -> Tables:
    """`n` questions of one day, a call of `large` each; the first ones right."""
    parts = []
    for i in range(n):
        at = NOON + DAY * number + i
        tables = problem(number * 1000 + i, run_id, is_correct=i < n_right, cost_usd=cost_usd, n_attempts=1, n_calls=1)
        tables["trajectories"] = [
            replace(row, started_at=at, router_cost_usd=0.0, n_subtasks=0) for row in tables["trajectories"]
        ]
        tables["subtasks"] = []
        call = replace(tables["calls"][2], call_index=0, started_at=at, cost_usd=cost_usd)
        tables["calls"] = [replace(call, price_version=f"2026-11-01:{price}")]
        parts.append(tables)
    return together(*parts)


def lake_of(root: Path, days: dict[int, dict[str, Any]]) -> Path:
    lake = Lake(root)
    for number, about in days.items():
        run_id = f"day-{number}"
        lake.commit(run_id, "00000-0", day(number, run_id=run_id, **about))
        lake.commit(run_id, "session-0000", {"runs": [replace(RUN, run_id=run_id)]})
    return root


def drift(root: Path, what: str, name: str = "", detail: str = "") -> dict[str, Any]:
    with connect(root) as db:
        read = db.execute("from drift where what = ? and name = ? and detail = ?", [what, name, detail])
        names = [column[0] for column in read.description or ()]
        [row] = read.fetchall()
    return dict(zip(names, row, strict=True))


def test_the_newest_day_stands_against_the_30_days_before_and_no_older_one(tmp_path: Path):
    """40 days ago everything was wrong: too old to count. 30 and 1 days before 36 of 40 were right, today 10 of 40."""
    old = {"n": 40, "cost_usd": 0.001}
    lake = lake_of(
        tmp_path,
        {
            0: {**old, "n_right": 0},
            10: {**old, "n_right": 36},
            39: {**old, "n_right": 36},
            40: {"n": 40, "n_right": 10, "cost_usd": 0.003, "price": "3/1/6"},
        },
    )
    found = drift(lake, "accuracy")
    assert (found["recent"], found["n_recent"], found["before"], found["n_before"]) == (0.25, 40, 0.9, 80)
    assert (found["recent_low"], found["recent_high"]) == pytest.approx(wilson_interval(10, 40))
    assert (found["before_low"], found["before_high"]) == pytest.approx(wilson_interval(72, 80))
    assert found["has_moved"] and found["change"] == pytest.approx(-0.65)
    cost = drift(lake, "usd_per_question")
    assert (cost["recent"], cost["before"]) == (pytest.approx(0.003), pytest.approx(0.001))
    assert cost["has_moved"]
    prices = drift(lake, "price_output", "large")
    assert (prices["before_low"], prices["before_high"], prices["recent"], prices["has_moved"]) == (2, 2, 6, True)
    assert not drift(lake, "model_share", "large")["has_moved"]
    assert not drift(lake, "failed")["has_moved"]
    page = write_report(lake, "day-40").read_text("utf-8")
    assert "Drift: the newest day of the lake" in page
    assert "accuracy: 90.0% before, 25.0% now" in page or "accuracy: 90% before, 25% now" in page


def test_chance_is_no_drift_and_a_lake_of_one_day_has_nothing_to_compare_with(tmp_path: Path):
    same = {"n": 40, "n_right": 30, "cost_usd": 0.001}
    lake = lake_of(tmp_path / "two", {1: same, 2: {**same, "n_right": 27}})
    assert not drift(lake, "accuracy")["has_moved"]
    one = lake_of(tmp_path / "one", {1: same})
    assert drift(one, "accuracy")["before"] is None and not drift(one, "accuracy")["has_moved"]
    assert "Drift" not in write_report(one, "day-1").read_text("utf-8")


def test_errors_of_an_entry_are_counted_by_type_and_labels_of_the_loop_are_no_traffic(tmp_path: Path):
    lake = lake_of(tmp_path, {1: {"n": 4, "n_right": 4, "cost_usd": 0.001}})
    failed = replace(CALL, run_id="day-2", problem_id="p2000", request_model="large", error_type="rate_limited")
    today = day(2, n=1, n_right=1, cost_usd=0.001, run_id="day-2")
    today["calls"] = [replace(failed, call_index=1, cost_usd=0.0, output_text=None), *today["calls"]]
    Lake(lake).commit("day-2", "00000-0", today)
    Lake(lake).commit("day-2", "session-0000", {"runs": [replace(RUN, run_id="day-2")]})
    label = replace(RUN, run_id="day-3", input_path="lake/_refresh/scorer/0001/questions.jsonl")
    Lake(lake).commit("day-3", "00000-0", day(3, n=4, n_right=0, cost_usd=1.0, run_id="day-3"))
    Lake(lake).commit("day-3", "session-0000", {"runs": [label]})
    found = drift(lake, "errors", "large", "rate_limited")
    assert (found["recent"], found["n_recent"], found["before"], found["n_before"]) == (0.5, 2, 0.0, 4)
    assert drift(lake, "usd_per_question")["recent"] == pytest.approx(0.001)
