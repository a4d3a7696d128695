import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2.errors import InputFileError
from r2.problem import Asked, Problem
from r2.settings import AnswerSettings, Columns
from storage.runs.plan import _row_of, _shard_line, plan_run, read_plan
from storage.sources.questions import BadRow, check_readable, detect_format, read_questions


def read(path: Path, **options: object) -> list[Problem | BadRow]:
    return list(read_questions(path, Columns(), **options))  # type: ignore[arg-type]


def test_each_malformed_row_is_named_by_line_and_the_rest_is_read(tmp_path: Path):
    path = tmp_path / "q.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"id": "a", "question": "1 + 1?", "answer": 2, "shade": "kept"}\n'
        b"{broken\n"
        b"\n"
        b'{"id": "a", "question": "again"}\n'
        b'{"id": "n", "question": "a\\u0000b"}\n'
        b'{"id": "s", "question": "\\ud800"}\n'
        b'\xff\xfe{"id": 1}\n'
        b'{"id": "long", "question": "' + b"x" * 10_000_000 + b'"}\n'
        b'{"question": "  "}\n'
        b"[1]\n"
        b'{"id": 5, "question": "last"}'
    )
    rows = read(path)
    assert rows[0] == Problem("a", "1 + 1?", 0, "2", extra={"shade": "kept"})
    assert [(r.line, r.error_type) for r in rows if isinstance(r, BadRow)] == [
        (2, "bad_json"),
        (4, "duplicate_id"),
        (5, "nul_character"),
        (6, "bad_encoding"),
        (7, "bad_encoding"),
        (8, "line_too_long"),
        (9, "missing_question"),
        (10, "bad_json"),
    ]
    assert rows[-1] == Problem("5", "last", 9)
    assert "already used on line 1" in rows[2].message  # type: ignore[union-attr]


def test_a_csv_keeps_quoted_line_ends_and_spoils_one_row_per_bad_byte(tmp_path: Path):
    path = tmp_path / "q.csv"
    path.write_bytes(b'id,question,answer\na,"two\nlines",3\nb,\xffbad,1\nc,short\nd,fine,\n')
    rows = read(path)
    assert rows[0] == Problem("a", "two\nlines", 0, "3")
    assert [(r.line, r.error_type) for r in rows if isinstance(r, BadRow)] == [(4, "bad_encoding"), (5, "bad_csv")]
    assert rows[3] == Problem("d", "fine", 3)


def test_parquet_rows_come_with_their_other_columns(tmp_path: Path):
    path = tmp_path / "q.parquet"
    pq.write_table(
        pa.table({"id": [1, 2], "question": ["x", None], "choices": [["p", "q"], None], "weight": [0.5, 1.0]}), path
    )
    rows = read(path)
    assert rows[0] == Problem("1", "x", 0, choices=("p", "q"), extra={"choices": ["p", "q"], "weight": 0.5})
    assert isinstance(rows[1], BadRow)


def test_gzip_is_read_like_the_file_inside(tmp_path: Path):
    path = tmp_path / "q.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "a", "question": "x"}\n'))
    assert read(path) == [Problem("a", "x", 0)]


@pytest.mark.parametrize(
    "harm",
    [
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:60] + b"\xff" * 40 + packed[100:],
        lambda packed: packed[:-8] + b"\0" * 8,
        lambda packed: b"x" + packed[1:],
    ],
    ids=["cut", "flipped within", "wrong sum at the end", "no gzip"],
)
def test_a_damaged_gzip_file_is_one_message(harm: Callable[[bytes], bytes], tmp_path: Path):
    path = tmp_path / "q.jsonl.gz"
    rows = "".join(json.dumps({"id": str(i), "question": f"What is {i} + {i * i}?"}) + "\n" for i in range(99))
    path.write_bytes(harm(gzip.compress(rows.encode())))
    with pytest.raises(InputFileError, match=r"q.jsonl.gz: cannot be read: .* Get it anew"):
        list(read_questions(path, Columns()))


