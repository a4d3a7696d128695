"""Reading question files: JSONL, CSV, Parquet and the providers' batch JSONL, one row at a time, in bounded memory.

A row that cannot become a problem is a `BadRow` with its line and its reason; it never stops the rows after it. Only a
file that cannot be read as a whole raises InputFileError. Called by `storage/runs/plan.py`, once per run.
"""

import hashlib
import itertools
import sqlite3
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, get_args

import orjson

from r2.answering.prompts import MODEL_LETTERS
from r2.errors import InputFileError
from r2.problem import Asked, Problem
from r2.settings import Columns
from storage.sources.asked import KEPT, PARAMETERS, asked_of, conversation, parted, rendered
from storage.sources.batch_lines import ID_FIELDS, BatchFormat, batch_format_of, batch_problem
from storage.sources.csv_rows import csv_rows
from storage.sources.json_rows import json_rows
from storage.sources.parquet_rows import parquet_file_rows
from storage.sources.values import (
    RawRow,
    RowError,
    choices,
    encodable,
    gold,
    labelled_choices,
    required_text,
    scalar,
    text,
)

MAX_DEPTH = 240
"""Lists and objects within each other in one value of a row. A file of answers can hold 254."""
LOOK_AHEAD = 1000
"""Rows after which a file without a good one is not taken for a batch file."""

InputFormat = Literal["jsonl", "csv", "parquet", BatchFormat]


@dataclass(frozen=True, slots=True)
class BadRow:
    """An input row that could not become a problem. `line` is 1-based, in the file (for Parquet, the row number).

    `given_id` is the row's own id and `extra` its other columns, "" and empty where they cannot be read.
    """

    input_index: int
    line: int
    error_type: str
    message: str
    given_id: str = ""
    question: str = ""
    extra: Mapping[str, object] = field(default_factory=dict)


def detect_format(path: Path) -> InputFormat:
    """By file ending; a JSON file whose first row is a batch line is a batch file. InputFileError if unknown."""
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
    first = next((row for _, row in islice(json_rows(path), LOOK_AHEAD) if isinstance(row, dict)), {})
    return batch_format_of(first) or "jsonl"


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
    with _SeenIds() as seen:
        for index, (line, row) in enumerate(islice(_ROWS[input_format](path), limit)):
            if wanted is not None and index not in wanted:
                continue
            try:
                if isinstance(row, RowError):
                    raise row
                _check_depth(row)
                if input_format in get_args(BatchFormat):
                    problem = batch_problem(row, index, default_benchmark, input_format)  # type: ignore[arg-type]
                else:
                    problem = _column_problem(row, line, index, columns, default_benchmark)
                if (first := seen.line_of(problem.problem_id, line)) is not None:
                    raise RowError(
                        "duplicate_id",
                        f"id {problem.problem_id[:80]!r} was already used on line {first}; ids must be unique",
                    )
                yield problem
            except RowError as bad:
                found = row if isinstance(row, dict) else row.found
                id_column = _id_column(input_format, columns)
                yield _bad_row(index, line, bad, found, id_column, columns.question)


def _id_column(input_format: InputFormat, columns: Columns) -> str:
    return next((name for batch, name in ID_FIELDS.items() if batch == input_format), columns.id)


def _bad_row(index: int, line: int, bad: RowError, row: Mapping[str, Any], id_column: str, question: str) -> BadRow:
    """The row with what can be kept of it, so that its owner finds it again."""
    kept = {column: value for column, value in row.items() if _is_storable(column, value)}
    given_id = kept.pop(id_column, None)
    asked = kept.pop(question, "")
    kept.pop("messages", None)
    if isinstance(given_id, bool) or not isinstance(given_id, (str, int)) or "\x00" in str(given_id):
        given_id = ""
    if not isinstance(asked, str) or "\x00" in asked:
        asked = ""
    named = f" (id {given_id!r:.80})" if given_id != "" and bad.error_type != "duplicate_id" else ""
    return BadRow(index, line, bad.error_type, f"line {line}: {bad}{named}", str(given_id), asked, kept)


def _is_storable(column: str, value: object) -> bool:
    try:
        _check_depth({column: value})
        orjson.dumps({column: value}, default=str)
    except (RowError, TypeError, ValueError, RecursionError):
        return False
    return True


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
    """RowError for a row that could be read and not be written again."""
    for column, value in row.items():
        level, depth = [value] if isinstance(value, (dict, list)) else [], 0
        while level:
            depth += 1
            if depth > MAX_DEPTH:
                raise RowError("too_deep", f"{column!r:.60} is nested more than {MAX_DEPTH} deep")
            inside = itertools.chain.from_iterable(one.values() if isinstance(one, dict) else one for one in level)
            level = [one for one in inside if isinstance(one, (dict, list))]


