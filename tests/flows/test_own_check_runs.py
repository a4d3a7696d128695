"""A check of the user's own in every command that judges, on simulated models: stored, printed, paid, and asked for
nothing twice."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli.app import app
from r2.errors import ConfigError
from storage.sql.query import connect
from tests.support.paths import ROOT
from tests.support.prefect_api import shared_api
from tests.support.prefect_sockets import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS
NUMBERS = [(12, 3), (45, 8), (67, 2), (38, 6), (91, 7), (54, 9), (23, 4), (76, 5), (19, 8), (84, 3), (37, 7), (62, 9)]
GRADE = """
def ok(row, answer):
    if row["id"] == "q3":
        raise KeyError("no result for q3")
    return answer == row["result"]

def small(row, answer):
    return len(answer) <= 3
"""


@pytest.fixture(scope="module", autouse=True)
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["R2_STATE_DIR"] = str(tmp_path_factory.mktemp("state"))
    with shared_api():
        yield


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with questions, half of them with a gold answer, a grader, a rubric, and a pool that answers at once."""
    rows: list[dict[str, Any]] = []
    for index, (left, right) in enumerate(NUMBERS):
        result = str(left * right + 100)
        row = {"id": f"q{index}", "question": f"What is {left} * {right} + 100?", "result": result}
        rows.append(row | ({"answer": result} if index % 2 else {}))
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (tmp_path / "grade.py").write_text(GRADE, "utf-8")
    (tmp_path / "rubric.txt").write_text("The answer must be the exact result.", "utf-8")
    text = (ROOT / "pools/simulated.toml").read_text("utf-8")
    text = re.sub(r"ttft_s = [\d.]+, tokens_per_s = \d+", "ttft_s = 0.0, tokens_per_s = 1e9", text)
    (tmp_path / "pool.toml").write_text(text, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def r2(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, [*arguments, *("--lake", "lake")], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def answer(*more: str, code: int = 0) -> Result:
    return r2("answer", "q.jsonl", "--pool", "pool.toml", "--method", "cot", "--model", "sim-4b", *more, code=code)


def stored(sql: str) -> list[tuple[Any, ...]]:
    with connect("lake") as db:
        return db.execute(sql).fetchall()


def line_of(output: str, what: str) -> str:
    [line] = [line for line in output.splitlines() if what in line]
    return line


def test_the_users_function_judges_a_run_and_what_it_raises_is_that_rows_own_failure(work: Path):
    done = answer("--check", "grade.py:ok", code=1)
    rows = {row["id"]: row for row in map(json.loads, (work / "q.answers.jsonl").read_text("utf-8").splitlines())}
    assert {row["status"] for row in rows.values()} == {"answered"}
    assert rows["q3"]["is_correct"] is None and rows["q3"]["check_score"] is None
    assert rows["q3"]["check_error"] == "KeyError: 'no result for q3' (line 4)"
    judged = [row for name, row in rows.items() if name != "q3"]
    assert [row["is_correct"] for row in judged] == [row["answer"] == row["result"] for row in judged]
    assert {row["check_error"] for row in judged} == {None}
    assert "n = 11" in line_of(done.stdout, "accuracy")
    assert "grade.py:ok" in line_of(done.stdout, "judged by")
    assert "n = 5" in line_of(done.stdout, "agrees with gold answers"), "of six gold answers q3's was not compared"
    assert "no verdict on 1 answers" in done.stderr
    assert stored("select n_checked, n_errors, n_compared, n_agree from check_agreement") == [(12, 1, 5, 5)]


def test_an_edited_grader_is_another_run_and_rescore_judges_what_is_stored_without_a_call(work: Path):
    answer("--check", "grade.py:ok", code=1)
    answer("--check", "grade.py:ok", code=1)
    [(first,)] = stored("select distinct run_id from trajectories")
    (work / "grade.py").write_text("def ok(row, answer):\n    return 0.25\n", "utf-8")
    answer("--check", "grade.py:ok")
    assert len(stored("select distinct run_id from trajectories")) == 2
    n_calls = stored("select count(*) from calls")
    done = r2("rescore", first, "--check", r"regex:^\d+$")
    assert "12/12" in line_of(done.stdout, "│ right  ")
    rescored = pq.read_table(work / done.stdout.splitlines()[-1]).to_pylist()
    assert {row["check_score"] for row in rescored} == {1.0}
    as_the_run_was = r2("rescore", first)
    assert "0/12" in line_of(as_the_run_was.stdout, "│ right  "), "by the same check, whose file says otherwise now"
    assert stored("select count(*) from calls") == n_calls
    with pytest.raises(ConfigError, match="a judge is a model, and rescore asks none"):
        r2("rescore", first, "--check", "judge:sim-400b")


def test_a_judge_is_paid_in_the_ledger_and_its_agreement_with_gold_answers_is_printed_and_stored(work: Path):
    flags = ("--check", "judge:sim-400b", "--rubric", "rubric.txt")
    dry = answer(*flags, "--dry-run")
    assert re.search(r"judge +│ sim-400b +│ +12", dry.stdout)
    done = answer(*flags)
    [(n, judge_usd)] = stored("select count(*), sum(cost_usd) from calls where purpose = 'judge'")
    [(total_usd,)] = stored("select sum(cost_usd) from trajectories")
    assert n == 12
    assert f"{judge_usd:.6f}" in line_of(done.stdout, "of it judge")
    assert f"{total_usd:.6f}" in line_of(done.stdout, "│ USD  ")
    assert stored("select * from reconcile_cost") == []
    assert "n = 6" in line_of(done.stdout, "agrees with gold answers")
    [(n_compared, n_agree)] = stored("select n_compared, n_agree from check_agreement")
    assert n_compared == 6 and n_agree >= 5
    before = stored("select count(*) from calls")
    answer(*flags)
    assert stored("select count(*) from calls") == before, "the same command pays for nothing twice"


def test_what_the_verifier_refuses_is_asked_of_a_stronger_model(work: Path):
    r2("answer", "q.jsonl", "--pool", "pool.toml", "--verify", "grade.py:small", "--check", "grade.py:ok", code=1)
    found = stored("select failed_checks, n_escalations from trajectories where length(answer) > 3")
    assert found == [], "every result is below 1000"
    (work / "grade.py").write_text(GRADE.replace("<= 3", "< 3"), "utf-8")
    r2("answer", "q.jsonl", "--pool", "pool.toml", "--verify", "grade.py:small")
    [(n, n_refused)] = stored(
        "select count(*), count(*) filter (failed_checks like '%verify%' and n_escalations = 2) from trajectories "
        "where check_score is null and check_error is null"
    )
    assert n == n_refused == 12, "nobody's answer is that short: each was asked of two stronger models"
    with pytest.raises(ConfigError, match="method cot asks no stronger model"):
        answer("--verify", "grade.py:small")


def test_a_judge_that_the_pool_does_not_have_is_named_before_anything_is_asked(work: Path):
    with pytest.raises(ConfigError, match="'nobody' is not in the pool"):
        answer("--check", "judge:nobody", "--rubric", "rubric.txt")
    assert not (work / "lake").exists()


def test_problems_without_gold_answers_are_labelled_by_the_users_check(work: Path):
    flags = ("--problems", "file:q.jsonl", "--pool", "pool.toml", "--candidates", "2", "--out", "sets")
    done = r2("label", *flags, "--check", "grade.py:ok")
    assert "1" in line_of(done.stdout, "dropped: label_no_verdict")
    kept = stored("select count(*) from trajectories where status = 'answered' and is_correct and check_score = 1")
    assert kept == stored("select count(*) from trajectories where status = 'answered'")
    assert kept[0][0] >= 8, "of twelve problems six have a gold answer"
    assert "| answers judged by | grade.py:ok |" in (work / "sets" / "README.md").read_text("utf-8")
    without = r2("label", *flags)
    assert "6" in line_of(without.stdout, "dropped: label_no_target")


def test_an_evaluation_by_another_check_pays_for_no_answer_again_and_charges_no_method_for_the_judge(work: Path):
    flags = ("evaluate", "--problems", "file:q.jsonl", "--pool", "pool.toml", "--b", "0")
    flags = (*flags, "--methods", "direct:sim-0.6b,cot:sim-4b,r2")
    with pytest.raises(ConfigError, match=r"'q0' has no answer to compare with.*--check"):
        r2(*flags)
    by_judge = r2(*flags, "--check", "judge:sim-400b", "--rubric", "rubric.txt")
    assert "judged by: judge:sim-400b" in by_judge.stdout and "agrees with gold answers: " in by_judge.stdout
    by_function = r2(*flags, "--check", "grade.py:ok", code=1)
    assert "paid 0.000000 USD for 0" in by_function.stdout
    assert "no verdict: " in by_function.stdout and "KeyError: 'no result for q3'" in by_function.stdout
    prices = [re.findall(r"cot sim-4b.*?\]\s+([\d.]+) \[", done.stdout) for done in (by_judge, by_function)]
    assert prices[0] == prices[1] != [], "the judge's calls are no part of what a method costs"
