"""Result lines of every provider, as properties: whatever comes, in whatever pieces, nothing raises and no row is lost
or made up."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2.pool.batch.anthropic import _row_of as anthropic_row
from r2.pool.batch.files import row_of as openai_row
from r2.pool.batch.gemini import _row_of_line as gemini_row
from r2.pool.batch.http import KEPT_BYTES, Lines, address, code_of, count_of, line_of, seconds_of
from r2.pool.batch.protocol import BatchRow

Reader = Callable[[bytes], BatchRow]
READERS: tuple[Reader, ...] = (openai_row, anthropic_row, gemini_row)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
IDS = st.text("0123456789abcdef", min_size=48, max_size=48)
OBJECTS = st.dictionaries(st.text(max_size=8), JSON, max_size=4)


def done(reader: Reader, custom_id: str, reply: Any) -> dict[str, Any]:
    """A line with an answer, in the reader's form."""
    if reader is openai_row:
        return {"id": "r", "custom_id": custom_id, "response": {"status_code": 200, "body": reply}, "error": None}
    if reader is anthropic_row:
        return {"custom_id": custom_id, "result": {"type": "succeeded", "message": reply}}
    return {"key": custom_id, "response": reply}


def read(reader: Reader, content: bytes, cuts: Sequence[int]) -> list[BatchRow]:
    """Rows of a file that comes in the pieces that these cuts make of it."""
    lines, rows, at = Lines(), [], 0
    for cut in [*sorted(cut % (len(content) + 1) for cut in cuts), len(content)]:
        rows += [reader(line) for line in lines.feed(content[at:cut])]
        at = cut
    return rows + [reader(line) for line in lines.end()]


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_row_comes_back_in_any_order_twice_and_in_any_pieces(reader: Reader, data: st.DataObject):
    replies = data.draw(st.dictionaries(IDS, OBJECTS, min_size=1, max_size=6))
    sent = [done(reader, name, reply) for name, reply in replies.items()]
    told = data.draw(st.permutations(sent + data.draw(st.lists(st.sampled_from(sent), max_size=3))))
    end = data.draw(st.sampled_from([b"\n", b"\n\n", b"\r\n"]))
    content = end.join(json.dumps(each).encode() for each in told) + data.draw(st.sampled_from([b"", end]))
    rows = read(reader, content, data.draw(st.lists(st.integers(0, 10_000), max_size=8)))
    assert [(row.custom_id, row.status) for row in rows] == [
        (each.get("custom_id") or each["key"], 200) for each in told
    ]
    assert all(json.loads(row.body) == replies[row.custom_id] for row in rows)


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_file_that_is_cut_anywhere_loses_the_cut_row_alone(reader: Reader, data: st.DataObject):
    names = data.draw(st.lists(IDS, min_size=1, max_size=5, unique=True))
    lines = [json.dumps(done(reader, name, {"n": place})).encode() for place, name in enumerate(names)]
    whole = b"\n".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    n_whole = sum(cut >= sum(map(len, lines[: i + 1])) + i for i in range(len(lines)))
    rows = read(reader, whole[:cut], data.draw(st.lists(st.integers(0, 10_000), max_size=4)))
    assert [row.custom_id for row in rows[:n_whole]] == names[:n_whole]
    assert [(row.custom_id, row.status, row.error) for row in rows[n_whole:]] in ([], [("", 0, "not readable")])


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=60, deadline=None)
@given(line=st.binary(max_size=200) | (JSON | st.just(10**30)).map(lambda value: json.dumps(value).encode()))
def test_a_line_of_anything_is_a_row(reader: Reader, line: bytes):
    row = reader(line)
    assert isinstance(row.custom_id, str) and isinstance(row.body, bytes) and row.status >= 0


@settings(max_examples=60, deadline=None)
@given(custom_id=JSON, response=JSON | st.fixed_dictionaries({"status_code": JSON, "body": JSON}), error=JSON)
def test_a_line_of_the_right_fields_with_anything_in_them_is_a_row(custom_id: Any, response: Any, error: Any):
    row = openai_row(json.dumps({"custom_id": custom_id, "response": response, "error": error}).encode())
    assert row.custom_id == (custom_id if isinstance(custom_id, str) else "")
    for kind in ("succeeded", "errored", "expired", "canceled", "new"):
        result = {"type": kind, "message": response, "error": error}
        row = anthropic_row(json.dumps({"custom_id": custom_id, "result": result}).encode())
        assert (row.status == 200) is (kind == "succeeded") and (row.status == 0) is bool(row.error)
    row = gemini_row(json.dumps({"key": custom_id, "response": response, "error": error}).encode())
    assert (row.status == 200) is isinstance(response, dict)


