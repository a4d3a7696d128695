"""`r2 feedback`: which rows of a file are taken, what is said of the others, and what the views make of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from r2.errors import ConfigError, InputFileError
from r2.evaluation.intervals import wilson_interval
from storage.evaluations.verify import verify_lake
from storage.lake.lake import Lake
from storage.runs.feedback import BroughtIn, bring_in
from storage.sql.query import connect
from tests.support.lake_rows import FEEDBACK, problem, worked_lake


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Run a: p0 right, p1 wrong, p2 failed. Runs b and c: p0."""
    return worked_lake(tmp_path / "lake")


def file(lake: Path, *rows: dict[str, Any], name: str = "verdicts.jsonl") -> Path:
    path = lake.parent / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def given(lake: Path, *rows: dict[str, Any], name: str = "verdicts.jsonl", by: str = "") -> BroughtIn:
    return bring_in(lake, file(lake, *rows, name=name), "run-a", by)


def asked(lake: Path, query: str) -> list[tuple[Any, ...]]:
    with connect(lake) as db:
        return db.execute(query).fetchall()


STORED = "select problem_id, is_right, given_by, note from feedback order by given_at, problem_id"


def test_csv_jsonl_and_parquet_say_the_same_in_each_of_their_words(lake: Path):
    (lake.parent / "a.csv").write_text("id,right,by,note\np0,Right,anna,\np1,0,,no unit\n")
    pq.write_table(pa.table({"id": ["p0", "p1"], "right": [True, False]}), lake.parent / "b.parquet")
    for path in (lake.parent / "a.csv", lake.parent / "b.parquet", file(lake, {"id": "p0", "right": "wrong"})):
        assert bring_in(lake, path, "run-a", path.suffix).not_taken == ()
    assert asked(lake, STORED) == [
        ("p0", True, "anna", None),
        ("p1", False, ".csv", "no unit"),
        ("p0", True, ".parquet", None),
        ("p1", False, ".parquet", None),
        ("p0", False, ".jsonl", None),
    ]
    assert asked(lake, "select distinct run_id, rollout, source from feedback order by all") == [
        ("run-a", 0, "a.csv"),
        ("run-a", 0, "b.parquet"),
        ("run-a", 0, "verdicts.jsonl"),
    ]


def test_the_same_file_twice_is_stored_once(lake: Path):
    row = {"id": "p0", "right": True}
    assert given(lake, row, by="anna").n_taken == 1
    again = given(lake, row, by="anna")
    assert (again.n_rows, again.n_taken, again.n_known) == (1, 0, 1)
    assert asked(lake, STORED) == [("p0", True, "anna", None)]
    assert given(lake, row, by="ben").n_taken == 1, "said to be of somebody else it is another verdict"


def test_a_row_that_cannot_be_taken_is_named_with_its_line_and_the_others_are_taken(lake: Path):
    done = given(
        lake,
        {"id": "p0", "right": True},
        {"id": "p7", "right": True},
        {"id": "p2", "right": False},
        {"id": "p1", "right": "perhaps"},
        {"right": 1},
        {"id": "p1", "right": False},
    )
    assert (done.n_rows, done.n_taken, done.n_known) == (6, 2, 0)
    assert [(one.line, one.message.partition(". ")[0]) for one in done.not_taken] == [
        (2, "id 'p7': run run-a has no such question"),
        (3, "id 'p2': the question failed in run run-a: there is no answer to judge"),
        (4, "'right' is 'perhaps': expected true, false, 1, 0, right or wrong"),
        (5, "'id' is empty: expected the id of a question, as in the answers file"),
    ]


def test_what_could_not_be_matched_is_taken_when_the_file_comes_again(lake: Path):
    rows = [{"id": "p0", "right": True}, {"id": "p3", "right": False}]
    assert given(lake, *rows).n_taken == 1
    Lake(lake).commit("run-a", "00001-0", problem(3))
    assert given(lake, *rows).n_taken == 1
    assert given(lake, *rows).n_taken == 0
    assert [row[:2] for row in asked(lake, STORED)] == [("p0", True), ("p3", False)]


def test_the_later_line_of_a_file_counts_and_the_contradiction_is_said(lake: Path):
    rows = [{"id": "p0", "right": True}, {"id": "p0", "right": True}, {"id": "p0", "right": False}]
    done = given(lake, *rows, by="anna")
    assert (done.n_rows, done.n_taken, done.n_known) == (3, 1, 1)
    [said] = done.notices
    assert said.line == 3
    assert said.message == "id 'p0': wrong, but anna said right on line 2; the later line counts"
    assert asked(lake, STORED) == [("p0", False, "anna", None)]


