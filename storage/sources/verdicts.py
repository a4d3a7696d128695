"""Reading a file of feedback: one row an answer, with its `id` and whether it was `right`; optional `by` and `note`.

JSONL, CSV, TSV or Parquet, by the readers of question files. A row that holds no verdict is a complaint with its line,
and the rows after it are read. Further columns are passed over, so an answers file with a column `right` will do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pyarrow import ArrowException

from r2.errors import InputFileError
from storage.sources.questions import detect_format, raw_rows
from storage.sources.values import RowError, scalar, text

EXPECTED: Final = "Expected the columns id and right (true, false, 1, 0, right or wrong), and optional by and note"
_WORDS: Final[Mapping[str, bool]] = {
    "true": True,
    "1": True,
    "right": True,
    "false": False,
    "0": False,
    "wrong": False,
}
MAX_NAME: Final = 200
"""Letters of a person's name."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row: what a person says of the answer to one question. `line` is 1-based, in the file."""

    line: int
    problem_id: str
    is_right: bool
    given_by: str
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is to be said of one row, and what follows."""

    line: int
    message: str


def read_verdicts(path: Path, given_by: str = "") -> tuple[list[Verdict], list[Complaint]]:
    """The verdicts in the order of the file, and the rows that hold none. `given_by` is who said what names nobody.

    InputFileError for a file that cannot be read, or in which no row has one of the two columns.
    """
    if not path.is_file():
        raise InputFileError(f"{path}: no such file. Give a .jsonl, .csv, .tsv or .parquet file. {EXPECTED}.")
    detect_format(path)
    verdicts: list[Verdict] = []
    bad: list[Complaint] = []
    columns: dict[str, None] = {}
    try:
        for line, row in raw_rows(path):
            try:
                if isinstance(row, Exception):
                    raise row
                columns |= dict.fromkeys(row)
                verdicts.append(_verdict(line, row, given_by))
            except RowError as error:
                bad.append(Complaint(line, f"{error}. Correct the row and give the file again"))
    except (OSError, ValueError, ArrowException) as error:
        raise InputFileError(f"{path}: cannot be read: {error}") from error
    if columns and (missing := [name for name in ("id", "right") if name not in columns]):
        raise InputFileError(
            f"{path}: no column {' or '.join(map(repr, missing))}; found {', '.join([*columns][:12])}. {EXPECTED}."
        )
    return verdicts, bad


def _verdict(line: int, row: Mapping[str, Any], given_by: str) -> Verdict:
    problem_id = scalar(row.get("id"), "id")
    if problem_id is None:
        raise RowError("bad_id", "'id' is empty: expected the id of a question, as in the answers file")
    person = (scalar(row.get("by"), "by") or given_by).strip()
    if len(person) > MAX_NAME:
        raise RowError("bad_value", f"'by' has {len(person)} letters: expected a name of at most {MAX_NAME}")
    return Verdict(line, problem_id, _is_right(row.get("right")), person, scalar(row.get("note"), "note"))


def _is_right(value: object) -> bool:
    word = str(value).strip().lower()
    if isinstance(value, float) and value in (0.0, 1.0):
        return value == 1.0
    if isinstance(value, (bool, int, str)) and word in _WORDS:
        return _WORDS[word]
    shown = text(repr(value), "right")
    raise RowError("bad_value", f"'right' is {shown:.60}: expected true, false, 1, 0, right or wrong")


def last_words(verdicts: Sequence[Verdict]) -> tuple[list[Verdict], list[Complaint], int]:
    """Of several rows of one person about one question the last one; what is to be said of those that it contradicts;
    and how many rows said the same once more."""
    kept: dict[tuple[str, str], Verdict] = {}
    said: list[Complaint] = []
    n_repeated = 0
    for one in verdicts:
        key = (one.problem_id, one.given_by)
        earlier = kept.get(key)
        if earlier is not None and earlier.is_right == one.is_right:
            n_repeated += 1
        elif earlier is not None:
            said.append(
                Complaint(
                    one.line,
                    f"id {one.problem_id!r:.80}: {word(one.is_right)}, but {person(one.given_by)} said "
                    f"{word(earlier.is_right)} on line {earlier.line}; the later line counts",
                )
            )
        kept[key] = one
    return list(kept.values()), said, n_repeated


def word(is_right: bool) -> str:
    return "right" if is_right else "wrong"


def person(given_by: str) -> str:
    return given_by or "somebody unnamed"
