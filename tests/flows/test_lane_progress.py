"""What a run shows of its batch lanes while it goes."""

from io import StringIO
from types import SimpleNamespace

from rich.console import Console

from flows.support.progress import _lane_facts, _lanes_table
from r2.pool.batch.jobs import LaneGauge

OPEN = LaneGauge("mini", n_waiting=7, n_in_jobs=4000, n_jobs=2, n_done=1234, oldest_s=5400.0, why_closed="")
CLOSED = LaneGauge("haiku", 0, 0, 0, 0, 0.0, "401: wrong key")


def test_the_live_table_has_a_line_for_each_lane():
    shown = StringIO()
    Console(file=shown, width=120).print(_lanes_table([OPEN, CLOSED]))
    heading, mini, haiku = shown.getvalue().splitlines()
    assert heading.split() == [
        "batch",
        "lane",
        "waiting",
        "in",
        "jobs",
        "done",
        "there",
        "jobs",
        "oldest",
        "h",
        "closed",
    ]
    assert mini.split() == ["mini", "7", "4000", "1234", "2", "1.50"]
    assert haiku.split()[-3:] == ["401:", "wrong", "key"]


def test_the_json_line_has_the_same_by_entry():
    session = SimpleNamespace(lanes=SimpleNamespace(lane_gauges=lambda: [OPEN]))
    told = _lane_facts(session)  # type: ignore[arg-type]
    assert told == {"mini": {"waiting": 7, "in_jobs": 4000, "done": 1234, "jobs": 2, "oldest_s": 5400, "closed": ""}}
