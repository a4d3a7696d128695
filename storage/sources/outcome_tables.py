"""Recorded outcome tables: what each model answered to each question, right or wrong, and its cost; read without a
call.

With them routers can be compared on published data that a user has. CSV, JSONL or Parquet, one of two shapes:

    wide, as RouterBench publishes: prompt, <model>, <model>|total_cost, ... (sample_id, eval_name, answer) and where
    there are any <model>|model_response, <model>|model_answer, <model>|input_tokens, |output_tokens, |confidence

    long, one row per question and model: question, model, correct, cost (id, benchmark, answer) and where there are
    any output, model_answer, input_tokens, output_tokens, confidence

Correctness is 0/1, true/false, or a score in 0..1; cost is in USD; confidence is in 0..1. `output` is the whole reply,
`model_answer` the result found in it; which results of a question are the same is worked out from them, by the
benchmark's own equality where we know it (r2/problems/result_keys.py).

Bad rows are reported with line and column and left out; a question that lacks a model is left out too, because a router
could not have chosen freely. A model without any outcome is refused. Left out: plans and subtasks, which such tables do
not have; pickles, because reading one runs its code; latencies, which count as 0.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import ArrowException

from r2.errors import InputFileError
from r2.evaluation.outcomes import FloatArray
from r2.evaluation.recorded.table import BadCell, IntArray, OutcomeTable, Replies, TextArray
from r2.problem import Problem
from r2.problems.benchmark import result_in
from r2.problems.result_keys import result_key
from storage.sources.questions import check_readable, raw_rows

QUESTION = ("question", "prompt", "query", "input")
ID = ("sample_id", "id", "question_id")
GROUP = ("eval_name", "benchmark", "dataset", "difficulty")
GOLD = ("answer", "gold", "target")
MODEL = ("model", "model_name")
CORRECT = ("correct", "is_correct", "score", "performance")
COST = ("cost", "cost_usd", "total_cost")
REPLY = ("output", "model_response", "response", "reply", "completion")
PARSED = ("model_answer", "parsed_answer", "prediction")
INPUT_TOKENS = ("input_tokens", "prompt_tokens")
OUTPUT_TOKENS = ("output_tokens", "completion_tokens")
CONFIDENCE = ("confidence",)
COST_SUFFIX = "|total_cost"
_WORDS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where one model's answer is in a row. "" for what the file does not have."""

    correct: str
    cost: str
    reply: str = ""
    parsed: str = ""
    input_tokens: str = ""
    output_tokens: str = ""
    confidence: str = ""


@dataclass(frozen=True, slots=True)
class _Cell:
    """One model's answer to one question. NaN for a number that is not known."""

    correct: float
    cost_usd: float
    reply: str
    parsed: str | None
    input_tokens: float
    output_tokens: float
    confidence: float


class _Bad(Exception):
    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


def read_outcome_table(path: Path) -> OutcomeTable:
    """The table. Raises InputFileError, with file, line and column, where the file is neither shape, a model has no
    outcome, or no question is whole."""
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
        of_model = {model: _wide_columns(columns, model) for model in models}
        found, n_outcomes = _wide(rows, of_model, question, bad)
    elif any(name in columns for name in MODEL):
        model, correct, cost = (_column(path, columns, names) for names in (MODEL, CORRECT, COST))
        further = [_known(columns, names) for names in (REPLY, PARSED, INPUT_TOKENS, OUTPUT_TOKENS, CONFIDENCE)]
        one = _Columns(correct, cost, *further)
        found, n_outcomes = _long(rows, question, model, one, bad)
        models = list(n_outcomes)
        of_model = {model: one}  # where the name of the model is, is a used column too
    else:
        raise InputFileError(
            f"{path}: neither shape of outcome table. Expected columns <model> and <model>{COST_SUFFIX}, or "
            "question, model, correct, "
            f"cost; found {', '.join(columns[:12])}."
        )
    if without := [name for name in models if not n_outcomes[name]]:
        raise InputFileError(
            f"{path}: model {without[0]!r} has no outcome on any question. Leave its column or rows out, or give its "
            f"outcomes{_first(bad)}"
        )
    if not found:
        raise InputFileError(f"{path}: no question has a good row for each of {len(models)} models{_first(bad)}")
    used = {question, *of_model, *(name for one in of_model.values() for name in _names(one))}
    used |= {_known(columns, names) for names in (ID, GROUP, GOLD)}
    return _table(models, found, of_model, bad, tuple(name for name in columns if name not in used))


