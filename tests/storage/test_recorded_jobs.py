"""Jobs of a comparison on recorded answers that are kept until it is finished."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from r2.evaluation.recorded.method import TableMethod, TablePolicy
from r2.evaluation.recorded.playing import Job
from r2.evaluation.recorded.table import OutcomeTable, Question
from storage.evaluations import recorded_jobs
from storage.evaluations.recorded_jobs import KeptJobs
from storage.sources.outcome_tables import read_outcome_tables
from tests.support.paths import ROOT
from tests.support.recorded import recorded_rows, write_rows


@dataclass(frozen=True)
class Both:
    """Asks `weak` at the first setting, and `strong` after it at the second."""

    settings: tuple[str, ...] = ("one", "two")

    def play(self, question: Question, setting: int) -> str:
        question.ask("weak")
        return question.ask("strong").arm if setting else "weak"


@dataclass
class Counting:
    """A fit that counts how often it was made."""

    n: int = 0
    seen: list[int] = field(default_factory=list)

    def __call__(self, table: OutcomeTable) -> TablePolicy:
        self.n += 1
        self.seen.append(table.n_problems)
        return Both()


def job_of(tmp_path: Path, fit: Counting, label: str = "fold 1 of 1: both") -> Job:
    table = read_outcome_tables([write_rows(tmp_path / "rows.jsonl", recorded_rows(30))]).table
    halves = table.part(np.arange(20)), table.part(np.arange(20, 30))
    return Job(label, TableMethod("both", "learned", fit), halves[0], halves)


def test_a_finished_job_is_not_run_again(tmp_path: Path):
    fit = Counting()
    job, kept = job_of(tmp_path, fit), KeptJobs(tmp_path / "lake", "recorded-1")
    assert not kept.has(job)
    first = kept.run(job)
    assert kept.has(job)
    again = kept.run(job)
    assert fit.n == 1
    assert again.settings == first.settings == ("one", "two")
    for one, other in zip(first.plays, again.plays, strict=True):
        assert np.array_equal(one.right_SQ, other.right_SQ)
        assert np.array_equal(one.cost_SQ, other.cost_SQ)
        assert np.array_equal(one.calls_SQ, other.calls_SQ)
        assert [list(map(tuple, rows)) for rows in one.asked] == [list(map(tuple, rows)) for rows in other.asked]
    assert again.plays[1].calls_SQ.tolist() == [[1.0] * 10, [2.0] * 10]
    kept.run(job_of(tmp_path, fit, "fold 1 of 1: both, seed 1"))
    assert fit.n == 2
    KeptJobs(tmp_path / "lake", "recorded-2").run(job)
    assert fit.n == 3


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b"\xff\x00", None])
def test_a_damaged_file_is_a_fit_to_make_again(tmp_path: Path, damage: bytes | None):
    fit = Counting()
    job, kept = job_of(tmp_path, fit), KeptJobs(tmp_path / "lake", "recorded-1")
    first = kept.run(job)
    [path] = (tmp_path / "lake").rglob("*.json")
    stored = json.loads(path.read_bytes())
    path.write_bytes(json.dumps(stored | {"routes": []}).encode() if damage is None else damage)
    assert np.array_equal(kept.run(job).plays[0].cost_SQ, first.plays[0].cost_SQ)
    assert fit.n == 2
    kept.run(job)
    assert fit.n == 2, "what was damaged is whole again"


def test_what_other_code_fitted_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fit = Counting()
    job, kept = job_of(tmp_path, fit), KeptJobs(tmp_path / "lake", "recorded-1")
    kept.run(job)
    monkeypatch.setattr(recorded_jobs, "_code", lambda: "another")
    assert not kept.has(job)
    kept.run(job)
    assert fit.n == 2
    kept.finished()
    assert not list((tmp_path / "lake" / "_recorded").iterdir())


def test_a_comparison_that_was_killed_goes_on_and_says_the_same(tmp_path: Path):
    rows = write_rows(tmp_path / "one.jsonl", recorded_rows(60))
    words = ["evaluate", "--outcomes", str(rows), "--methods", "agreement_cascade,counted"]
    env = os.environ | {"R2_STATE_DIR": str(tmp_path / "state")}
    lake = ["--lake", str(tmp_path / "lake")]
    with subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *words, *lake], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
    ) as stopped:
        assert stopped.stderr is not None
        for line in stopped.stderr:
            if "fold 1 of 5: counted" in line:
                break
        stopped.send_signal(signal.SIGKILL)
    assert stopped.returncode == -signal.SIGKILL
    n_kept = len(list((tmp_path / "lake" / "_recorded").glob("*.jobs/*/*.json")))
    assert n_kept > 3
    done = CliRunner().invoke(app, [*words, *lake])
    assert done.exit_code == 0, done.output
    assert f"{n_kept} of " in done.stderr
    assert "fits are there from before this comparison was stopped" in done.stderr
    [went_on] = (tmp_path / "lake" / "_recorded").iterdir()
    assert CliRunner().invoke(app, [*words, "--lake", str(tmp_path / "other")]).exit_code == 0
    [at_once] = (tmp_path / "other" / "_recorded").iterdir()
    found, expected = (json.loads(path.read_bytes()) | {"wall_s": 0} for path in (went_on, at_once))
    assert found == expected