def _column_problem(row: dict[str, Any], line: int, index: int, columns: Columns, default_benchmark: str) -> Problem:
    """A row of a table: a question, or a conversation in `messages`, whose further columns are then its parameters."""
    is_conversation = row.get(columns.question) in (None, "") and row.get("messages") not in (None, "")
    if columns.question not in row and not is_conversation:
        raise RowError(
            "missing_question",
            f"no {columns.question!r} column; found {sorted(row)[:8]}. Map it with --question-column (in --problems: "
            "file:PATH?question=NAME), or give the conversation in a column 'messages'.",
        )
    problem_id = row.get(columns.id)
    if problem_id in (None, "") and is_conversation:
        problem_id = row.get("custom_id")
    if problem_id is None or problem_id == "":
        problem_id = f"line-{line}"
    elif isinstance(problem_id, bool) or not isinstance(problem_id, (str, int)):
        raise RowError("bad_id", f"{columns.id!r} must be text or a whole number, got {type(problem_id).__name__}")
    target, also_right = gold(row.get(columns.answer), columns.answer)
    listed = row.get(columns.choices)
    if (labelled := labelled_choices(listed)) is not None:
        labels, listed = labelled
        if target in labels:
            target = MODEL_LETTERS[labels.index(target)]
    context = scalar(row.get(columns.context), columns.context) or ""
    asked: Asked | None = None
    if is_conversation:
        if context:
            raise RowError("unsupported_field", f"{columns.context!r}: a conversation has none. Put it into a message")
        asked = _asked_in_columns(row, columns)
        question, context = rendered(asked.messages)
    else:
        question = required_text(row[columns.question], columns.question)
        if columns.request and row.get(columns.request) not in (None, ""):
            asked = _asked_in(row[columns.request], columns.request)
    # The user's columns come back under their own names. Ours has some with the same value, and gold is not for checks
    # that must not see it (`storage/runs/answer_columns.py` adds it).
    apart = {columns.answer, columns.aliases} | ({"messages"} if is_conversation else set())
    apart |= {name for name, called in ((columns.id, "id"), (columns.question, "question")) if name == called}
    extra = {key: value for key, value in row.items() if key not in apart}
    for column, value in extra.items():
        if isinstance(value, str):
            encodable(value, column)
    return Problem(
        problem_id=text(str(problem_id), columns.id),
        question=question,
        input_index=index,
        target=target,
        benchmark=scalar(row.get(columns.benchmark), columns.benchmark) or default_benchmark,
        choices=choices(listed, columns.choices),
        context=context,
        aliases=also_right + choices(row.get(columns.aliases), columns.aliases, 1000),
        extra=extra,
        asked=asked,
    )


def _asked_in_columns(row: Mapping[str, Any], columns: Columns) -> Asked:
    """The request of a row with a conversation: its columns by their names at OpenAI, a `request` column's fields
    before them. Columns with other names are the user's."""
    fields = {name: _from_table(name, value) for name, value in row.items() if value != ""}
    parameters = parted(fields, _plain, is_strict=False)
    if columns.request and fields.get(columns.request) is not None:
        parameters |= _request_fields(fields[columns.request], columns.request)
    messages = conversation(fields["messages"], "messages")
    system = parameters.pop("system", None) or fields.get("system")
    if system is not None:
        messages = (("system", required_text(system, "system")), *messages)
    return asked_of(parameters, _plain, messages)


def _asked_in(value: object, column: str) -> Asked:
    """What the `request` column of a question asks for."""
    fields = _request_fields(value, column)
    system = fields.pop("system", None)
    named = system if system is None else required_text(system, f"{column}.system")
    return asked_of(fields, lambda name: f"{column}.{name}", (), named)


def _request_fields(value: object, column: str) -> dict[str, Any]:
    value = _from_table("request", value)
    if not isinstance(value, dict):
        raise RowError("bad_value", f'{column}: expected an object, such as {{"temperature": 0.3}}')
    system = {"system": value["system"]} if value.get("system") is not None else {}
    rest = {name: inner for name, inner in value.items() if name != "system"}
    return parted(rest, lambda name: f"{column}.{name}", is_strict=True) | system


def _plain(name: str) -> str:
    return name


_TEXTS: Final = frozenset({"system", "reasoning_effort", *KEPT})
"""Columns whose texts are texts. Other parameters may be written as JSON in a table of texts."""


def _from_table(name: str, value: object) -> object:
    """A parameter of a table whose cells are texts, such as CSV: "0.3" is a number, "true" is True."""
    is_read = name in PARAMETERS or name in ("messages", "request")
    if not isinstance(value, str) or not is_read or name in _TEXTS:
        return value
    if name == "stop" and not value.startswith("["):
        return value
    try:
        return orjson.loads(value.lower() if value in ("True", "False") else value)
    except orjson.JSONDecodeError:
        return value


_ROWS: dict[InputFormat, Callable[[Path], Iterator[RawRow]]] = {
    "jsonl": json_rows,
    "csv": csv_rows,
    "parquet": parquet_file_rows,
    "openai-batch": json_rows,
    "anthropic-batch": json_rows,
    "gemini-batch": json_rows,
}
