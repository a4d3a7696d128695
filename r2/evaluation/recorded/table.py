"""A table of recorded answers, and what a policy may see of it.

`OutcomeTable` is what `storage/sources/outcome_tables.py` reads: every question with every model's answer, right or
wrong, and its cost. `Question` is one row of it as a policy sees it: the question's text, and the results of the models
that it has paid for. Nothing else can be reached through it, so that no policy can look at an answer before it asks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from r2.answering.attempts import Attempt, Attempts
from r2.evaluation.outcomes import FloatArray, MethodOutcomes
from r2.problem import Problem

IntArray = NDArray[np.int64]
TextArray = NDArray[np.object_]
Cells = TypeVar("Cells", FloatArray, TextArray)


@dataclass(frozen=True, slots=True)
class BadCell:
    """Why a row, or a question, is not in the table. `line` is 1-based in the file (for Parquet, the row number)."""

    line: int
    column: str
    message: str


@dataclass(frozen=True, slots=True)
class Replies:
    """What the models wrote, where the file has it. Matrices are models x problems, in the order of the table.

    `results` numbers each question's distinct results: equal numbers are the same result by the benchmark's own
    equality, -1 is a reply without a result, which agrees with nobody. `texts` are whole replies and `parsed` their
    results as text; "" where there is none. None: the file has no such column.
    """

    results: IntArray
    texts: TextArray | None = None
    parsed: TextArray | None = None


@dataclass(frozen=True, slots=True)
class OutcomeTable:
    """Every question with every model. Matrices are models x problems, in the order of `models` and `problems`.

    `replies`, `input_tokens_MP`, `output_tokens_MP` and `confidence_MP` (0..1) are None where the file has none. A
    cell whose tokens or confidence are not known is NaN.
    """

    models: tuple[str, ...]
    problems: tuple[Problem, ...]
    is_correct_MP: FloatArray
    cost_usd_MP: FloatArray
    bad: tuple[BadCell, ...] = ()
    replies: Replies | None = None
    input_tokens_MP: FloatArray | None = None
    output_tokens_MP: FloatArray | None = None
    confidence_MP: FloatArray | None = None
    unused_columns: tuple[str, ...] = ()

    @property
    def n_problems(self) -> int:
        return len(self.problems)

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Each problem's benchmark; "all" where the file names none."""
        return tuple(problem.benchmark or "all" for problem in self.problems)

    def part(self, indices: Iterable[int]) -> "OutcomeTable":
        """These problems only, in this order: to fit a router on some and compare on others."""
        at = [int(i) for i in indices]
        return self._taken(at, 1, problems=tuple(self.problems[i] for i in at))

    def of_models(self, models: Sequence[str]) -> "OutcomeTable":
        """These models only, in this order. ValueError for one that the table has not."""
        return self._taken([self.models.index(model) for model in models], 0, models=tuple(models))

    def _taken(
        self,
        at: Sequence[int],
        axis: int,
        *,
        models: tuple[str, ...] | None = None,
        problems: tuple[Problem, ...] | None = None,
    ) -> "OutcomeTable":
        replies = self.replies
        if replies is not None:
            results = np.take(replies.results, _places(at), axis=axis)
            replies = Replies(results, _taken(replies.texts, at, axis), _taken(replies.parsed, at, axis))
        return replace(
            self,
            models=self.models if models is None else models,
            problems=self.problems if problems is None else problems,
            is_correct_MP=np.take(self.is_correct_MP, _places(at), axis=axis),
            cost_usd_MP=np.take(self.cost_usd_MP, _places(at), axis=axis),
            replies=replies,
            input_tokens_MP=_taken(self.input_tokens_MP, at, axis),
            output_tokens_MP=_taken(self.output_tokens_MP, at, axis),
            confidence_MP=_taken(self.confidence_MP, at, axis),
        )

    def constants(self) -> list[MethodOutcomes]:
        """Each model asked every question, labelled with its name."""
        return [self.chosen([model] * len(self.problems), model, "constant") for model in self.models]

    def chosen(self, models: Sequence[str], label: str, method: str, sweep: str = "") -> MethodOutcomes:
        """What a router gets that picks `models[i]` for problem i, by look-up. Its own cost is not in it."""
        rows = [self.models.index(model) for model in models]
        at = np.arange(len(self.problems))
        ones, zeros = np.ones(len(at)), np.zeros(len(at))
        groups = self.benchmarks
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


class Question:
    """One question as a policy sees it. Asking a model pays for it and shows its result; nothing else does.

    `problem` has no gold answer. `attempts` are the models asked so far, in order, their distinct results numbered from
    0 as they first appeared. In a table without replies every answer is a result of its own.
    """

    __slots__ = ("_at", "_own", "_table", "attempts", "cost_usd", "models", "problem")

    def __init__(self, table: OutcomeTable, at: int) -> None:
        self._table, self._at = table, at
        self._own: dict[int, int] = {}
        problem = table.problems[at]
        self.problem = Problem(problem.problem_id, problem.question, at, benchmark=problem.benchmark)
        self.models = table.models
        self.attempts: Attempts = ()
        self.cost_usd = 0.0

    def ask(self, model: str) -> Attempt:
        """The model's recorded answer, paid for. ValueError where it was asked before, or is not in the table."""
        if any(attempt.arm == model for attempt in self.attempts):
            raise ValueError(f"{model} was asked this question before: a recorded answer can be bought once")
        row, table = self.models.index(model), self._table
        result: int | None = None
        if table.replies is None:
            result = len(self.attempts)
        elif (number := int(table.replies.results[row, self._at])) >= 0:
            result = self._own.setdefault(number, len(self._own))
        confidence = None if table.confidence_MP is None else float(table.confidence_MP[row, self._at])
        tokens = None if table.output_tokens_MP is None else float(table.output_tokens_MP[row, self._at])
        attempt = Attempt(
            model,
            result,
            None if confidence is None or np.isnan(confidence) else confidence,
            None if tokens is None or np.isnan(tokens) else int(tokens),
        )
        self.attempts = (*self.attempts, attempt)
        self.cost_usd += float(table.cost_usd_MP[row, self._at])
        return attempt

    def reply(self, model: str) -> str:
        """The whole reply of a model that was asked; "" where the table has none. ValueError for one not asked."""
        if all(attempt.arm != model for attempt in self.attempts):
            raise ValueError(f"{model} was not asked this question: its reply is not paid for")
        texts = None if self._table.replies is None else self._table.replies.texts
        return "" if texts is None else str(texts[self.models.index(model), self._at])


def _taken(array: Cells | None, at: Sequence[int], axis: int) -> Cells | None:
    return None if array is None else np.take(array, _places(at), axis=axis)


def _places(at: Sequence[int]) -> IntArray:
    """An empty list would be an array of floats."""
    return np.asarray(at, np.int64)
