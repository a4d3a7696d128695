"""A person's rows out of files of other kinds: question files, label sets, recordings, journals, scores.

`strip_file` takes them out of one file, in one step, and says how many there were; with `is_dry` it only counts. Done
again it finds none.
"""

import csv
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from r2.atomic import replacing, write_atomically
from r2.call import Completion
from storage.evaluations.store import CALLS, FOLDER
from storage.forgetting.theirs import Theirs
from storage.runs.journal import Journal, note_instead

PAYER_BYTES: Final = 32
"""Before each record of the journal that evaluations share: who paid (tasks/evaluation/shared_calls.py)."""
_IDS: Final = ("id", "problem_id", "custom_id")
_QUESTIONS: Final = ("question", "input", "input_text")
_KINDS: Final = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".journal")


def can_strip(path: Path) -> bool:
    """Whether a file is of a kind that rows can be taken out of."""
    return kind_of(path) in _KINDS


def kind_of(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def strip_file(path: Path, theirs: Theirs, *, is_dry: bool) -> int:
    """How many rows of the person the file had."""
    match kind_of(path):
        case ".journal":
            return strip_journal(path, theirs, is_dry=is_dry)
        case ".parquet":
            return _strip_parquet(path, theirs, is_dry=is_dry)
        case ".csv" | ".tsv":
            return _strip_csv(path, theirs, is_dry=is_dry)
        case ".jsonl" | ".ndjson":
            return _strip_lines(path, theirs, is_dry=is_dry)
        case ".json" if path.name == "plan.json":
            return _strip_bands(path, theirs, is_dry=is_dry)
    return 0


def strip_journal(path: Path, theirs: Theirs, *, is_dry: bool, is_all_unmarked: bool = False) -> int:
    """Calls that were made for them, by the address of the request or the mark of the problem; a note of what each cost
    stays. `is_all_unmarked`: records of an earlier version, which have no mark, too: the journal has calls of theirs,
    and of these nobody can say whose they are."""
    marks = theirs.marks if theirs.is_sure(path) else set()
    is_shared = path.parent.name == FOLDER and path.name == CALLS

    def paid(record: bytes) -> tuple[float, bytes] | None:
        payer, stored = (record[:PAYER_BYTES], record[PAYER_BYTES:]) if is_shared else (b"", record)
        try:
            about = orjson.loads(stored)
        except orjson.JSONDecodeError:  # no completion: not written by a run
            return None
        is_theirs = about.get("request_sha") in theirs.request_shas or about.get("problem") in marks
        if not is_theirs and not (is_all_unmarked and "problem" not in about):
            return None
        return Completion.from_bytes(stored).cost_usd, payer

    if not is_dry:
        return note_instead(path, paid)
    with Journal.glance(path) as journal:
        return sum(paid(record) is not None for _, record in journal.records())


def _strip_lines(path: Path, theirs: Theirs, *, is_dry: bool) -> int:
    """JSON lines: questions, answers, or a recording."""
    n, is_sure = 0, theirs.is_sure(path)

    def staying() -> Iterator[bytes]:
        nonlocal n
        with _opened(path) as file:
            for line in file:
                try:
                    row = orjson.loads(line)
                except orjson.JSONDecodeError:
                    row = None
                if isinstance(row, dict) and _is_theirs(row, theirs, is_sure):
                    n += 1
                elif isinstance(row, dict) and "evaluation" in row and (n_header := _of_header(row, theirs, is_sure)):
                    n += n_header
                    yield orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
                else:
                    yield line

    for _ in staying():
        pass
    if n and not is_dry:
        n = 0
        with _replacing(path) as file:
            file.writelines(staying())
    return n


def _is_theirs(row: dict[str, Any], theirs: Theirs, is_sure: bool) -> bool:
    if row.get("request_sha") in theirs.request_shas:
        return True
    said = _first(row, _QUESTIONS)
    return any(theirs.is_row(row.get(name), said, is_sure=is_sure) for name in _IDS)


def _of_header(header: dict[str, Any], theirs: Theirs, is_sure: bool) -> int:
    """Takes their problems out of the first line of the recording of an evaluation; how many."""
    problems = (header.get("evaluation") or {}).get("problems", {})
    n = 0
    for side in ("dev", "test"):
        rows = problems.get(side, [])
        problems[side] = [row for row in rows if not _is_theirs(row, theirs, is_sure)]
        n += len(rows) - len(problems[side])
    return n + _drop_keys(problems.get("bands", {}), theirs, is_sure)


def _strip_bands(path: Path, theirs: Theirs, *, is_dry: bool) -> int:
    """The plan of an evaluation has the difficulty of each problem by its id."""
    stored = orjson.loads(path.read_bytes())
    is_sure = theirs.is_sure(path)
    n = sum(_drop_keys(stored.get(name, {}), theirs, is_sure) for name in ("difficulty", "gold_difficulty"))
    if n and not is_dry:
        write_atomically(path, orjson.dumps(stored, option=orjson.OPT_INDENT_2))
    return n


def _drop_keys(by_id: dict[str, Any], theirs: Theirs, is_sure: bool) -> int:
    leaving = [name for name in by_id if name in theirs.ids] if is_sure else []
    for name in leaving:
        del by_id[name]
    return len(leaving)


def _strip_parquet(path: Path, theirs: Theirs, *, is_dry: bool) -> int:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        named = next((name for name in _IDS if name in schema.names), None)
        asked = next((name for name in _QUESTIONS if name in schema.names), None)
        if named is None or not pa.types.is_string(schema.field(named).type):
            return 0
        columns, is_sure = [named, *([asked] if asked else [])], theirs.is_sure(path)
        n = 0
        for group in range(file.num_row_groups):
            n += len(_places(file.read_row_group(group, columns=columns), named, asked, theirs, is_sure))
        if not n or is_dry:
            return n
        with replacing(path) as sink, pq.ParquetWriter(sink, schema, compression="zstd") as writer:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                leaving = set(_places(rows, named, asked, theirs, is_sure))
                writer.write_table(rows.take([at for at in range(rows.num_rows) if at not in leaving]))
    return n


def _places(rows: pa.Table, named: str, asked: str | None, theirs: Theirs, is_sure: bool) -> list[int]:
    ids = rows[named].to_pylist()
    said = [None] * len(ids) if asked is None else rows[asked].to_pylist()
    both = enumerate(zip(ids, said, strict=True))
    return [at for at, (name, question) in both if theirs.is_row(name, question, is_sure=is_sure)]


def _strip_csv(path: Path, theirs: Theirs, *, is_dry: bool) -> int:
    delimiter = "\t" if kind_of(path) == ".tsv" else ","
    with _opened(path) as file:
        rows = list(csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), delimiter=delimiter))
    head = rows[0] if rows else []
    named = next((name for name in _IDS if name in head), None)
    if named is None:
        return 0

    def is_theirs(row: list[str]) -> bool:
        by_name = dict(zip(head, row, strict=False))
        return theirs.is_row(by_name.get(named), _first(by_name, _QUESTIONS), is_sure=theirs.is_sure(path))

    staying = [row for n, row in enumerate(rows) if n == 0 or not is_theirs(row)]
    if len(staying) < len(rows) and not is_dry:
        with _replacing(path) as sink:
            text = io.TextIOWrapper(sink, "utf-8", newline="")
            csv.writer(text, delimiter=delimiter).writerows(staying)
            text.detach()
    return len(rows) - len(staying)


def _first(row: dict[str, Any], names: tuple[str, ...]) -> object:
    return next((row[name] for name in names if name in row), None)


def _opened(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    with replacing(path) as file:
        if path.suffix != ".gz":
            yield file
            return
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped:
            yield cast("BinaryIO", zipped)
