"""The columns of an answers file: ours, those that are asked for, and what they are called beside the user's own.

A column of the user's keeps its name. Where one of ours is called the same, ours becomes `r2_<name>`, in every row.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from r2.errors import ConfigError
from r2.problem import Problem

ANSWER_COLUMNS: Final = (
    "status",
    "answer",
    "finish",
    "target",
    "is_correct",
    "cost_usd",
    "saved_usd",
    "n_calls",
    "error_type",
    "error_message",
)
"""`finish` is "stop" for a whole answer, "length" for one that ends at its limit and is the best there was. `saved_usd`
is what calls that earlier runs had paid for would have cost; it is no part of `cost_usd`."""
CHECK_FIELDS: Final = (("check_score", pa.float64()), ("check_error", pa.string()))
"""Further columns of a run with a check of the user's own."""
WANTED_FIELDS: Final = (("short_answer", pa.string()), ("value", pa.string()))
"""Further columns of a run that has them in some row: the part of a whole answer that was compared, and an answer that
had to match a schema as JSON. Neither is in the file of a run without."""
ASKED_FIELDS: Final = (("answers", pa.string()), ("logprobs", pa.string()), ("notes", pa.string()))
"""Further columns of a run with rows that ask for something themselves; the first two are JSON."""
MORE_FIELDS: Final[Mapping[str, pa.DataType]] = {
    "plan": pa.string(),
    "models": pa.string(),
    "latency_s": pa.float64(),
    "router_cost_usd": pa.float64(),
    "n_attempts": pa.int32(),
    "n_escalations": pa.int32(),
    "failed_checks": pa.string(),
    "input_tokens": pa.int64(),
    "output_tokens": pa.int64(),
}
"""Columns that are there when they are asked for (`--columns`): those of the table `trajectories`, and `models`, the
model that answered each subtask, in order (JSON)."""
_OURS: Final = frozenset(
    {
        "id",
        "question",
        *ANSWER_COLUMNS,
        *(name for name, _ in (*CHECK_FIELDS, *WANTED_FIELDS, *ASKED_FIELDS)),
        *MORE_FIELDS,
    }
)
_USD_DIGITS = 15


def check_more(names: Sequence[str]) -> None:
    """ConfigError for a column that cannot be asked for."""
    for name in names:
        if name not in MORE_FIELDS:
            raise ConfigError(f"--columns {name}: expected {', '.join(MORE_FIELDS)}, with commas between.")


def taken_names(names: Iterable[str]) -> set[str]:
    """Those of a row's own names that ours must keep clear of."""
    return {name for name in names if name in _OURS or name.startswith("r2_")}


def shown_names(columns: Sequence[str], taken: Iterable[str]) -> dict[str, str]:
    """Our name -> the name in the file."""
    theirs, shown = set(taken), {}
    for name in ("id", "question", *columns):
        free = name
        while free in theirs:
            free = f"r2_{free}"
        shown[name] = free
        theirs.add(free)
    return shown


def merged(problem: Problem, row: Mapping[str, Any] | None, shown: Mapping[str, str], gold: str) -> dict[str, Any]:
    """The user's columns, then ours. `row` None: not settled; `gold`: what the user calls the gold answer."""
    ours = {name: (row or {}).get(name) for name in shown}
    ours |= {"id": problem.problem_id, "question": problem.question, "target": problem.target}
    if row is None:
        ours["status"] = "deferred"
    for name, value in ours.items():
        if name.endswith("_usd") and value is not None:
            ours[name] = round(value, _USD_DIGITS)  # the sum of decimals, without what binary fractions add to it
    first = {shown[name]: ours.pop(name) for name in ("id", "question")}
    theirs = {} if problem.target is None or gold in shown.values() else {gold: problem.target}
    return first | dict(problem.extra) | theirs | {shown[name]: value for name, value in ours.items()}