@dataclass(frozen=True, slots=True)
class JoinedTables:
    """Several files as one table, and what of them is not in it, as sentences."""

    table: OutcomeTable
    remarks: tuple[str, ...]


def read_outcome_tables(paths: Sequence[Path], models: Sequence[str] = ()) -> JoinedTables:
    """The questions of all files, with the models that all of them have (with `models`: only these, in this order).

    Raises InputFileError where no model is in all files. Each file's bad rows, unused columns and models that others
    lack are in the remarks.
    """
    tables = {path: read_outcome_table(path) for path in paths}
    first = next(iter(tables.values()))
    common = [model for model in models or first.models if all(model in table.models for table in tables.values())]
    if not common:
        listed = "; ".join(f"{path}: {', '.join(table.models)}" for path, table in tables.items())
        asked = f" of {', '.join(models)}" if models else ""
        raise InputFileError(f"no model{asked} is in every file, so that nothing can be compared. {listed}")
    remarks: list[str] = []
    for path, table in tables.items():
        if left := [model for model in table.models if model not in common]:
            remarks.append(f"{path}: left out, for not being in every file: {', '.join(left)}")
        if table.unused_columns:
            remarks.append(f"{path}: columns that are not used: {', '.join(table.unused_columns)}")
        if table.bad:
            remarks.append(f"{path}: not all rows are used{_first(table.bad)}")
    has_replies = [table.replies is not None for table in tables.values()]
    if any(has_replies) and not all(has_replies):
        without = [str(path) for path, table in tables.items() if table.replies is None]
        remarks.append(f"{', '.join(without)}: no replies, so that those of the other files are not used either")
    return JoinedTables(
        _joined([table.of_models(common) for table in tables.values()], tables, remarks), tuple(remarks)
    )


def _joined(tables: Sequence[OutcomeTable], paths: Iterable[Path], remarks: list[str]) -> OutcomeTable:
    kept: list[OutcomeTable] = []
    seen: dict[str, str] = {}
    for path, table in zip(paths, tables, strict=True):
        again = [i for i, p in enumerate(table.problems) if seen.get(p.problem_id) == p.question]
        if again:
            remarks.append(
                f"{path}: {len(again)} questions were in an earlier file already and are left out, as "
                f"{table.problems[again[0]].problem_id!r:.80}"
            )
        part = table.part(i for i in range(table.n_problems) if i not in set(again))
        problems = tuple(
            replace(p, problem_id=f"{path.stem}:{p.problem_id}") if p.problem_id in seen else p for p in part.problems
        )
        seen |= {p.problem_id: p.question for p in problems}
        kept.append(replace(part, problems=problems))
    problems = tuple(replace(p, input_index=i) for i, p in enumerate(p for table in kept for p in table.problems))
    return OutcomeTable(
        kept[0].models,
        problems,
        np.concatenate([table.is_correct_MP for table in kept], axis=1),
        np.concatenate([table.cost_usd_MP for table in kept], axis=1),
        tuple(one for table in kept for one in table.bad),
        _joined_replies(kept),
        _side_by_side(kept, [table.input_tokens_MP for table in kept]),
        _side_by_side(kept, [table.output_tokens_MP for table in kept]),
        _side_by_side(kept, [table.confidence_MP for table in kept]),
        tuple(dict.fromkeys(column for table in kept for column in table.unused_columns)),
    )


def _joined_replies(tables: Sequence[OutcomeTable]) -> Replies | None:
    replies = [table.replies for table in tables if table.replies is not None]
    if len(replies) < len(tables):
        return None
    return Replies(
        np.concatenate([one.results for one in replies], axis=1),
        _texts_side_by_side([one.texts for one in replies]),
        _texts_side_by_side([one.parsed for one in replies]),
    )


