"""A comparison on recorded answers: its jobs side by side, and what of the files is not used."""

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from r2.evaluation.recorded.playing import Job, one_by_one
from r2.training.recorded_methods import recorded_methods, train_on_the_gpu
from storage.sources.outcome_tables import read_outcome_table
from tasks.evaluation.play_recorded import _in_one_thread, play_recorded, side_by_side
from tests.support.paths import ROOT
from tests.support.recorded import recorded_rows, write_rows


def test_jobs_in_processes_come_to_the_same_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = read_outcome_table(write_rows(tmp_path / "rows.jsonl", recorded_rows(60)))
    names = ["counted", "agreement_cascade", "query_router", "rule:benchmark"]
    methods = [method for method in recorded_methods(table.models, names) if method.kind != "constant"]
    known, unseen = table.part(range(40)), table.part(range(40, 60))
    jobs = [Job(method.name, method, known, (known, unseen)) for method in methods]
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    both = list(zip(one_by_one(jobs), side_by_side(jobs), strict=True))
    assert len(both) == 4
    for alone, beside in both:
        assert alone.settings == beside.settings
        for one, other in zip(alone.plays, beside.plays, strict=True):
            assert np.array_equal(one.right_SQ, other.right_SQ)
            assert np.array_equal(one.cost_SQ, other.cost_SQ)
            assert [list(row) for row in one.asked] == [list(row) for row in other.asked]


def test_who_stops_listening_ends_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = read_outcome_table(write_rows(tmp_path / "rows.jsonl", recorded_rows(60)))
    [rule] = [method for method in recorded_methods(table.models) if method.name == "rule:benchmark"]
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    before = set(multiprocessing.active_children())
    answers = side_by_side([Job("rule", rule, table, (table,))] * 200)
    next(answers)
    workers = set(multiprocessing.active_children()) - before
    assert workers
    answers.close()
    for worker in workers:
        worker.join(30)
        assert not worker.is_alive()


def test_models_that_only_one_side_has_are_left_out_and_said(tmp_path: Path):
    known = write_rows(tmp_path / "known.jsonl", recorded_rows(40))
    rows = [row for row in recorded_rows(20, seed=1) if row["model"] != "other"]
    unseen = write_rows(tmp_path / "unseen.jsonl", rows)
    said: list[str] = []
    comparison = play_recorded([known], [unseen], ["rule:benchmark"], said.append)
    assert comparison.models == ("weak", "strong")
    assert (comparison.n_fitted, comparison.n_folds, comparison.scopes[0].n_questions) == (40, 0, 20)
    assert "left out, for having no rows in --test: other" in said
    assert comparison.remarks == ("left out, for having no rows in --test: other",)


def test_fits_that_fill_a_gpu_are_not_side_by_side(monkeypatch: pytest.MonkeyPatch):
    learned, fixed = (recorded_methods(["small", "large"], [name]) for name in ("allocator_sft", "rule:benchmark"))
    monkeypatch.setattr("r2.training.device.has_gpu", lambda: False)
    assert not train_on_the_gpu(learned)
    monkeypatch.setattr("r2.training.device.has_gpu", lambda: True)
    assert train_on_the_gpu(learned)
    assert not train_on_the_gpu(fixed)


def lasting(parent: int) -> None:
    _in_one_thread(parent)
    time.sleep(60)


def test_a_kill_ends_the_processes_too():
    code = (
        "import multiprocessing, os, time; from tests.tasks.test_play_recorded import lasting\n"
        "worker = multiprocessing.get_context('spawn').Process(target=lasting, args=(os.getpid(),))\n"
        "worker.start(); print(worker.pid, flush=True); time.sleep(60)\n"
    )
    command = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    worker = int(command.stdout.readline())
    command.kill()
    command.wait()
    command.stdout.close()
    ends = time.monotonic() + 30
    while Path(f"/proc/{worker}").exists() and "(zombie)" not in Path(f"/proc/{worker}/status").read_text("utf-8"):
        assert time.monotonic() < ends, "the worker goes on"
        time.sleep(0.1)
