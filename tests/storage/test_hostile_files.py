"""Question files that somebody else made: whatever they unpack to, each is read within bounds, with a message or one
bad row, and a run over it holds less than 1 GB."""

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2.errors import InputFileError
from r2.problem import Problem
from r2.settings import AnswerSettings, Columns
from storage.lake.lake import Lake
from storage.runs import plan as plans
from storage.runs.answers import write_answers
from storage.runs.plan import plan_run
from storage.sources import lines
from storage.sources.questions import MAX_DEPTH, BadRow, read_questions
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def csv_limit() -> Iterator[None]:
    """The longest field of a CSV is the process's, and some tests make it short."""
    before = csv.field_size_limit()
    yield
    csv.field_size_limit(before)


GOOD = {"id": "good", "question": "What is 2 + 4?"}
MB = 1024 * 1024

PLANNED = """
import json, resource, sys
from pathlib import Path
from r2.errors import R2Error
from r2.settings import AnswerSettings
from storage.runs.plan import plan_run
from storage.sources import parquet_rows
parquet_rows.MEMORY_BYTES = int(sys.argv[3])
try:
    plan = plan_run(AnswerSettings(input=sys.argv[1], lake=sys.argv[2]), "a pool")
    said = [plan.n_requested, plan.n_bad, len(plan.shards)]
except R2Error as error:
    said = str(error)
own = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([said, (int(own.split()[1]) + children) // 1024]))
"""


