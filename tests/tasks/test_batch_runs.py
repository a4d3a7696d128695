"""Runs through the batch lanes of three imitated providers: killed at random moments, and with a deadline."""

import random
import signal
import time
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.table import Table

from flows.cli.batch import add_batch_rows
from storage.sql.query import connect
from tests.support.batch_world import BatchWorld, questions, sessions


def run_killed(
    folder: Path, n_questions: int, n_kills: int, seed: int, *, job_s: float, longest_s: float, most_share: float
) -> None:
    """The run of the tests below, and what must hold of it."""
    chance = random.Random(seed)
    rows = questions(n_questions)
    with BatchWorld(folder) as world:
        with sessions(world, rows, "live", pool=str(world.pool("live"))) as live:
            assert live.run() == 0
        live_usd = world.bill_usd
        n_jobs = len(world.jobs())
        assert n_jobs == 0
        with sessions(world, rows, "batch", pool=str(world.pool()), shard_size=max(20, n_questions // 10)) as killed:
            world.slow(job_s)
            for _ in range(n_kills):
                status = killed.run(until=lambda: time.sleep(chance.uniform(0.0, longest_s)))
                assert status == signal.SIGKILL, "it was killed, and had not ended"
            assert killed.run() == 0
        batch_usd = world.bill_usd - live_usd
        assert set(world.jobs().values()) == {1}, "no job was made twice"
        assert world.paid_twice() == []
        for provider, batches in world.batches.items():
            assert {job.ending for job in batches.jobs.values()} <= {"completed"}, provider
    with connect(folder / "batch") as batch, connect(folder / "live") as live_lake:
        told = "select problem_id, answer, plan, n_calls from trajectories order by input_index"
        answers = batch.execute(told).fetchall()
        assert [row[0] for row in answers] == [row["id"] for row in rows], "every question once"
        assert [row[:2] for row in answers] == [(row["id"], row["answer"]) for row in rows]
        assert answers == live_lake.execute(told).fetchall()
        [(n_rows, cost, live_cost)] = batch.execute(
            "select sum(n_rows), sum(cost_usd), sum(live_usd) from jobs"
        ).fetchall()
        [(paid,)] = batch.execute("select sum(cost_usd) from trajectories").fetchall()
    assert n_rows > 0
    assert float(batch_usd) == pytest.approx(paid, rel=1e-6), "our ledger is their bill"
    share = float(batch_usd / live_usd)
    print(
        f"{n_questions} questions, {n_kills} kills: {float(batch_usd):.6f} USD, live {float(live_usd):.6f}: {share:.4f}"
    )
    assert 0.50 <= share <= most_share
    assert float(cost / live_cost) == pytest.approx(0.5, abs=0.02)


# The few calls that are sent ahead, one for each entry, weigh more where there are few questions.
def test_a_run_with_plans_that_is_killed_three_times_pays_no_row_twice(tmp_path: Path):
    run_killed(tmp_path, 60, 3, seed=1, job_s=0.6, longest_s=1.0, most_share=0.56)


def test_a_job_that_never_ends_is_rescued_before_the_deadline_and_the_receipt_says_so(tmp_path: Path):
    rows = questions(20)
    with BatchWorld(tmp_path) as world:
        world.batches["openai"].fail_job("never_ends")
        began = time.monotonic()
        with sessions(world, rows, "late", pool=str(world.pool()), deadline_s=3.5) as late:
            assert late.run() == 0
        assert world.paid_twice() == []
        took_s = time.monotonic() - began
    with connect(tmp_path / "late") as db:
        [(n, paid)] = db.execute("select count(*) filter (is_correct), sum(cost_usd) from trajectories").fetchall()
        [(run_id, n_rescued, n_jobs)] = db.execute(
            "select run_id, sum(n_rescued), sum(n_rescued_jobs) from batch_jobs group by run_id"
        ).fetchall()
    assert (n, n_jobs) == (20, 1)
    assert n_rescued == 10, "the half that was done is kept"
    assert float(world.bill_usd) == pytest.approx(paid, rel=1e-6)
    assert took_s < 60
    table = Table()
    add_batch_rows(table, SimpleNamespace(lake=tmp_path / "late", summary=SimpleNamespace(run_id=run_id)))
    shown = StringIO()
    Console(file=shown, width=100).print(table)
    assert "calls rescued: asked live for the deadline" in shown.getvalue()
    [said] = [line for line in shown.getvalue().splitlines() if "rescued" in line]
    assert "10" in said


@pytest.mark.slow
def test_2000_questions_with_plans_killed_20_times(tmp_path: Path):
    run_killed(tmp_path, 2000, 20, seed=2, job_s=4.0, longest_s=2.5, most_share=0.52)
