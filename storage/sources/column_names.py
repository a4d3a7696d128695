"""Which columns hold the question, the id and the right answer, in a file that calls them something else than we do.

A name that the user gave is never changed, and a file with our names is read by them.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, get_args

from r2.errors import InputFileError
from r2.settings import Columns
from storage.sources.batch_lines import BatchFormat
from storage.sources.questions import detect_format, raw_rows

LOOK_AHEAD: Final = 100
"""Rows whose columns are looked at."""
ALSO_CALLED: Final[Mapping[str, tuple[str, ...]]] = {
    "question": (
        "prompt",
        "query",
        "problem",
        "instruction",
        "input",
        "text",
        "question_text",
        "user_prompt",
    ),
    "id": ("qid", "question_id", "prompt_id", "problem_id", "example_id", "row_id", "custom_id", "uuid", "guid"),
    "answer": (
        "gold",
        "gold_answer",
        "target",
        "expected",
        "expected_answer",
        "expected_output",
        "reference",
        "reference_answer",
        "ground_truth",
        "correct_answer",
    ),
}
"""Our name -> other names for the same, in any case."""


def columns_in(path: Path, columns: Columns) -> Columns:
    """The columns as the file has them: where our own name is not there, its only other name.

    InputFileError where several could be the question or the right answer. An id is taken where it names each of the
    first rows. Batch files and conversations have names of their own, and are left alone.
    """
    if detect_format(path) in get_args(BatchFormat):
        return columns
    rows = [row for _, row in islice(raw_rows(path), LOOK_AHEAD) if isinstance(row, dict)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not rows or "messages" in names:
        return columns
    free = [name for name in names if name not in columns.model_dump().values()]
    taken = {}
    for ours in ALSO_CALLED:
        if getattr(columns, ours) != ours or ours in names:
            continue
        found = _called(ours, free)
        if ours == "id":
            found = [name for name in found if _names_each(rows, name)]
            found = found if len(found) == 1 else []
        if len(found) > 1:
            raise InputFileError(
                f"{path}: no column {ours!r}, and {' and '.join(map(repr, found))} could each be meant. Say which: "
                f"--{ours}-column {found[0]}, in --problems file:{path}?{ours}={found[0]}"
                + (". For none of them: --answer-column none, answer=none" if ours == "answer" else "")
            )
        if found:
            taken[ours] = found[0]
    return columns.model_copy(update=taken)


def told(before: Columns, after: Columns, chooses: str = "--question-column") -> str:
    """What was taken for what, in one line that ends with what `chooses` others; "" where nothing was."""
    taken = [
        f"{theirs!r} as {ours!r}" for ours, theirs in after.model_dump().items() if theirs != getattr(before, ours)
    ]
    return f"the columns {', '.join(taken)} are taken ({chooses} and its like choose others)" if taken else ""


def _called(ours: str, names: Sequence[str]) -> list[str]:
    """The names that are ours but for capitals; without any, those that mean the same."""
    same = [name for name in names if name.casefold() == ours]
    return same or [name for name in names if name.casefold().replace(" ", "_") in ALSO_CALLED[ours]]


def _names_each(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    ids = [row.get(name) for row in rows]
    are_ids = all(isinstance(one, (str, int)) and not isinstance(one, bool) and one != "" for one in ids)
    return are_ids and len({str(one) for one in ids}) == len(ids)
