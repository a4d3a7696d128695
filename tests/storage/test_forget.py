"""`r2 lake forget`: not a word of a person is left, every account is what it was, and a kill in the middle loses
nothing."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from flows.cli.app import app
from r2.errors import ConfigError, RunLockedError
from storage.evaluations.verify import verify_lake
from storage.forgetting.forget import forget
from storage.forgetting.search import files_with as found_by_us
from storage.lake.forgotten import forget_in
from storage.lake.lake import Lake
from storage.lake.ordered import windows
from storage.lake.schema import TABLES
from storage.runs.journal import Journal
from storage.runs.paid import paid_usd
from storage.runs.plan import read_plan
from storage.sql.query import connect
from tasks.answering.finish_run import finish_run
from tests.storage.test_readers import unchanged
from tests.support.lake_rows import unit_of
from tests.support.paths import ROOT
from tests.support.person_lake import IDS, OTHERS, WORDS, accounts, answered, files_with, person_lake, plan_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    person_lake(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """The same lake, in the place that its notes name: the answers files are found by their whole path."""
    kept = made.with_name(f"{made.name}.kept")
    if not kept.exists():
        shutil.copytree(made, kept)
    shutil.rmtree(made)
    shutil.copytree(kept, made)
    return made


def test_not_a_word_of_theirs_is_left_and_every_account_is_what_it_was(folder: Path):
    lake = folder / "lake"
    places = files_with(lake, WORDS)
    for part in ("calls/", "_parts/", "shards/", "journal/", "_evaluations/calls.journal", "labels/", "_rows/"):
        assert any(part in place for place in places), part
    before, others = accounts(lake), files_with(lake, OTHERS)
    done = forget(lake, IDS, also=[folder / "calls.jsonl.gz"])
    assert (done.still, done.others) == ([], [])
    assert files_with(lake, WORDS) == files_with(lake, b"anna-") == []
    assert [name for name in files_with(folder, WORDS) if "verdicts" not in name] == ["half/q.jsonl", "whole/q.jsonl"]
    assert [line.partition(": ")[0] for line in done.untouched] == [
        str(folder / "whole" / "q.jsonl"),
        str(folder / "half" / "q.jsonl"),
    ]
    assert len([name for name in others if "compact" not in name and "_parts" not in name]) <= len(
        files_with(lake, OTHERS)
    )
    assert accounts(lake) == before
    assert before["wrong"] == [[], [], [], []]
    assert verify_lake(lake) == []


def test_what_is_left_of_a_row_is_its_place_its_sums_and_its_verdict(folder: Path):
    lake, run_id = folder / "lake", plan_of(folder / "lake", "whole").run_id
    forget(lake, IDS)
    with connect(lake) as db:
        read = db.execute(
            "select * exclude (latency_s, started_at) from trajectories where run_id = ? and input_index = 4", [run_id]
        )
        row = dict(zip([column[0] for column in read.description or ()], read.fetchall()[0], strict=True))
        calls = db.execute(
            "select problem_id, call_index, request_model, output_tokens, cost_usd, input_messages, output_text, "
            "raw_body, request_sha from calls where run_id = ? and problem_id = 'forgotten-4'",
            [run_id],
        ).fetchall()
    assert {name: value for name, value in row.items() if value not in (None, "", 0, 0.0, False)} == {
        "run_id": run_id,
        "problem_id": "forgotten-4",
        "input_index": 4,
        "method": "self_consistency",
        "status": "answered",
        "is_correct": True,
        "n_calls": 3,
        "n_attempts": 1,
        "input_tokens": 30,
        "output_tokens": 15,
        "cost_usd": pytest.approx(3 * 2e-5),
    }
    assert calls == [("forgotten-4", 0, "small", 15, pytest.approx(3 * 2e-5), "[]", None, b"", "0" * 64)]


def test_the_answers_files_are_written_without_them_unless_somebody_changed_one(folder: Path):
    changed = folder / "half.jsonl"
    changed.write_bytes(changed.read_bytes() + b"\n")
    done = forget(folder / "lake", IDS)
    answers = (folder / "answers.csv").read_text("utf-8")
    assert len(answers.splitlines()) == 1 + 4 and "anna" not in answers
    assert f"{changed}: was changed since run" in done.untouched[1]
    assert WORDS in changed.read_bytes()


def test_a_run_that_was_stopped_goes_on_without_them_and_pays_for_no_call_twice(folder: Path):
    """Its four open questions: q2 and q3 are asked, the calls of q5 are in the journal, anna-4 is settled as failed,
    at what her three calls had cost."""
    lake = folder / "lake"
    forget(lake, IDS)
    plan = plan_of(lake, "half")
    with Journal.open(plan.journal_file(2)) as journal:
        assert (len(journal), len(journal.lost_at_open)) == (3, 3)
        assert paid_usd(journal) == pytest.approx(6 * 2e-5)
    session = asyncio.run(answered(plan))
    assert session.client.n_sent == 2 * 3  # type: ignore[attr-defined]
    assert (session.progress.n_answered, session.progress.n_failed) == (5, 1)
    assert session.progress.settled_cost_usd + session.progress.lost_cost_usd == pytest.approx(6 * 3 * 2e-5)
    finish_run(plan.run_dir, session.progress, str(folder / "half.jsonl"))
    with connect(lake) as db:
        failed = db.execute("select problem_id, error_type, error_message from trajectories where status = 'failed'")
        assert failed.fetchall() == [("forgotten-4", "forgotten", "row 5: forgotten (r2 lake forget)")]
    assert accounts(lake)["wrong"] == [[], [], [], []]
    assert verify_lake(lake) == []
    assert len((folder / "half.jsonl").read_bytes().splitlines()) == 4


def test_done_again_it_changes_nothing(folder: Path):
    lake = folder / "lake"
    forget(lake, IDS)
    with unchanged(lake):
        assert forget(lake, IDS, is_dry=True).found == []
        assert CliRunner().invoke(app, ["lake", "forget", *IDS, "--lake", str(lake)]).stdout == (
            f"{lake}: nothing of 2 ids\n"
        )


def test_a_dry_run_says_what_the_run_then_does_and_changes_nothing(folder: Path):
    lake = folder / "lake"
    with unchanged(lake):
        dry = forget(lake, IDS, is_dry=True)
    assert forget(lake, IDS).found == dry.found
    assert ("rows of feedback", plan_of(lake, "whole").run_id, 1) in dry.found


def test_only_the_named_run_is_touched(folder: Path):
    lake = folder / "lake"
    whole, half = plan_of(lake, "whole"), plan_of(lake, "half")
    forget(lake, ["anna-1"], [half.run_id], searches=False)
    with connect(lake) as db:
        left = db.execute("select run_id from trajectories where problem_id = 'anna-1'").fetchall()
    assert left == [(whole.run_id,)]
    assert any(problem.problem_id == "anna-1" for problem, _ in read_plan(whole.run_dir).rows(0))
    assert WORDS in (lake / "_rows" / "0123456789abcdef.jsonl").read_bytes()


def test_words_that_other_rows_have_as_well_are_named(folder: Path):
    """The question of anna-1, asked once more by somebody without an id."""
    lake = folder / "lake"
    question = next(p.question for p, _ in plan_of(lake, "whole").rows(0) if p.problem_id == "anna-1")
    rows = unit_of([0], "run-x")
    rows["trajectories"] = [rows["trajectories"][0].__class__(**_fields(rows["trajectories"][0]) | {"input": question})]
    Lake(lake).commit("run-x", "00000-0", rows)
    done = CliRunner().invoke(app, ["lake", "forget", *IDS, "--lake", str(lake), "--yes"])
    assert done.exit_code == 1
    assert "still there: " in done.stdout
    assert "Run run-x has the same words in 'p0'" in done.stderr


def _fields(row: object) -> dict[str, object]:
    return {name: getattr(row, name) for name in type(row).__slots__}  # type: ignore[attr-defined]


def test_a_run_that_is_being_worked_on_is_refused_by_name_and_nothing_is_changed(folder: Path):
    lake = folder / "lake"
    plan = plan_of(lake, "half")
    before = accounts(lake), files_with(lake, WORDS)
    with Lake(lake).run_lock(plan.run_id), pytest.raises(RunLockedError, match=plan.run_id):
        forget(lake, IDS)
    with Journal.open(lake / "_evaluations" / "calls.journal"), pytest.raises(RunLockedError, match=r"calls\.journal"):
        forget(lake, IDS)
    assert (accounts(lake), files_with(lake, WORDS)) == before


def test_a_place_in_a_file_is_no_name_of_a_person(folder: Path):
    with pytest.raises(ConfigError, match="line-3: the name of a row without an id"):
        forget(folder / "lake", ["line-3"])
    with pytest.raises(ConfigError, match=r"--in-run nobody: .* has no such run"):
        forget(folder / "lake", ["line-3"], ["nobody"])


def test_the_command_asks_first_and_takes_ids_from_a_file(folder: Path):
    lake = folder / "lake"
    ids = folder / "ids.txt"
    ids.write_text("\n".join(IDS) + "\n", "utf-8")
    command = ["lake", "forget", "--ids", str(ids), "--lake", str(lake)]
    with unchanged(lake):
        asked = CliRunner().invoke(app, command)
        assert isinstance(asked.exception, ConfigError) and "say --yes" in str(asked.exception)
        dry = CliRunner().invoke(app, [*command, "--dry-run"])
        assert "rows of trajectories: 2" in dry.stdout
    done = CliRunner().invoke(app, [*command, "--yes"])
    assert done.exit_code == 0, done.output
    assert files_with(lake, WORDS) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from storage.forgetting.forget import forget
left, real = int(sys.argv[2]), os.fsync
def fsync(descriptor):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
os.fsync = fsync
forget(Path(sys.argv[1]), sys.argv[3:], searches=False)
print(int(sys.argv[2]) - left)
"""


