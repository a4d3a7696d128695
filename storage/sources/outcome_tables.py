"""Recorded outcome tables: what each model answered to each question, right or wrong, and its cost; read without a
call.

With them query-level routers can be compared on published data that a user has. CSV, JSONL or Parquet, one of two
shapes:

    wide, as RouterBench publishes:   prompt, <model>, <model>|total_cost, ... (sample_id, eval_name; other columns are
    ignored) long:                             question, model, correct, cost           (id, benchmark)

Correctness is 0/1, true/false, or a score in 0..1; cost is in USD. Bad rows are reported with line and column and left
out; a question that lacks a model is left out too, because a router could not have chosen freely. Left out: plans and
subtasks, which such tables do not have; pickles, because reading one runs its code; latencies and tokens, which count
as 0.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import ArrowException

from r2.errors import InputFileError
from r2.evaluation.outcomes import FloatArray, MethodOutcomes
from r2.problem import Problem
from storage.sources.questions import check_readable, raw_rows

QUESTION = ("question", "prompt", "query", "input")
ID = ("sample_id", "id", "question_id")
GROUP = ("eval_name", "benchmark", "dataset", "difficulty")
MODEL = ("model", "model_name")
CORRECT = ("correct", "is_correct", "score", "performance")
COST = ("cost", "cost_usd", "total_cost")
COST_SUFFIX = "|total_cost"
_WORDS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class BadCell:
    """Why a row, or a question, is not in the table. `line` is 1-based in the file (for Parquet, the row number)."""

    line: int
    column: str
    message: str


@dataclass(frozen=True, slots=True)
class OutcomeTable:
    """Every question with every model. Matrices are models x problems, in the order of `models` and `problems`."""

    models: tuple[str, ...]
    problems: tuple[Problem, ...]
    is_correct_MP: FloatArray
    cost_usd_MP: FloatArray
    bad: tuple[BadCell, ...] = ()

    def part(self, indices: Iterable[int]) -> "OutcomeTable":
        """These problems only, in this order: to fit a router on some and compare on others."""
        at = list(indices)
        problems = tuple(self.problems[i] for i in at)
        return OutcomeTable(self.models, problems, self.is_correct_MP[:, at], self.cost_usd_MP[:, at], self.bad)

    def constants(self) -> list[MethodOutcomes]:
        """Each model asked every question, labelled with its name."""
        return [self.chosen([model] * len(self.problems), model, "constant") for model in self.models]

    def chosen(self, models: Sequence[str], label: str, method: str, sweep: str = "") -> MethodOutcomes:
        """What a router gets that picks `models[i]` for problem i, by look-up. Its own cost is not in it."""
        rows = [self.models.index(model) for model in models]
        at = np.arange(len(self.problems))
        ones, zeros = np.ones(len(at)), np.zeros(len(at))
        groups = tuple(problem.benchmark or "all" for problem in self.problems)
        calls: dict[str, dict[str, float]] = {}
        for group, model in zip(groups, models, strict=True):
            calls.setdefault(group, {})
            calls[group][model] = calls[group].get(model, 0.0) + 1
        return MethodOutcomes(
            label,
            method,
            tuple(problem.problem_id for problem in self.problems),
            groups,
            self.is_correct_MP[rows, at],
            self.cost_usd_MP[rows, at],
            zeros,
            ones,
            zeros,
            zeros,
            model_calls={model: float(list(models).count(model)) for model in dict.fromkeys(models)},
            model_calls_by_difficulty=calls,
            sweep=sweep,
        )

    def outcomes_by_model(self) -> tuple[dict[str, list[bool]], dict[str, list[float]]]:
        """Model -> right or not, and model -> USD, as a query-level router is fitted; a score counts as right from one
        half."""
        right = {m: [bool(v >= 0.5) for v in row] for m, row in zip(self.models, self.is_correct_MP, strict=True)}
        return right, {m: row.tolist() for m, row in zip(self.models, self.cost_usd_MP, strict=True)}


class _Bad(Exception):
    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


def read_outcome_table(path: Path) -> OutcomeTable:
    """The table. Raises InputFileError, with file, line and column, where the file is neither shape or no question is
    whole."""
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise InputFileError(
            f"{path}: a pickle runs code when it is read. Where you trust it, convert it with "
            "pandas.read_pickle(...).to_parquet(...) and give the Parquet file."
        )
    check_readable(path)
    bad: list[BadCell] = []
    rows = list(_rows(path, bad))
    if not rows:
        raise InputFileError(f"{path}: no rows{_first(bad)}")
    columns = list(dict.fromkeys(column for _, row in rows for column in row))
    question = _column(path, columns, QUESTION)
    models = [c.removesuffix(COST_SUFFIX) for c in columns if c.endswith(COST_SUFFIX)]
    if models:
        if missing := [model for model in models if model not in columns]:
            raise InputFileError(
                f"{path}: column {missing[0] + COST_SUFFIX!r} has no column {missing[0]!r} with correctness"
            )
        found = _wide(rows, models, question, bad)
    elif any(name in columns for name in MODEL):
        model, correct, cost = (_column(path, columns, names) for names in (MODEL, CORRECT, COST))
        models, found = _long(rows, question, model, correct, cost, bad)
    else:
        raise InputFileError(
            f"{path}: neither shape of outcome table. Expected columns <model> and <model>{COST_SUFFIX}, or "
            "question, model, correct, "
            f"cost; found {', '.join(columns[:12])}."
        )
    if not found:
        raise InputFileError(f"{path}: no question has a good row for each of {len(models)} models{_first(bad)}")
    cells = np.array([[one.cells[model] for model in models] for one in found])
    return OutcomeTable(
        tuple(models),
        _problems(found),
        cells[:, :, 0].T,
        cells[:, :, 1].T,
        tuple(sorted(bad, key=lambda one: one.line)),
    )


@dataclass(slots=True)
class _Question:
    line: int
    id: str
    text: str
    group: str
    cells: dict[str, tuple[float, float]]


def _rows(path: Path, bad: list[BadCell]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        for line, row in raw_rows(path):
            if isinstance(row, Exception):
                bad.append(BadCell(line, "", str(row)))
            else:
                yield line, row
    except (OSError, ValueError, ArrowException) as error:
        raise InputFileError(f"{path}: cannot be read: {error}") from error


def _wide(
    rows: list[tuple[int, dict[str, Any]]], models: list[str], question: str, bad: list[BadCell]
) -> list[_Question]:
    found, lines = [], dict[str, int]()
    for line, row in rows:
        try:
            one = _question(line, row, question)
            if one.id in lines:
                raise _Bad("id", f"{one.id!r:.80} was already used on line {lines[one.id]}")
            for model in models:
                one.cells[model] = (_share(row, model), _cost(row, model + COST_SUFFIX))
            lines[one.id] = line
            found.append(one)
        except _Bad as error:
            bad.append(BadCell(line, error.column, str(error)))
    return found


def _long(
    rows: list[tuple[int, dict[str, Any]]], question: str, model: str, correct: str, cost: str, bad: list[BadCell]
) -> tuple[list[str], list[_Question]]:
    found: dict[str, _Question] = {}
    models: dict[str, None] = {}
    for line, row in rows:
        try:
            one = _question(line, row, question)
            name = _text(row, model)
            models.setdefault(name)
            known = found.setdefault(one.id, one)
            if name in known.cells:
                raise _Bad(model, f"{name!r} answered {one.id!r:.80} before; one row for each question and model")
            known.cells[name] = (_share(row, correct), _cost(row, cost))
        except _Bad as error:
            bad.append(BadCell(line, error.column, str(error)))
    for one in found.values():
        if missing := [name for name in models if name not in one.cells]:
            bad.append(BadCell(one.line, model, f"question {one.id!r:.80} has no good row of {', '.join(missing)}"))
    return list(models), [one for one in found.values() if len(one.cells) == len(models)]


def _question(line: int, row: dict[str, Any], question: str) -> _Question:
    """Without an id of its own a question is known by its text."""
    text = _text(row, question)
    own_id = next((str(row[name]) for name in ID if row.get(name) not in (None, "")), text)
    group = next((str(row[name]) for name in GROUP if row.get(name) not in (None, "")), "")
    return _Question(line, own_id, text, group, {})


def _problems(found: Sequence[_Question]) -> tuple[Problem, ...]:
    return tuple(Problem(one.id, one.text, i, benchmark=one.group) for i, one in enumerate(found))


def _column(path: Path, columns: Sequence[str], names: Sequence[str]) -> str:
    for name in names:
        if name in columns:
            return name
    raise InputFileError(f"{path}: no column {' or '.join(names)}; found {', '.join(columns[:12])}")


def _text(row: dict[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise _Bad(column, f"expected text, got {value!r:.60}")
    return value


def _share(row: dict[str, Any], column: str) -> float:
    value = row.get(column)
    number = _WORDS.get(value.strip().lower()) if isinstance(value, str) else None
    number = _number(value, column, "0, 1, true, false or a score between") if number is None else number
    if not 0 <= number <= 1:
        raise _Bad(column, f"expected 0, 1, true, false or a score between, got {value!r:.60}")
    return number


def _cost(row: dict[str, Any], column: str) -> float:
    number = _number(row.get(column), column, "USD, 0 or more")
    if number < 0:
        raise _Bad(column, f"expected USD, 0 or more, got {number:g}")
    return number


def _number(value: Any, column: str, expected: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise _Bad(column, f"expected {expected}, got {value!r:.60}")
    return number


def _first(bad: Sequence[BadCell]) -> str:
    """The first complaint, to end a message with."""
    if not bad:
        return ""
    place = f", column {bad[0].column!r}" if bad[0].column else ""
    return f". First of {len(bad)} bad rows: line {bad[0].line}{place}: {bad[0].message}"
