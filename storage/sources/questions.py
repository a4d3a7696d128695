"""Reading question files: JSONL, CSV, Parquet and OpenAI Batch JSONL, one row at a time, in bounded memory.

A row that cannot become a problem is a `BadRow` with its line and its reason; it never stops the rows after it. Only a
file that cannot be read as a whole raises InputFileError. Called by `storage/runs/plan.py`, once per run.
"""

import csv
import hashlib
import itertools
import sqlite3
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import orjson

from r2.errors import InputFileError
from r2.problem import Problem
from r2.settings import Columns
from storage.sources.lines import MAX_LINE_BYTES, LongLine, read_lines
from storage.sources.parquet_rows import parquet_rows

MAX_DEPTH = 240
"""Lists and objects within each other in one value of a row. A file of answers can hold 254."""
LOOK_AHEAD = 1000
"""Rows after which a file without a good one is not taken for OpenAI Batch."""

InputFormat = Literal["jsonl", "csv", "parquet", "openai-batch"]


@dataclass(frozen=True, slots=True)
class BadRow:
    """An input row that could not become a problem. `line` is 1-based, in the file (for Parquet, the row number)."""

    input_index: int
    line: int
    error_type: str
    message: str


class _Bad(Exception):
    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


RawRow = tuple[int, dict[str, Any] | _Bad]


def detect_format(path: Path) -> InputFormat:
    """By file ending; a JSONL file whose first row has `custom_id` and `body` is OpenAI Batch. InputFileError if
    unknown."""
    suffixes = [s for s in path.suffixes if s != ".gz"]
    suffix = suffixes[-1].lower() if suffixes else ""
    if suffix == ".parquet":
        return "parquet"
    if suffix in (".csv", ".tsv"):
        return "csv"
    if suffix not in (".jsonl", ".ndjson", ".json"):
        raise InputFileError(
            f"{path}: cannot tell its format from its ending. Expected .jsonl, .csv, .tsv or .parquet (.gz allowed)."
        )
    first = next((row for _, row in islice(_json_rows(path), LOOK_AHEAD) if isinstance(row, dict)), {})
    return "openai-batch" if "custom_id" in first and "body" in first else "jsonl"


