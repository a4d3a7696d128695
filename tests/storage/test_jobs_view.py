"""The view `batch_jobs`, and every stored column of a job."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from storage.lake.lake import Lake
from storage.sql.query import connect
from tests.support.lake_rows import JOB


def test_a_job_comes_back_as_it_was_stored(tmp_path: Path):
    Lake(tmp_path).commit("run-a", "jobs-0", {"jobs": [JOB]})
    with connect(tmp_path) as db:
        cursor = db.execute(
            "select * replace (epoch(submitted_at) as submitted_at, epoch(ended_at) as ended_at) from jobs"
        )
        names = [column[0] for column in cursor.description]
        [row] = cursor.fetchall()
    assert dict(zip(names, row, strict=True)) == asdict(JOB)


def test_the_view_sums_a_models_jobs_and_says_what_was_rescued(tmp_path: Path):
    rescued = replace(JOB, job_id="1" * 32, state="cancelled", is_rescued=True, n_again=0, n_live=2)
    ended = replace(JOB, job_id="2" * 32, state="ended", ended_at=JOB.submitted_at + 1800)
    Lake(tmp_path).commit("run-a", "jobs-0", {"jobs": [JOB, rescued, ended]})
    with connect(tmp_path) as db:
        [row] = db.execute(
            "select n_jobs, n_rows, n_answered, n_again, n_live, n_rescued_jobs, n_rescued, cost_usd, live_usd, "
            "saved_usd, median_hours, longest_hours from batch_jobs"
        ).fetchall()
    assert row[:7] == (3, 15, 9, 4, 2, 1, 2)
    assert row[7:] == pytest.approx((0.09, 0.18, 0.09, 0.5, 1.5))