def ended(lake: Path, most: int) -> subprocess.CompletedProcess[str]:
    """A process of its own forgets, and is killed where it would sync a file for the `most`-th time."""
    command = [sys.executable, "-c", KILLED, str(lake), str(most), *IDS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_ends_it(folder: Path):
    lake, kept = folder / "lake", folder.with_name(f"{folder.name}.kept")
    before = accounts(lake)
    whole = ended(lake, 1_000_000)
    assert whole.returncode == 0, whole.stderr
    n_moments = int(whole.stdout)
    assert n_moments > 10
    for most in range(0, n_moments):
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        assert ended(lake, most).returncode == -signal.SIGKILL
        assert forget(lake, IDS).still == []
        assert files_with(lake, WORDS) == [], most
        assert accounts(lake) == before, most
        assert verify_lake(lake) == [], most
        plan = plan_of(lake, "half")
        with Journal.open(plan.journal_file(2)) as journal:
            assert paid_usd(journal) == pytest.approx(6 * 2e-5), most


def test_killed_in_the_middle_the_same_command_ends_it(folder: Path):
    """The same at some of its moments; `make test-slow` tries all."""
    lake, kept = folder / "lake", folder.with_name(f"{folder.name}.kept")
    before = accounts(lake)
    for most in (9, 21, 33):
        assert ended(lake, most).returncode == -signal.SIGKILL
        forget(lake, IDS)
        assert files_with(lake, WORDS) == [], most
        assert accounts(lake) == before, most
        assert verify_lake(lake) == [], most
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)


