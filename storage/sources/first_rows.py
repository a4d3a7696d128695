"""A file of which nothing can be asked is refused before any model is started, with the reason and what mends it."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Final

from r2.errors import InputFileError
from r2.problem import Problem
from r2.settings import Columns
from storage.sources.lines import in_utf8
from storage.sources.questions import BadRow, InputFormat, detect_format, read_questions

LOOK_AHEAD: Final = 100
_OF_THE_FILE: Final = frozenset({"missing_question", "bad_json", "bad_csv", "bad_encoding"})
"""Reasons that lie in the form of a file or in the names of its columns, and not in single rows."""


def check_some_can_be_asked(path: Path, columns: Columns) -> None:
    """InputFileError if each of the first 100 rows is bad, or each of fewer for a reason of the whole file.

    The lines of a short batch file are refused one by one, each under its `custom_id`.
    """
    input_format = detect_format(path)
    if refused := why_none(path, read_questions(path, columns, limit=LOOK_AHEAD), input_format):
        raise InputFileError(refused)


def why_none(path: Path, rows: Iterable[Problem | BadRow], input_format: InputFormat) -> str | None:
    """What to say of a file whose first rows are all bad; None where one is good, or the bad ones are told singly."""
    bad: list[BadRow] = []
    for row in islice(rows, LOOK_AHEAD):
        if isinstance(row, Problem):
            return None
        bad.append(row)
    reasons = [row.error_type for row in bad]
    is_short = len(bad) < LOOK_AHEAD
    if not bad or (is_short and (input_format.endswith("-batch") or not _OF_THE_FILE.issuperset(reasons))):
        return None
    most = max(dict.fromkeys(reasons), key=reasons.count)
    first = next(row for row in bad if row.error_type == most)
    n_rows = f"the first {LOOK_AHEAD} rows" if not is_short else f"its {len(bad)} rows"
    return (
        f"{path}: none of {n_rows} can be asked. {first.message[:1].upper()}{first.message[1:]}"
        f"{_mended(path, most, first.message)}"
    )


def _mended(path: Path, error_type: str, said: str) -> str:
    if error_type == "bad_encoding":
        return "" if in_utf8(path) in said else f". The whole command: {in_utf8(path)}"
    if error_type == "bad_json":
        return f". Expected one JSON object per line; jq -c . {path.name} > {path.stem}.lines.jsonl writes them"
    if error_type == "bad_csv":
        return ". Expected a header, then rows with as many fields, parted by a comma, a semicolon, a tab or a bar"
    if error_type == "missing_question" and "--question-column" not in said:
        return ". --question-column names the column of the question"
    return ""