def test_a_batch_file_is_recognised_and_its_last_user_message_is_the_question(tmp_path: Path):
    path = tmp_path / "batch.jsonl"
    body = {
        "model": "gpt-x",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2 + 2?"}],
    }
    lines = [
        {"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": body},
        {"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": body},
        {"custom_id": "r3", "method": "POST", "url": "/v1/embeddings", "body": {}},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    assert detect_format(path) == "openai-batch"
    first, second, third = read(path)
    assert isinstance(first, Problem)
    assert (first.problem_id, first.question, first.context) == ("r1", "2 + 2?", "Be short.")
    assert isinstance(second, BadRow) and second.error_type == "duplicate_id"
    assert isinstance(third, BadRow) and third.error_type == "unsupported_url"


def test_a_file_that_cannot_be_read_as_a_whole_says_what_to_do(tmp_path: Path):
    with pytest.raises(InputFileError, match="no such file"):
        check_readable(tmp_path / "none.jsonl")
    odd = tmp_path / "q.xlsx"
    odd.write_bytes(b"PK")
    with pytest.raises(InputFileError, match=r"Expected \.jsonl, \.csv"):
        check_readable(odd)
    utf16 = tmp_path / "q.csv"
    utf16.write_text("id,question\n1,x\n", "utf-16")
    with pytest.raises(InputFileError, match="iconv -f UTF-16"):
        read(utf16)


@settings(max_examples=60)
@given(st.binary(max_size=300))
def test_any_bytes_give_rows_or_bad_rows_each_with_its_own_index(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
):
    for name in ("q.jsonl", "q.csv"):
        path = tmp_path_factory.mktemp("any") / name
        path.write_bytes(content)
        try:
            rows = read(path)
        except InputFileError as error:
            assert any(
                said in str(error) for said in ("UTF-16", "no whole JSON array", "the header", "not valid UTF-8")
            )
            continue
        assert [row.input_index for row in rows] == list(range(len(rows)))


def write_questions(path: Path, n: int) -> None:
    path.write_text("".join(json.dumps({"id": f"q{i}", "question": f"{i}?"}) + "\n" for i in range(n)), "utf-8")


def test_a_plan_is_frozen_so_that_other_flags_cannot_change_a_resume(tmp_path: Path):
    source = tmp_path / "q.jsonl"
    write_questions(source, 10)
    first = plan_run(AnswerSettings(input=str(source), lake=str(tmp_path / "lake"), shard_size=4), "pool")
    assert [s.n_rows for s in first.shards] == [4, 4, 2]
    again = plan_run(
        AnswerSettings(input=str(source), lake=str(tmp_path / "lake"), shard_size=7, max_cost_usd=5), "pool"
    )
    assert again.run_id == first.run_id
    assert again.shards == first.shards
    source.unlink()
    assert [p.problem_id for p, _ in read_plan(first.run_dir).rows(2)] == ["q8", "q9"]


def test_other_questions_another_pool_or_another_method_is_another_run(tmp_path: Path):
    source = tmp_path / "q.jsonl"
    write_questions(source, 3)
    base = AnswerSettings(input=str(source), lake=str(tmp_path / "lake"))
    run_ids = {
        plan_run(base, "pool").run_id,
        plan_run(base, "other pool").run_id,
        plan_run(base.model_copy(update={"limit": 2}), "pool").run_id,
        plan_run(
            AnswerSettings(input=str(source), lake=base.lake, reasoning={"method": "cot"}),  # type: ignore[arg-type]
            "pool",
        ).run_id,
    }
    assert len(run_ids) == 4


def test_a_sample_is_seeded_and_keeps_input_order(tmp_path: Path):
    source = tmp_path / "q.jsonl"
    write_questions(source, 50)
    plan = plan_run(AnswerSettings(input=str(source), lake=str(tmp_path / "lake"), sample=5), "pool")
    indices = [p.input_index for p, _ in plan.rows(0)]
    assert len(indices) == 5
    assert indices == sorted(indices)
    again = plan_run(AnswerSettings(input=str(source), lake=str(tmp_path / "lake2"), sample=5), "pool")
    assert [p.input_index for p, _ in again.rows(0)] == indices


def test_a_plain_row_is_stored_as_it_always_was_and_a_row_with_own_settings_comes_back_whole(tmp_path: Path):
    plain = Problem("a", "q", 3, "4", "gsm8k", ("x", "y"), "c", ("z",), {"k": [1]})
    line, is_bad = _shard_line(plain)
    assert not is_bad
    assert line == (
        b'{"problem_id":"a","question":"q","input_index":3,"target":"4","benchmark":"gsm8k","choices":["x","y"],'
        b'"context":"c","aliases":["z"],"extra":{"k":[1]}}\n'
    )
    own = replace(plain, asked=Asked((("system", "s"), ("user", "q")), temperature=0.0, stop=("END",), logprobs=True))
    assert _row_of(_shard_line(own)[0]) == (own, None)
