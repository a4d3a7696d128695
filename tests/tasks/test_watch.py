"""What of a lake is cause for an alert, on rows worked by hand."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from storage.lake.lake import Lake
from tasks.watch import Alert, alerts
from tests.support.lake_rows import NOON, RUN, problem, together


def lake_of(root: Path, n: int, n_right: int) -> Path:
    """`n` questions of one day, 0.0012 USD each."""
    Lake(root).commit("run-a", "00000-0", together(*(problem(i, is_correct=i < n_right) for i in range(n))))
    Lake(root).commit("run-a", "session-0000", {"runs": [replace(RUN, run_id="run-a")]})
    return root


def test_spend_is_of_the_utc_day_and_above_the_budget_alone(tmp_path: Path):
    lake = lake_of(tmp_path, 10, 10)
    that_day = datetime.fromtimestamp(NOON, UTC)
    [alert] = alerts(lake, max_usd_per_day=0.011, accuracy_floor=None, now=that_day)
    assert (alert.event, alert.limit) == ("r2.alert.spend", 0.011)
    assert alert.what == "0.012000 USD were spent on 2026-05-28, the budget of a day is 0.011"
    assert alerts(lake, max_usd_per_day=0.0121, accuracy_floor=None, now=that_day) == []
    assert alerts(lake, max_usd_per_day=0.011, accuracy_floor=None, now=that_day.replace(day=29)) == []


def test_accuracy_is_below_its_floor_where_the_whole_interval_is(tmp_path: Path):
    """8 of 20: at most 61.3 % by the Wilson interval."""
    lake = lake_of(tmp_path, 20, 8)
    [alert] = alerts(lake, max_usd_per_day=None, accuracy_floor=0.7)
    assert alert == Alert(
        "r2.alert.accuracy",
        "40.0 % of the 20 judged questions of the newest day are right, 95 % at most 61.3 %; the floor is 70 %",
        0.4,
        0.7,
    )
    assert alerts(lake, max_usd_per_day=None, accuracy_floor=0.6) == []


def test_an_empty_lake_is_no_cause(tmp_path: Path):
    Lake(tmp_path).prepare()
    assert alerts(tmp_path, max_usd_per_day=1.0, accuracy_floor=0.9) == []