def test_our_own_search_finds_a_word_wherever_it_lies(folder: Path):
    """Against the test's own search, for a word that JSON writes as it is and for a question that it escapes."""
    lake = folder / "lake"
    words = {str(path.relative_to(lake)) for path in found_by_us(lake, {f"Near {WORDS.decode()} it is so"})}
    assert words
    assert words <= set(files_with(lake, WORDS))
    question = next(p.question for p, _ in plan_of(lake, "whole").rows(0) if p.problem_id == "anna-1")
    places = {str(path.relative_to(lake)) for path in found_by_us(lake, {question})}
    assert any("calls/" in place for place in places) and any("shards/" in place for place in places)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    root = tmp_path_factory.mktemp("window")
    Lake(root).commit("run-a", "00000-0", unit_of(range(8)))
    everything = {name: TABLES[name].schema.names for name in ("trajectories", "subtasks", "calls")}
    [found] = windows(root, Lake(root).manifest.live("run-a"), everything)
    return found


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(leaving=st.sets(st.integers(0, 9)))
def test_sums_and_order_are_kept_whoever_leaves(window: dict[str, pa.Table], leaving: set[int]):
    left = forget_in(window, {f"p{index}" for index in leaving})
    names = left["trajectories"]["problem_id"].to_pylist()
    assert names == [f"forgotten-{index}" if index in leaving else f"p{index}" for index in range(8)]
    assert list(dict.fromkeys(left["calls"]["problem_id"].to_pylist())) == names
    for table in ("trajectories", "calls"):
        for column in ("cost_usd", "input_tokens", "output_tokens"):
            assert sum(left[table][column].to_pylist()) == pytest.approx(sum(window[table][column].to_pylist()))