def planned(path: Path, memory_mb: int = 512) -> tuple[list[int] | str, int]:
    """([rows, bad rows, shards] or the message, peak MB of the process that planned and its children together)."""
    done = subprocess.run(
        [sys.executable, "-c", PLANNED, str(path), str(path.parent / "lake"), str(memory_mb * MB)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    said, peak_mb = json.loads(done.stdout)
    return said, peak_mb


def one_line(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=6) as file:
        for _ in range(200):
            file.write(b"a" * MB)
        file.write(b"\n" + json.dumps(GOOD).encode() + b"\n")


def bomb(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=9) as file:
        for _ in range(300):
            file.write(b"a" * MB)


def blank_lines(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.write(b"\n" * 50 * MB)


def dictionary(path: Path) -> None:
    """3 KiB; read at once, 2 GB."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 127 + [1], pa.int32()), pa.array(["a" * 16 * MB, "2 + 4?"]))
    table = pa.table({"id": [str(i) for i in range(128)], "question": texts})
    pq.write_table(table, path, compression="zstd")


def list_of_a_dictionary(path: Path) -> None:
    """1 KiB; its one row unpacks to 100 GB."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["a" * MB]))
    rows = pa.ListArray.from_arrays(pa.array([0, 100_000], pa.int32()), texts)
    pq.write_table(pa.table({"id": ["a"], "question": ["x"], "other": rows}), path, compression="zstd")


def open_quote(path: Path) -> None:
    path.write_text("id,question\n" + "a,2 + 2?\n" + '"\n",' * 1_100_000 + '"\nb,2 + 3?\n', "utf-8")


def many_columns(path: Path) -> None:
    row = GOOD | {f"column {i}": i for i in range(150_000)}
    path.write_text(json.dumps(row) + "\n" + json.dumps(GOOD | {"id": "b"}) + "\n", "utf-8")


def long_questions(path: Path) -> None:
    """450 MB, of rows that are each within the limit of one."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(150):
            file.write(json.dumps({"id": i, "question": "a" * 3 * MB}) + "\n")


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("one_line.jsonl.gz", one_line, [2, 1, 1]),
        ("bomb.jsonl.gz", bomb, "unpacks to more than 256 MB, over 250 times its size"),
        ("blank.csv.gz", blank_lines, "1000000 blank lines in a row before line"),
        ("dictionary.parquet", dictionary, "none of the first 100 rows can be asked"),
        ("list.parquet", list_of_a_dictionary, "row 1 cannot be unpacked within 512 MB"),
        ("quote.csv", open_quote, None),
        ("columns.jsonl", many_columns, [2, 0, 1]),
        ("questions.jsonl", long_questions, [150, 0, 7]),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_hostile_file_is_planned_in_less_than_1_gb(
    name: str, make: Callable[[Path], None], expected: list[int] | str | None, tmp_path: Path
):
    make(tmp_path / name)
    said, peak_mb = planned(tmp_path / name)
    if isinstance(expected, str):
        assert expected in said
        assert name in said, "a message names the file"
    elif expected is not None:
        assert said == expected
    else:
        assert isinstance(said, list) and said[0] - said[1] >= 1, "the row before the open quote is read"
    assert peak_mb < 1000


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded by RLIMIT_AS")
def test_a_page_that_unpacks_to_more_than_the_limit_is_one_message(tmp_path: Path):
    """3 KiB; its one page unpacks to 80 MB."""
    path = tmp_path / "page.parquet"
    pq.write_table(pa.table({"id": ["a"], "question": ["a" * 80 * MB]}), path, compression="zstd")
    said, peak_mb = planned(path, memory_mb=64)
    assert f"{path}: row 1 cannot be unpacked within 64 MB of memory" in said
    assert peak_mb < 300
    assert planned(path)[0] == [1, 1, 1], "within the limit it is a bad row: longer than a row may be"


def read(path: Path) -> list[Problem | BadRow]:
    return list(read_questions(path, Columns()))


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 300, 900, 100_000])
def test_a_row_that_is_nested_too_deeply_fails_alone(depth: int, tmp_path: Path):
    path = tmp_path / "q.jsonl"
    deep = '{"id": "deep", "question": "What is 2+3?", "z": ' + "[" * depth + "]" * depth + "}"
    path.write_text(deep + "\n" + json.dumps(GOOD) + "\n", "utf-8")
    bad, good = read(path)
    assert isinstance(bad, BadRow) and bad.line == 1 and bad.error_type in ("too_deep", "bad_json")
    assert isinstance(good, Problem) and good.problem_id == "good"
    plan = plan_run(AnswerSettings(input=str(path), lake=str(tmp_path / "lake")), "a pool")
    assert (plan.n_requested, plan.n_bad) == (2, 1)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_row_at_the_limit_of_depth_reaches_the_answers_file(suffix: str, tmp_path: Path):
    path = tmp_path / "q.jsonl"
    deep = '{"id": "deep", "question": "What is 2+3?", "z": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}"
    path.write_text(deep + "\n", "utf-8")
    plan = plan_run(AnswerSettings(input=str(path), lake=str(tmp_path / "lake")), "a pool")
    assert plan.n_bad == 0
    [out] = write_answers(plan, Lake(tmp_path / "lake"), tmp_path / f"a{suffix}")
    assert out.stat().st_size > 0


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=3), JSON | st.integers(0, 400), max_size=4), max_size=4), st.binary())
def test_any_rows_are_planned_and_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], raw: bytes
):
    """A number up to 400 stands for a list nested as deeply. Bytes are appended as they are, behind a good row: whole
    files that are no lines are tested elsewhere."""
    folder = tmp_path_factory.mktemp("rows")
    path = folder / "q.jsonl"
    texts = ['{"id": "first", "question": "1 + 1?"}\n']
    for i, row in enumerate(rows):
        nested = {
            key: "[" * value + "]" * value if isinstance(value, int) and 0 < value <= 400 else json.dumps(value)
            for key, value in row.items()
        }
        fields = [f"{json.dumps(key)}: {text}" for key, text in nested.items()]
        texts.append("{" + ", ".join([f'"id": {i}', '"question": "2 + 2?"', *fields]) + "}\n")
    path.write_bytes("".join(texts).encode() + raw)
    plan = plan_run(AnswerSettings(input=str(path), lake=str(folder / "lake")), "a pool")
    stored = [row for shard in plan.shards for row in plan.rows(shard.index)]
    assert len(stored) == plan.n_requested
    assert sum(bad is not None for _, bad in stored) == plan.n_bad


def test_a_shard_ends_where_its_rows_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plans, "MAX_SHARD_BYTES", 10_000)
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"id": i, "question": "a" * 4000}) + "\n" for i in range(10)), "utf-8")
    plan = plan_run(AnswerSettings(input=str(path), lake=str(tmp_path / "lake")), "a pool")
    assert [shard.n_rows for shard in plan.shards] == [3, 3, 3, 1]
    assert [row.problem_id for shard in plan.shards for row, _ in plan.rows(shard.index)] == [str(i) for i in range(10)]


def test_a_row_that_cannot_be_stored_fails_alone(tmp_path: Path):
    (tmp_path / "q.csv").write_bytes(b"id,question,category\n1,What is 2 + 2?,food\n2,What is 3 + 3?,caf\xe9\n")
    plan = plan_run(AnswerSettings(input=str(tmp_path / "q.csv"), lake=str(tmp_path / "lake")), "a pool")
    [(_, good), (_, bad)] = plan.rows(0)
    assert good is None
    assert bad is not None and "line 3" in bad.message and "'category'" in bad.message


def test_a_long_line_is_a_bad_row_at_any_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in ("storage.sources.lines", "storage.sources.json_rows"):
        monkeypatch.setattr(f"{module}.MAX_LINE_BYTES", 100)
    good = json.dumps(GOOD)
    for length in (99, 100, 101, 102, 350):
        for content in (good + "\n" + "x" * length + "\n" + good, "x" * length, good + "\n" + "x" * length):
            (tmp_path / "q.jsonl").write_text(content, "utf-8")
            found = [row.error_type for row in read(tmp_path / "q.jsonl") if isinstance(row, BadRow)]
            assert (found[0] == "line_too_long") == (length > 100), (length, content)


def test_a_multiline_row_of_csv_is_bounded_and_the_lines_after_it_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for module in ("storage.sources.lines", "storage.sources.csv_rows"):
        monkeypatch.setattr(f"{module}.MAX_LINE_BYTES", 100)
    text = 'id,question\na,"two\nlines?"\nb,"' + "x\n" * 80 + "c,2 + 2?\n"
    (tmp_path / "q.csv").write_text(text, "utf-8")
    rows = read(tmp_path / "q.csv")
    assert [row.problem_id for row in rows if isinstance(row, Problem)] == ["a", "c"]
    assert "line_too_long" in {row.error_type for row in rows if isinstance(row, BadRow)}


def test_blank_lines_are_no_rows_and_too_many_end_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lines, "MAX_BLANK_LINES", 20)
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" * 20 + json.dumps(GOOD | {"id": "b"}) + "\n" * 20, "utf-8")
    assert len(read(path)) == 2
    path.write_text(json.dumps(GOOD) + "\n" * 30 + json.dumps(GOOD | {"id": "b"}), "utf-8")
    with pytest.raises(InputFileError, match="20 blank lines in a row before line 22"):
        read(path)
