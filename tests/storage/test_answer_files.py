"""The answers as a file: the form follows the ending, nothing of the user's is written over."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from r2.errors import ConfigError
from r2.problem import Problem
from storage.runs.answer_files import write_rows
from storage.runs.answers import ANSWER_COLUMNS, _merged, check_out

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


def test_a_column_that_is_called_as_one_of_ours_is_kept_under_another_name():
    extra = {"id": "orig-7", "status": "reviewed", "input_status": "old", "n_calls": 12, "shade": "red"}
    row = _merged(Problem("u1", "2 + 2?", extra=extra), {"status": "answered", "answer": "4"}, ANSWER_COLUMNS)
    assert (row["id"], row["status"], row["answer"], row["shade"]) == ("u1", "answered", "4", "red")
    kept = {name: value for name, value in row.items() if name.startswith("input_")}
    assert kept == {"input_id": "orig-7", "input_status": "old", "input_input_status": "reviewed", "input_n_calls": 12}


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