def file_digest(path: Path) -> str:
    """sha256 of the file's bytes, streamed. InputFileError if it cannot be opened."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputFileError(
            f"{path}: cannot be read: {error.strerror}. Check the path and its permissions."
        ) from error


def check_readable(path: Path) -> None:
    """InputFileError, with what to do, if the file is not there or its format is unknown; before
    anything is started."""
    if not path.is_file():
        raise InputFileError(
            f"{path}: no such file. Give the path of a .jsonl, .csv, .tsv or .parquet file of questions."
        )
    detect_format(path)


def read_questions(
    path: Path,
    columns: Columns,
    default_benchmark: str = "",
    limit: int | None = None,
    wanted: Container[int] | None = None,
) -> Iterator[Problem | BadRow]:
    """Rows in input order, numbered by `input_index` from 0: the first `limit`, and of them those in `wanted` (None:
    all).

    Blank lines are not rows. An id seen before makes the later row bad (answers could not be told apart).
    """
    input_format = detect_format(path)
    rows = _ROWS[input_format](path)
    to_problem = _batch_problem if input_format == "openai-batch" else _column_problem
    with _SeenIds() as seen:
        for index, (line, row) in enumerate(islice(rows, limit)):
            if wanted is not None and index not in wanted:
                continue
            try:
                if isinstance(row, _Bad):
                    raise row
                _check_depth(row)
                problem = to_problem(row, line, index, columns, default_benchmark)
                if (first := seen.line_of(problem.problem_id, line)) is not None:
                    raise _Bad(
                        "duplicate_id",
                        f"id {problem.problem_id[:80]!r} was already used on line {first}; ids must be unique",
                    )
                yield problem
            except _Bad as bad:
                yield BadRow(index, line, bad.error_type, f"line {line}: {bad}")


class _SeenIds:
    """Ids seen so far, in a temporary SQLite file: a million ids cost two megabytes of memory, not a hundred."""

    def __enter__(self) -> "_SeenIds":
        self._db = sqlite3.connect("")
        self._db.execute("create table seen (id blob primary key, line integer) without rowid")
        return self

    def __exit__(self, *exc: object) -> None:
        self._db.close()

    def line_of(self, problem_id: str, line: int) -> int | None:
        """The line that used this id before; None notes it as used on `line`."""
        digest = hashlib.blake2b(problem_id.encode(), digest_size=16).digest()
        if self._db.execute("insert or ignore into seen values (?, ?)", (digest, line)).rowcount:
            return None
        return int(self._db.execute("select line from seen where id = ?", (digest,)).fetchone()[0])


def raw_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | Exception]]:
    """(line, row) of a .jsonl, .csv, .tsv or .parquet file; an exception that says why for a line that is no row."""
    return _ROWS[detect_format(path)](path)


def _check_depth(row: Mapping[str, Any]) -> None:
    """_Bad for a row that could be read and not be written again."""
    for column, value in row.items():
        level, depth = [value] if isinstance(value, (dict, list)) else [], 0
        while level:
            depth += 1
            if depth > MAX_DEPTH:
                raise _Bad("too_deep", f"{column!r:.60} is nested more than {MAX_DEPTH} deep")
            inside = itertools.chain.from_iterable(one.values() if isinstance(one, dict) else one for one in level)
            level = [one for one in inside if isinstance(one, (dict, list))]


def _column_problem(row: dict[str, Any], line: int, index: int, columns: Columns, default_benchmark: str) -> Problem:
    named = {
        columns.id,
        columns.question,
        columns.answer,
        columns.benchmark,
        columns.choices,
        columns.context,
        columns.aliases,
    }
    if columns.question not in row:
        raise _Bad(
            "missing_question",
            f"no {columns.question!r} column; found {sorted(row)[:8]}. Map it with --question-column.",
        )
    problem_id = row.get(columns.id)
    if problem_id is None or problem_id == "":
        problem_id = f"line-{line}"
    elif isinstance(problem_id, bool) or not isinstance(problem_id, (str, int)):
        raise _Bad("bad_id", f"{columns.id!r} must be text or a whole number, got {type(problem_id).__name__}")
    return Problem(
        problem_id=_text(str(problem_id), columns.id),
        question=_required_text(row[columns.question], columns.question),
        input_index=index,
        target=_scalar(row.get(columns.answer), columns.answer),
        benchmark=_scalar(row.get(columns.benchmark), columns.benchmark) or default_benchmark,
        choices=_choices(row.get(columns.choices), columns.choices),
        context=_scalar(row.get(columns.context), columns.context) or "",
        aliases=_choices(row.get(columns.aliases), columns.aliases, 1000),
        extra={key: value for key, value in row.items() if key not in named},
    )


def _batch_problem(row: dict[str, Any], line: int, index: int, columns: Columns, default_benchmark: str) -> Problem:
    """The last user message is the question, what stands before it the context; `body.model` is kept but the pool
    answers."""
    custom_id, body = row.get("custom_id"), row.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        raise _Bad("bad_id", "custom_id must be a non-empty text")
    if row.get("url") not in (None, "/v1/chat/completions"):
        raise _Bad("unsupported_url", f"url {row['url']!r:.60}: only /v1/chat/completions can be answered")
    messages = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(messages, list) or not messages:
        raise _Bad("missing_question", "body.messages must be a non-empty list")
    texts = [(_message_role(m), _message_text(m)) for m in messages]
    if texts[-1][0] != "user":
        raise _Bad("missing_question", "the last message must be the user's")
    context = "\n".join(text if role == "system" else f"{role}: {text}" for role, text in texts[:-1])
    body = cast("dict[str, Any]", body)
    return Problem(
        problem_id=_text(custom_id, "custom_id"),
        question=_required_text(texts[-1][1], "body.messages[-1].content"),
        input_index=index,
        benchmark=default_benchmark,
        context=_text(context, "body.messages"),
        extra={"body": {key: value for key, value in body.items() if key != "messages"}},
    )


def _message_role(message: Any) -> str:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ("system", "developer", "user", "assistant"):
        raise _Bad("bad_message", f"message role {role!r:.40}: expected system, developer, user or assistant")
    return "system" if role == "developer" else str(role)


def _message_text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise _Bad("bad_message", "only text parts can be answered")
        content = "\n".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise _Bad("bad_message", "message content must be text")
    return content


def _required_text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise _Bad("missing_question", f"{column!r} must be text, got {type(value).__name__}")
    if not value.strip():
        raise _Bad("missing_question", f"{column!r} is empty")
    return _text(value, column)


def _scalar(value: Any, column: str) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _Bad("bad_value", f"{column!r} must be text or a number, got {type(value).__name__}")
    return _text(str(value), column)


def _choices(value: Any, column: str, most: int = 26) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except ValueError:
            value = value.split("|")
    if (
        not isinstance(value, list)
        or not all(isinstance(choice, (str, int, float)) for choice in value)
        or len(value) > most
    ):
        raise _Bad("bad_value", f"{column!r} must be a list of at most {most} texts")
    return tuple(_text(str(choice), column) for choice in value)


def _text(value: str, column: str) -> str:
    if "\x00" in value:
        raise _Bad("nul_character", f"{column!r} holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _Bad("bad_encoding", f"{column!r} is not valid UTF-8 at character {error.start}") from None
    return value


def _json_rows(path: Path) -> Iterator[RawRow]:
    for line, raw in read_lines(path):
        if isinstance(raw, LongLine):
            yield line, _Bad("line_too_long", str(raw))
            continue
        if not raw.strip():
            continue
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            yield line, _Bad("bad_encoding", f"not valid UTF-8 at byte {error.start} of the line")
            continue
        if b"\x00" in raw:
            yield line, _Bad("nul_character", "the line holds a NUL byte")
            continue
        try:
            row = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            kind = "bad_encoding" if "surrogate" in str(error) else "bad_json"
            yield line, _Bad(kind, f"not valid JSON: {error}")
            continue
        yield (
            line,
            row if isinstance(row, dict) else _Bad("bad_json", f"expected a JSON object, got {type(row).__name__}"),
        )


def _csv_rows(path: Path) -> Iterator[RawRow]:
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _CsvLines(path)
    reader = csv.reader(lines, delimiter="\t" if ".tsv" in path.suffixes else ",", strict=True)
    header: list[str] | None = None
    while True:
        lines.n_bytes = 0
        try:
            fields = next(reader, None)
        except (csv.Error, _Bad) as error:
            yield reader.line_num, error if isinstance(error, _Bad) else _Bad("bad_csv", str(error))
            continue
        line = reader.line_num
        if lines.too_long is not None:
            yield line, lines.too_long
            lines.too_long = None
        elif fields is None:
            return
        elif header is None:
            header = fields
        elif not fields:
            continue
        elif len(fields) != len(header):
            yield line, _Bad("bad_csv", f"{len(fields)} fields where the header has {len(header)}")
        else:
            yield line, dict(zip(header, fields, strict=True))


class _CsvLines:
    """The lines of a CSV file as text. Quoted line ends may spread a row over any number of lines: past the limit of a
    row it is bad, and the next line begins another."""

    def __init__(self, path: Path) -> None:
        self._lines = read_lines(path)
        self.n_bytes = 0
        """Of the lines given since this was set to 0."""
        self.too_long: _Bad | None = None

    def __iter__(self) -> "_CsvLines":
        return self

    def __next__(self) -> str:
        _, raw = next(self._lines)
        if isinstance(raw, LongLine):
            self.too_long = _Bad("line_too_long", str(raw))
            return ""
        self.n_bytes += len(raw) + 1
        if self.n_bytes > MAX_LINE_BYTES + 1:
            raise _Bad("line_too_long", f"a row of several lines, over {MAX_LINE_BYTES} bytes. Is a quote left open?")
        # Escaped bytes come out as lone surrogates, which `_text` names per row; one bad byte spoils one row.
        return raw.decode("utf-8", "surrogateescape") + "\n"


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    for row_number, row in enumerate(parquet_rows(path, MAX_LINE_BYTES), start=1):
        yield row_number, _Bad("line_too_long", str(LongLine(row))) if isinstance(row, int) else row


_ROWS: dict[InputFormat, Callable[[Path], Iterator[RawRow]]] = {
    "jsonl": _json_rows,
    "openai-batch": _json_rows,
    "csv": _csv_rows,
    "parquet": _parquet_rows,
}