@given(content=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=10), longest=st.integers(1, 50))
def test_lines_are_the_same_in_any_pieces_and_long_ones_are_cut(content: bytes, cuts: list[int], longest: int):
    lines, found, at = Lines(longest), [], 0
    for cut in [*sorted(min(cut, len(content)) for cut in cuts), len(content)]:
        found += lines.feed(content[at:cut])
        at = cut
    found += lines.end()
    expected = [line for line in content.split(b"\n") if line.strip()]
    short = [line for line in expected if len(line) <= longest]
    assert [line for line in found if len(line) <= longest] == short
    assert all(any(line.startswith(each) for line in expected) for each in found)
    assert len(found) <= len(expected) + sum(len(line) > longest for line in content.split(b"\n"))


def test_a_line_beyond_the_bound_is_given_cut_and_the_next_is_whole():
    lines = Lines(longest=100_000)
    found = lines.feed(b"x" * 90_000) + lines.feed(b"x" * 90_000) + lines.feed(b"x\nnext\n") + lines.end()
    assert [len(line) for line in found] == [KEPT_BYTES, 4] and found[1] == b"next"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"error": {"code": "batch_expired", "message": "late"}}, ("a", 0, "expired")),
        (400, {"error": {"code": "batch_cancelled"}}, ("a", 0, "cancelled")),
        (400, {"error": None}, ("a", 0, "not run")),
    ],
)
def test_a_row_that_did_not_run_says_why(status: int, body: dict[str, Any], expected: tuple[str, int, str]):
    row = openai_row(json.dumps({"custom_id": "a", "response": None, **body}).encode())
    assert (row.custom_id, row.status, row.error) == expected


def test_a_failed_line_of_vllm_has_its_status_and_its_error():
    line = {"custom_id": "a", "response": {"status_code": 400, "body": None}, "error": {"message": "too long"}}
    row = openai_row(json.dumps(line).encode())
    assert (row.status, json.loads(row.body)) == (400, {"error": {"message": "too long"}})


@pytest.mark.parametrize(
    ("code", "status"), [(3, 400), (7, 403), (8, 429), (13, 500), (14, 503), (99, 500), ("x", 500), (None, 500)]
)
def test_an_error_of_gemini_gets_the_status_that_it_has_live(code: Any, status: int):
    row = gemini_row(json.dumps({"key": "a", "error": {"code": code, "message": "m"}}).encode())
    assert (row.status, json.loads(row.body)["error"]) == (status, {"code": status, "message": "m"})


def test_what_a_refusal_says_of_code_and_line():
    assert line_of(b'{"error":{"message":"requests.41.custom_id: String should match"}}') == 42
    assert line_of(b'{"error":{"message":"line 7 is bad"}}') == 7
    assert line_of(b"{}") is None
    assert code_of(b'{"error":{"code":"invalid_value","type":"x"}}') == "invalid_value"
    assert code_of(b'{"type":"error","error":{"type":"invalid_request_error"}}') == "invalid_request_error"
    assert code_of(b'{"error":{"code":400,"status":"INVALID_ARGUMENT"}}') == "INVALID_ARGUMENT"
    assert code_of(b"<html>") == ""


def test_times_counts_and_addresses():
    assert seconds_of("2026-11-27T00:00:00Z") == seconds_of(1_795_737_600) == 1_795_737_600.0
    assert seconds_of("2026-11-27T00:00:00.123456789+01:00") == pytest.approx(1_795_734_000.123456)
    assert seconds_of("soon") is seconds_of(None) is seconds_of(True) is None
    assert (count_of("12"), count_of(12), count_of(-1), count_of("x"), count_of(True)) == (12, 12, None, None, None)
    assert address("https://h/v1/chat/completions", "/batches?limit=1") == "https://h/v1/batches?limit=1"
    assert address("https://h/v1/?a=b", "/files") == "https://h/v1/files?a=b"
    assert address("https://h/v1/messages", "/messages/batches") == "https://h/v1/messages/batches"