def _texts_side_by_side(parts: Sequence[TextArray | None]) -> TextArray | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there, axis=1) if len(there) == len(parts) else None


def _side_by_side(tables: Sequence[OutcomeTable], parts: Sequence[FloatArray | None]) -> FloatArray | None:
    """NaN for the questions of a file without such numbers."""
    if all(part is None for part in parts):
        return None
    filled = [
        np.full(table.is_correct_MP.shape, np.nan) if part is None else part
        for table, part in zip(tables, parts, strict=True)
    ]
    return np.concatenate(filled, axis=1)


def _table(
    models: Sequence[str],
    found: Sequence["_Question"],
    of_model: Mapping[str, _Columns],
    bad: Sequence[BadCell],
    unused_columns: tuple[str, ...],
) -> OutcomeTable:
    problems = _problems(found)
    columns = list(of_model.values())
    replies = None
    if all(one.reply or one.parsed for one in columns):
        texts = _texts(models, found, lambda cell: cell.reply) if all(one.reply for one in columns) else None
        parsed = _texts(models, found, lambda cell: cell.parsed or "") if all(one.parsed for one in columns) else None
        replies = Replies(_results(models, found, problems, has_parsed=parsed is not None), texts, parsed)
    return OutcomeTable(
        tuple(models),
        problems,
        _numbers(models, found, lambda cell: cell.correct),
        _numbers(models, found, lambda cell: cell.cost_usd),
        tuple(sorted(bad, key=lambda one: one.line)),
        replies,
        _numbers(models, found, lambda cell: cell.input_tokens) if any(one.input_tokens for one in columns) else None,
        _numbers(models, found, lambda cell: cell.output_tokens) if any(one.output_tokens for one in columns) else None,
        _numbers(models, found, lambda cell: cell.confidence) if any(one.confidence for one in columns) else None,
        unused_columns,
    )


def _numbers(models: Sequence[str], found: Sequence["_Question"], value: Callable[[_Cell], float]) -> FloatArray:
    return np.array([[value(one.cells[model]) for one in found] for model in models], np.float64)


def _texts(models: Sequence[str], found: Sequence["_Question"], value: Callable[[_Cell], str]) -> TextArray:
    return np.array([[value(one.cells[model]) for one in found] for model in models], object)


def _results(
    models: Sequence[str], found: Sequence["_Question"], problems: Sequence[Problem], *, has_parsed: bool
) -> IntArray:
    """Numbers of the distinct results of each question, -1 for none."""
    numbers = np.full((len(models), len(found)), -1, np.int64)
    for at, (one, problem) in enumerate(zip(found, problems, strict=True)):
        seen: dict[str, int] = {}
        for row, model in enumerate(models):
            cell = one.cells[model]
            text = cell.parsed if has_parsed else result_in(problem, cell.reply)
            key = result_key(problem.benchmark, text)
            if key is not None:
                numbers[row, at] = seen.setdefault(key, len(seen))
    return numbers


@dataclass(slots=True)
class _Question:
    line: int
    id: str
    text: str
    group: str
    gold: str | None
    cells: dict[str, _Cell] = field(default_factory=dict)


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
    rows: list[tuple[int, dict[str, Any]]], of_model: Mapping[str, _Columns], question: str, bad: list[BadCell]
) -> tuple[list[_Question], dict[str, int]]:
    """The whole questions, and how many outcomes each model has."""
    found, lines = [], dict[str, int]()
    n_outcomes = dict.fromkeys(of_model, 0)
    for line, row in rows:
        try:
            one = _question(line, row, question)
            if one.id in lines:
                raise _Bad("id", f"{one.id!r:.80} was already used on line {lines[one.id]}")
        except _Bad as error:
            bad.append(BadCell(line, error.column, str(error)))
            continue
        wrong = None
        for model, columns in of_model.items():
            try:
                one.cells[model] = _cell(row, columns)
                n_outcomes[model] += 1
            except _Bad as error:
                wrong = wrong or error
        if wrong is not None:
            bad.append(BadCell(line, wrong.column, str(wrong)))
            continue
        lines[one.id] = line
        found.append(one)
    return found, n_outcomes


