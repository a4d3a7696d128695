"""What a run shows of its batch lanes while it goes, and of its jobs in Prefect's UI."""

from io import StringIO
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from flows.answer_questions import jobs_shown
from flows.support.progress import _lane_facts, _lanes_table
from r2.pool.batch.jobs import LaneGauge
from r2.pool.batch.ports import JobEnd
from r2.pool.batch.protocol import BatchJob
from storage.runs.job_files import JobFiles

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


def test_prefects_ui_has_a_row_for_each_job(tmp_path: Path):
    with JobFiles(tmp_path / "jobs") as store:
        for job_id, created_at in (("a" * 32, 3600.0), ("b" * 32, 7200.0)):
            lines = store.writer(job_id)
            lines.add(job_id[:16] + "0" * 32, b"{}")
            lines.finish()
            store.intend(BatchJob(job_id, "run", "mini", 3, 300, 60, 0.5, created_at))
            store.sent(job_id, f"batch_{job_id[0]}")
        store.claim("a" * 32, "1" * 32, "answered", 0.001, 0.002)
        store.claim("a" * 32, "2" * 32, "live", 0.0, 0.0)
        store.over("a" * 32, JobEnd("expired", "given up for the deadline", 9000.0, rescued=True))
        store.flush()
    first, second = jobs_shown(tmp_path)
    assert first == {
        "model": "mini",
        "job": "a" * 32,
        "state": "expired",
        "why": "given up for the deadline",
        "calls": 3,
        "answered": 1,
        "live": 1,
        "hours": 1.5,
        "USD": 0.001,
        "USD live": 0.002,
    }
    assert (second["job"], second["state"], second["hours"], second["USD"]) == ("b" * 32, "waiting", None, 0.0)
