"""`r2 evaluate --outcomes`: words, exit codes, what is printed and kept."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.command import _repeated
from r2.errors import R2Error
from tests.support.recorded import recorded_rows, write_rows


def asked(*words: str):
    return CliRunner().invoke(app, ["evaluate", *words], env={"COLUMNS": "240"})


def test_recorded_answers_are_compared_printed_and_kept(tmp_path: Path):
    one = write_rows(tmp_path / "one.jsonl", recorded_rows(60))
    two = write_rows(tmp_path / "two.jsonl", recorded_rows(60, benchmark="others"))
    names = "agreement_cascade,counted,confidence_cascade"
    lake = tmp_path / "lake"
    done = asked("--outcomes", str(one), str(two), "--methods", names, "--lake", str(lake))
    assert done.exit_code == 0, done.output
    for words in (
        "all: 120 questions, cross-fitted by question, 5 folds",
        "sums: 60 questions",
        "others: 60 questions",
        "agreement_cascade",
        "oracle",
        "confidence_cascade is not in this table: the table has no confidences",
        "no call was made",
    ):
        assert words in done.stdout
    assert "fold 5 of 5: counted" in done.stderr
    [path] = (lake / "_recorded").glob("recorded-*.json")
    assert str(path) in done.stdout
    kept = json.loads(path.read_bytes())
    assert [scope["name"] for scope in kept["scopes"]] == ["all", "sums", "others"]
    assert kept["not_played"].keys() == {"confidence_cascade"}


def test_a_test_file_is_played_once_by_what_was_fitted_on_the_others(tmp_path: Path):
    one = write_rows(tmp_path / "one.jsonl", recorded_rows(60))
    both = write_rows(tmp_path / "two.jsonl", [*recorded_rows(3), *recorded_rows(40, seed=1)])
    words = ["--outcomes", str(one), "--test", str(both), "--methods", "agreement_cascade"]
    done = asked(*words, "--lake", str(tmp_path / "lake"))
    assert done.exit_code == 0, done.output
    assert "all: 40 questions, fitted on 60 questions of --outcomes, played once on --test" in done.stdout
    assert "--test: 3 of 43 questions are in --outcomes too and are left out" in done.stderr
    dry = asked(*words, "--dry-run", "--lake", str(tmp_path / "none"))
    assert dry.stdout.splitlines() == [
        "--outcomes: 60 questions, 3 models; no call is made",
        "--test: 43 questions, 3 models; no call is made",
    ]
    assert not (tmp_path / "none").exists()


def test_a_tuned_scorer_stands_against_its_own_start(tmp_path: Path):
    one = write_rows(tmp_path / "one.jsonl", recorded_rows(44))
    words = ["--outcomes", str(one), "--methods", "scorer,scorer_grpo", "--folds", "1", "--seeds", "2"]
    done = asked(*words, "--lake", str(tmp_path / "lake"))
    assert done.exit_code == 0, done.output
    assert "fitted on the other half of the questions, played once" in done.stdout
    assert "all: against their own start" in done.stdout
    for row in ("scorer_grpo, seed 0", "scorer_grpo, seed 1", "scorer_grpo, mean of 2 seeds"):
        assert row in done.stdout
    kept = json.loads(next((tmp_path / "lake" / "_recorded").glob("*.json")).read_bytes())
    assert len(kept["scopes"][0]["starts"]) == 3 * 4  # without an agreement cascade four aims are left


def test_counts_that_mean_nothing_are_refused(tmp_path: Path):
    one = write_rows(tmp_path / "one.jsonl", recorded_rows(20))
    for words, said in (
        (["--seeds", "0"], "--seeds 0: expected at least 1"),
        (["--folds", "0"], "--folds 0: expected at least 1"),
        (["--folds", "3", "--test", str(one)], "--folds: has no meaning with --test"),
    ):
        assert said in str(asked("--outcomes", str(one), *words).exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--test", "FILE"], "--test: recorded answers to test on need --outcomes"),
        (["--outcomes", "FILE", "--pool", "pools/local.toml"], "--pool: has no meaning with --outcomes"),
        (["--outcomes", "FILE", "--max-cost-usd", "1"], "--max-cost-usd: has no meaning with --outcomes"),
        (["--outcomes", "FILE", "--methods", "tot"], "--methods tot: no method on recorded answers"),
        (["--outcomes", "FILE", "--test", "FILE"], "--test: every question is in --outcomes too"),
        (["--outcomes", "none.parquet"], "none.parquet: cannot be read: No such file"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path: Path, words: list[str], message: str):
    path = write_rows(tmp_path / "one.jsonl", recorded_rows(40))
    done = asked(*(str(path) if word == "FILE" else word for word in words), "--lake", str(tmp_path / "lake"))
    assert isinstance(done.exception, R2Error)
    assert message in str(done.exception)


def test_a_folder_of_weights_in_the_environment_is_no_flag_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Allocators on another base than `tiny` are trained from it; the other methods do not look there."""
    one = write_rows(tmp_path / "one.jsonl", recorded_rows(40))
    monkeypatch.setenv("R2_MODELS_DIR", str(tmp_path / "models"))
    words = ["--outcomes", str(one), "--folds", "1", "--lake", str(tmp_path / "lake")]
    assert asked(*words, "--methods", "best constant").exit_code == 0
    done = asked(*words, "--methods", "allocator_sft:smollm2")
    assert f"{tmp_path / 'models'}" in str(done.exception)
    assert "Fetch it with: r2 pool fetch smollm2-135m-instruct" in str(done.exception)


def test_several_files_follow_one_flag():
    flags = ("--outcomes", "--test")
    words = ["--outcomes", "a", "b", "--methods", "x", "--test", "c", "d"]
    spread = ["--outcomes", "a", "--outcomes", "b", "--methods", "x", "--test", "c", "--test", "d"]
    assert _repeated(words, flags) == spread
    assert _repeated(spread, flags) == spread
    assert _repeated(["--outcomes=a", "b"], flags) == ["--outcomes=a", "--outcomes", "b"]
    assert _repeated(["x", "y"], ()) == ["x", "y"]