def test_the_newest_verdict_of_a_person_counts_and_an_old_file_stays_old(lake: Path):
    newest = "select is_right, n_right, n_wrong, is_contested from feedback_verdicts"
    files = {"a": True, "b": False, "c": False, "d": True}
    for name, is_right in files.items():
        done = given(lake, {"id": "p0", "right": is_right}, name=f"{name}.jsonl", by="anna")
        assert [one.message for one in done.notices] == (
            {"b": ["id 'p0': wrong, but anna said right before; the newest counts"]}
            | {"d": ["id 'p0': right, but anna said wrong before; the newest counts"]}
        ).get(name, [])
        assert asked(lake, newest) == [(is_right, int(is_right), int(not is_right), False)]
    for name, is_right in files.items():  # all of them once more, as a nightly job would
        assert given(lake, {"id": "p0", "right": is_right}, name=f"{name}.jsonl", by="anna").n_taken == 0
    assert asked(lake, newest) == [(True, 1, 0, False)]


def test_persons_who_contradict_each_other_are_shown_and_most_of_them_count(lake: Path):
    for name, is_right in (("anna", False), ("ben", True)):
        done = given(lake, {"id": "p0", "right": is_right}, by=name)
    assert done.contested == ("p0",)
    shown = "select is_right, is_contested, say_right, say_wrong from feedback_verdicts"
    assert asked(lake, shown) == [(None, True, "ben", "anna")]
    given(lake, {"id": "p0", "right": False}, by="chris")
    assert asked(lake, shown) == [(False, True, "ben", "anna, chris")]


def test_accuracy_is_over_checks_and_people_with_its_interval(lake: Path):
    counts = (
        "select n_settled, n_checked, n_feedback, n_overruled, n_judged, n_right, accuracy, accuracy_low, "
        "accuracy_high from judged_accuracy where run_id = 'run-a'"
    )
    low, high = wilson_interval(1, 2)
    assert asked(lake, counts) == [(3, 2, 0, 0, 2, 1, 0.5, pytest.approx(low), pytest.approx(high))]
    given(lake, {"id": "p0", "right": False}, {"id": "p1", "right": False}, by="anna")
    low, high = wilson_interval(0, 2)
    assert asked(lake, counts) == [(3, 2, 2, 1, 2, 0, 0.0, pytest.approx(low, abs=1e-12), pytest.approx(high))]


def test_compaction_and_verify_cover_feedback(lake: Path):
    given(lake, {"id": "p0", "right": True}, {"id": "p1", "right": False}, by="anna")
    before = asked(lake, STORED)
    assert Lake(lake).compact("run-a") is not None
    assert asked(lake, STORED) == before and verify_lake(lake) == []
    given(lake, {"id": "p0", "right": False}, name="later.jsonl", by="anna")
    assert len(asked(lake, STORED)) == 3
    [path] = [path for path in Lake(lake).files("feedback", "run-a") if ".compact-" in path.name]
    path.write_bytes(path.read_bytes()[:-9])
    assert any(str(path) in wrong for wrong in verify_lake(lake))


def test_a_file_without_the_columns_and_a_run_that_is_not_there_are_refused(lake: Path):
    with pytest.raises(InputFileError, match=r"no column .right.; found id, verdict\. Expected the columns id"):
        given(lake, {"id": "p0", "verdict": True})
    with pytest.raises(InputFileError, match="no such file"):
        bring_in(lake, lake.parent / "none.csv", "run-a")
    good = file(lake, {"id": "p0", "right": True})
    with pytest.raises(ConfigError, match=r"has no run 'run-x'\. Runs: run-a, run-b, run-c"):
        bring_in(lake, good, "run-x")
    with pytest.raises(ConfigError, match="'run-' begins 3 runs"):
        bring_in(lake, good, "run-")


def test_the_command_takes_the_newest_run_and_ends_with_1_where_rows_were_left(lake: Path):
    path = file(lake, {"id": "p0", "right": True}, {"id": "p1", "right": True})
    out = CliRunner().invoke(app, ["feedback", str(path), "--lake", str(lake), "--by", "anna"])
    assert out.exit_code == 0, out.output
    assert "no run is named: the newest, run-a" in out.stderr
    out = CliRunner().invoke(app, ["feedback", str(path), "--lake", str(lake), "--by", "anna", "--run", "run-b"])
    assert out.exit_code == 1 and "line 2: not taken: id 'p1': run run-b has no such question" in out.stderr


def test_a_verdict_of_another_run_says_nothing_of_this_one(lake: Path):
    Lake(lake).commit("run-b", "feedback-0", {"feedback": [replace(FEEDBACK, run_id="run-b")]})
    assert asked(lake, "select run_id, n_feedback from judged_accuracy order by all") == [
        ("run-a", 0),
        ("run-b", 1),
        ("run-c", 0),
    ]
