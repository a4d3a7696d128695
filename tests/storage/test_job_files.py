"""The files of batch jobs: what a kill or a broken disk leaves of them, and what is told of it."""

from pathlib import Path

import pytest

from r2.errors import LakeError
from r2.pool.batch.ports import JobEnd
from r2.pool.batch.protocol import BatchJob
from storage.lake.lake import Lake
from storage.runs.job_files import JobFiles, receipt_of, store_jobs
from storage.sql.query import connect

KEYS = [f"{number:032x}" for number in range(3)]


def job(number: int = 0) -> BatchJob:
    return BatchJob(f"{number:032x}", "run-a", "mini", len(KEYS), 30, 20, 0.5, 1000.0 + number)


def written(files: JobFiles, one: BatchJob) -> None:
    """The job's lines and intent, as before it is sent."""
    writer = files.writer(one.id)
    for key in KEYS:
        writer.add(one.id[:16] + key, b'{"model":"m"}')
    assert len(writer.finish()) == 3
    files.intend(one)


def test_a_job_is_read_back_as_far_as_it_came(tmp_path: Path):
    with JobFiles(tmp_path / "jobs") as files:
        written(files, job(0))
        written(files, job(1))
        files.sent(job(1).id, "batch_1")
        files.claim(job(1).id, KEYS[0], "answered", 0.1, 0.2)
        files.flush()
        files.claim(job(1).id, KEYS[1], "again", 0.0, 0.0)  # not written when the process is killed: no flush
        first, second = JobFiles(tmp_path / "jobs").open_jobs()
    assert (first.provider_id, list(first.keys), first.claimed) == (None, KEYS, set())
    assert (second.provider_id, second.claimed) == ("batch_1", {KEYS[0]})
    assert (second.totals.n_answered, second.totals.cost_usd, second.totals.live_usd) == (1, 0.1, 0.2)
    [line, *_] = JobFiles(tmp_path / "jobs").lines(job(1))
    assert (line.custom_id, line.body) == (job(1).id[:16] + KEYS[0], b'{"model":"m"}')
    assert JobFiles(tmp_path / "jobs").was_answered("mini")
    assert not JobFiles(tmp_path / "jobs").was_answered("other")


def test_a_settled_job_needs_its_lines_no_more_and_is_stored_once(tmp_path: Path):
    lake, folder = Lake(tmp_path / "lake"), tmp_path / "jobs"
    with JobFiles(folder) as files:
        written(files, job())
        files.sent(job().id, "batch_0")
        for key in KEYS:
            files.claim(job().id, key, "answered", 0.1, 0.2)
        files.over(job().id, JobEnd("ended", ended_at=4600.0, n_twice=2))
        files.settled(job().id)
    assert JobFiles(folder).open_jobs() == []
    assert not (folder / f"{job().id}.lines").exists()
    for _ in range(2):
        store_jobs(folder, lake, "run-a", is_complete=False)
    with connect(tmp_path / "lake") as db:
        rows = db.execute(
            "select request_model, provider_id, state, reason, n_rows, n_answered, n_twice, worst_usd, cost_usd, "
            "live_usd, epoch(ended_at) from jobs"
        ).fetchall()
    assert rows == [("mini", "batch_0", "ended", None, 3, 3, 2, 0.5, pytest.approx(0.3), pytest.approx(0.6), 4600.0)]
    receipt = receipt_of(folder)
    assert (receipt.n_jobs, receipt.n_open, receipt.n_answered, receipt.n_rescued) == (1, 0, 3, 0)


def test_a_job_that_waits_is_stored_when_it_has_ended_or_the_run_is_complete(tmp_path: Path):
    lake, folder = Lake(tmp_path / "lake"), tmp_path / "jobs"
    with JobFiles(folder) as files:
        written(files, job())
    store_jobs(folder, lake, "run-a", is_complete=False)
    assert lake.units("run-a") == {}
    store_jobs(folder, lake, "run-a", is_complete=True)
    assert list(lake.units("run-a")) == [f"jobs-{job().id}"]
    assert receipt_of(folder).n_open == 1


def test_lines_without_an_intent_were_never_sent_and_are_dropped(tmp_path: Path):
    files = JobFiles(tmp_path / "jobs")
    writer = files.writer(job().id)
    writer.add(job().id[:16] + KEYS[0], b"{}")
    writer.finish()
    assert files.open_jobs() == []
    assert list((tmp_path / "jobs").iterdir()) == []


@pytest.mark.parametrize("n_bytes", [1, 5, 40])
def test_a_torn_end_was_never_acknowledged(tmp_path: Path, n_bytes: int):
    with JobFiles(tmp_path / "jobs") as files:
        written(files, job())
        files.sent(job().id, "batch_0")
        files.claim(job().id, KEYS[0], "answered", 0.1, 0.2)
        files.flush()
    path = tmp_path / "jobs" / f"{job().id}.job"
    claims = path.with_suffix(".claims")
    path.write_bytes(path.read_bytes()[:-n_bytes])
    claims.write_bytes(claims.read_bytes() + b"x" * n_bytes)
    [left] = JobFiles(tmp_path / "jobs").open_jobs()
    assert left.provider_id is None, "it is looked for at the provider"
    assert left.claimed == {KEYS[0]}
    assert len(claims.read_bytes()) == 37


def test_damage_in_the_middle_is_named_and_nothing_is_sent(tmp_path: Path):
    with JobFiles(tmp_path / "jobs") as files:
        written(files, job())
        files.sent(job().id, "batch_0")
    path = tmp_path / "jobs" / f"{job().id}.job"
    stored = bytearray(path.read_bytes())
    stored[20] ^= 1
    path.write_bytes(stored)
    with pytest.raises(LakeError, match=r"\.job: the event at byte 0 is damaged"):
        JobFiles(tmp_path / "jobs").open_jobs()


def test_lines_that_are_gone_are_named(tmp_path: Path):
    with JobFiles(tmp_path / "jobs") as files:
        written(files, job())
    path = tmp_path / "jobs" / f"{job().id}.lines"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(LakeError, match=r"\.lines: 1 lines, where the job has 3"):
        JobFiles(tmp_path / "jobs").open_jobs()