def _long(
    rows: list[tuple[int, dict[str, Any]]], question: str, model: str, columns: _Columns, bad: list[BadCell]
) -> tuple[list[_Question], dict[str, int]]:
    found: dict[str, _Question] = {}
    n_outcomes: dict[str, int] = {}
    for line, row in rows:
        try:
            one = _question(line, row, question)
            name = _text(row, model)
            n_outcomes.setdefault(name, 0)
            known = found.setdefault(one.id, one)
            if known.text != one.text:
                raise _Bad(question, f"another question than line {known.line} has with the id {one.id!r:.80}")
            if name in known.cells:
                raise _Bad(model, f"{name!r} answered {one.id!r:.80} before; one row for each question and model")
            known.cells[name] = _cell(row, columns)
            n_outcomes[name] += 1
        except _Bad as error:
            bad.append(BadCell(line, error.column, str(error)))
    for one in found.values():
        if missing := [name for name in n_outcomes if name not in one.cells]:
            bad.append(BadCell(one.line, model, f"question {one.id!r:.80} has no good row of {', '.join(missing)}"))
    return [one for one in found.values() if len(one.cells) == len(n_outcomes)], n_outcomes


def _cell(row: dict[str, Any], columns: _Columns) -> _Cell:
    return _Cell(
        _share(row, columns.correct),
        _cost(row, columns.cost),
        _written(row, columns.reply) or "",
        _written(row, columns.parsed),
        _count(row, columns.input_tokens),
        _count(row, columns.output_tokens),
        _confidence(row, columns.confidence),
    )


def _question(line: int, row: dict[str, Any], question: str) -> _Question:
    """Without an id of its own a question is known by its text."""
    text = _text(row, question)
    own_id = next((str(row[name]) for name in ID if row.get(name) not in (None, "")), text)
    group = next((str(row[name]) for name in GROUP if row.get(name) not in (None, "")), "")
    gold = next((str(row[name]) for name in GOLD if row.get(name) is not None), None)
    return _Question(line, own_id, text, group, gold)


def _problems(found: Sequence[_Question]) -> tuple[Problem, ...]:
    return tuple(Problem(one.id, one.text, i, one.gold, one.group) for i, one in enumerate(found))


def _column(path: Path, columns: Sequence[str], names: Sequence[str]) -> str:
    for name in names:
        if name in columns:
            return name
    raise InputFileError(f"{path}: no column {' or '.join(names)}; found {', '.join(columns[:12])}")


def _known(columns: Sequence[str], names: Sequence[str]) -> str:
    """The first of the names that is a column; "" for none."""
    return next((name for name in names if name in columns), "")


def _wide_columns(columns: Sequence[str], model: str) -> _Columns:
    further = [
        _known(columns, [f"{model}|{name}" for name in names])
        for names in (REPLY, PARSED, INPUT_TOKENS, OUTPUT_TOKENS, CONFIDENCE)
    ]
    return _Columns(model, model + COST_SUFFIX, *further)


def _names(columns: _Columns) -> tuple[str, ...]:
    return (
        columns.correct,
        columns.cost,
        columns.reply,
        columns.parsed,
        columns.input_tokens,
        columns.output_tokens,
        columns.confidence,
    )


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


def _written(row: dict[str, Any], column: str) -> str | None:
    """A text or a number as text; None where the cell has neither."""
    value = row.get(column) if column else None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, str) else str(value)


def _count(row: dict[str, Any], column: str) -> float:
    """Tokens; NaN where the cell is empty."""
    value = row.get(column) if column else None
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    number = _number(value, column, "tokens, 0 or more")
    if number < 0:
        raise _Bad(column, f"expected tokens, 0 or more, got {number:g}")
    return number


def _confidence(row: dict[str, Any], column: str) -> float:
    """NaN where the cell is empty."""
    value = row.get(column) if column else None
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    number = _number(value, column, "a confidence between 0 and 1")
    if not 0 <= number <= 1:
        raise _Bad(column, f"expected a confidence between 0 and 1, got {number:g}")
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
