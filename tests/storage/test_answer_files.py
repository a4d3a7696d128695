"""The answers as a file: the form follows the ending, nothing of the user's is written over."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from r2.errors import ConfigError
from r2.problem import Problem
from r2.settings import AnswerSettings, Columns
from storage.lake.lake import Lake
from storage.runs.answer_columns import ANSWER_COLUMNS, merged, shown_names, taken_names
from storage.runs.answer_files import write_rows
from storage.runs.answers import check_out, note_out, out_of, write_answers
from storage.runs.plan import RunPlan, plan_run
from storage.sources.questions import read_questions

ROWS = [
    {"id": "a", "question": "1?", "status": "failed"},
    {"id": "b", "question": "2?", "shade": "red", "status": "answered", "answer": "x\ty"},
]


def questions(folder: Path, name: str = "q.jsonl") -> Path:
    path = folder / name
    path.write_text('{"id": "a", "question": "2 + 2?"}\n', "utf-8")
    return path


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("a.tsv.gz", "\t")])
def test_a_table_has_the_columns_of_its_good_rows_though_the_first_could_not_be_read(
    tmp_path: Path, name: str, delimiter: str
):
    path = tmp_path / name
    write_rows(path, iter(ROWS), ())
    text = gzip.decompress(path.read_bytes()).decode() if name.endswith(".gz") else path.read_text("utf-8")
    bad, good = csv.DictReader(text.splitlines(), delimiter=delimiter)
    assert list(good) == ["id", "question", "shade", "status", "answer"]
    assert (bad["id"], bad["shade"], good["shade"], good["answer"]) == ("a", "", "red", "x\ty")


def test_json_lines_may_be_zipped(tmp_path: Path):
    write_rows(tmp_path / "a.jsonl.gz", iter(ROWS), ())
    lines = gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).splitlines()
    assert [json.loads(line) for line in lines] == ROWS


def test_a_column_called_extra_is_among_the_others_of_a_parquet_file(tmp_path: Path):
    write_rows(tmp_path / "a.parquet", iter([{"id": "a", "question": "1?", "extra": 5, "shade": "red"}]), ())
    [row] = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert json.loads(row["extra"]) == {"extra": 5, "shade": "red"}


def test_a_column_of_the_users_keeps_its_name_and_ours_gets_another(tmp_path: Path):
    extra = {"id": "orig-7", "status": "reviewed", "r2_status": "old", "n_calls": 12, "shade": "red"}
    shown = shown_names(ANSWER_COLUMNS, taken_names(extra))
    settled = {"status": "answered", "answer": "4", "cost_usd": 1.0}
    row = merged(Problem("u1", "2 + 2?", extra=extra), settled, shown, "answer")
    assert list(row)[:2] == ["r2_id", "question"]
    assert {name: row[name] for name in extra} == extra
    assert (row["r2_id"], row["r2_r2_status"], row["answer"], row["cost_usd"]) == ("u1", "answered", "4", 1.0)
    write_rows(tmp_path / "a.parquet", iter([row]), (), shown)
    [stored] = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert (stored["id"], stored["status"], json.loads(stored["extra"])) == ("u1", "answered", extra)


def test_columns_that_were_found_under_other_names_come_back_under_these(tmp_path: Path):
    path = tmp_path / "q.csv"
    path.write_text("qid;prompt;gold\nx1;What is 2 + 2?;4\n", "utf-8")
    columns = Columns(id="qid", question="prompt", answer="gold")
    [problem] = read_questions(path, columns)
    assert isinstance(problem, Problem)
    assert "gold" not in problem.extra  # a check that must not see the gold answer is given these
    row = merged(problem, None, shown_names(ANSWER_COLUMNS, ()), columns.answer)
    assert list(row) == ["id", "question", "qid", "prompt", "gold", *ANSWER_COLUMNS]
    assert [row[name] for name in ("qid", "prompt", "gold", "target")] == ["x1", "What is 2 + 2?", "4", "4"]


def test_without_a_clash_the_columns_are_those_of_ever():
    shown = shown_names(ANSWER_COLUMNS, taken_names(["shade"]))
    row = merged(Problem("u1", "2 + 2?", target="4", extra={"shade": "red"}), None, shown, "answer")
    assert list(row) == ["id", "question", "shade", *ANSWER_COLUMNS]
    assert (row["status"], row["target"], row["answer"]) == ("deferred", "4", None)


def test_money_is_written_as_decimals(tmp_path: Path):
    usd = 0.1e-6 + 0.2e-6 + 12e-6  # 1.2299999999999999e-05 as it is added
    shown = shown_names(ANSWER_COLUMNS, ())
    row = merged(Problem("a", "?", extra={"weight": 1e-07}), {"status": "answered", "cost_usd": usd}, shown, "answer")
    assert row["cost_usd"] == 1.23e-05
    write_rows(tmp_path / "a.csv", iter([row]), ())
    [stored] = csv.DictReader((tmp_path / "a.csv").read_text("utf-8").splitlines())
    assert (stored["cost_usd"], stored["weight"]) == ("0.0000123", "0.0000001")


def plan_of(folder: Path, method: str) -> RunPlan:
    """A run of the method over one row, planned; its answers noted beside the questions."""
    source = questions(folder)
    settings = AnswerSettings.model_validate(
        {"input": str(source), "lake": str(folder / "lake"), "reasoning": {"method": method}}
    )
    return plan_run(settings, "pool")


def test_two_methods_do_not_write_over_each_others_answers(tmp_path: Path):
    first, second = plan_of(tmp_path, "r2"), plan_of(tmp_path, "cot")
    plain = tmp_path / "q.answers.jsonl"
    assert out_of(first, None) == out_of(second, None) == plain
    plain.write_text("answers of r2", "utf-8")
    note_out(first, plain)
    assert (out_of(first, None), out_of(second, None)) == (plain, tmp_path / "q.answers.cot.jsonl")
    assert out_of(second, str(plain)) == plain, "who names the file means it"


def test_further_columns_are_those_that_were_asked_for(tmp_path: Path):
    plan = plan_of(tmp_path, "cot")
    [out] = write_answers(plan, Lake(tmp_path / "lake"), tmp_path / "a.jsonl", ["models", "latency_s"])
    assert list(json.loads(out.read_text("utf-8"))) == ["id", "question", *ANSWER_COLUMNS, "models", "latency_s"]
    with pytest.raises(ConfigError, match="--columns price: expected plan, models, latency_s"):
        check_out(None, tmp_path / "q.jsonl", ["price"])


def test_answers_are_not_written_over_the_questions(tmp_path: Path):
    source = questions(tmp_path)
    (tmp_path / "same.jsonl").symlink_to(source)
    for out in (source, tmp_path / "same.jsonl"):
        with pytest.raises(ConfigError, match="this is the file of the questions"):
            check_out(str(out), source)
    check_out(None, source)
    check_out(str(tmp_path / "a.csv.gz"), source)


@pytest.mark.parametrize("name", ["a.txt", "a.parquet.gz", "answers"])
def test_an_ending_that_nothing_is_written_with_is_refused(tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match=r"Expected an ending of \.jsonl"):
        check_out(str(tmp_path / name), questions(tmp_path))


def test_answers_to_batch_lines_are_lines(tmp_path: Path):
    source = tmp_path / "b.jsonl"
    source.write_text(json.dumps({"custom_id": "a", "body": {"messages": [{"role": "user", "content": "?"}]}}), "utf-8")
    with pytest.raises(ConfigError, match=r"are JSON lines\. Name a \.jsonl file"):
        check_out(str(tmp_path / "a.csv"), source)
    check_out(str(tmp_path / "a.jsonl.gz"), source)
