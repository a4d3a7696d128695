"""Cascades found on recorded answers: in which order to ask models, and when to stop. Pure; no call is made.

An *agreement cascade* asks its models in order and stops at the first one whose result is the same as that of one
asked before it; that result is the answer. Where no two agree, the answer is the result of the last model that gave one
(ours). So a cascade of one model is that model, and one of two pays for both and answers as the second. A *confidence
cascade* stops at the first model that is sure enough of its result; else the last one's stands.

Inputs are matrices of models x questions: `right` (0 or 1, or a share in between), `cost_usd`, and `results`: numbers
that are equal within a column where two results are the same by the benchmark's own equality, and less than 0 where the
model gave none. `confidence` is 0..1, NaN where it is not known (such a result never stops a confidence cascade). The
search is exact: every order of up to `max_length` of the candidates. With 19 models there are 98,971 of them. Used by
`r2 evaluate`, on dev problems, and on recorded outcome tables.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from r2.errors import ConfigError

MAX_LENGTH = 4
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.999)
"""Confidences that a confidence cascade is tried at."""

_Floats = NDArray[np.float64]
_Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Cascade:
    """An order of models (rows of the matrices), what it gets right, and what it costs per question. `threshold` is
    that of a confidence cascade, None for one of agreement."""

    order: tuple[int, ...]
    accuracy: float
    cost_usd: float
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Played:
    """A cascade on each question: whether its answer is right, its cost, and how many models were asked."""

    right: _Floats
    cost_usd: _Floats
    n_asked: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Table:
    right: _Floats
    cost_usd: _Floats
    results: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Prefix:
    """What is so after the models of `order` on each question. `open`: not stopped yet; `fallback`: whether the last
    result so far is right; `accuracy` and `cost_usd`: sums over questions, stopped ones with their answer."""

    order: tuple[int, ...]
    open: _Bools
    fallback: _Floats
    right: float
    cost_usd: float


_Stops = Callable[[tuple[int, ...], int], _Bools]
"""(models asked before, model just asked) -> the questions on which its result ends the cascade."""


def agreement_cascades(
    right: ArrayLike,
    cost_usd: ArrayLike,
    results: ArrayLike,
    *,
    candidates: Sequence[int] | None = None,
    max_length: int = MAX_LENGTH,
) -> list[Cascade]:
    """The agreement cascades that no other is at least as accurate and as cheap as, cheapest first. `candidates` are
    rows; None: all. ConfigError for matrices that do not fit together, or without a question."""
    table = _table(right, cost_usd, results)
    return _frontier(_search(table, _agreeing(table), _rows(table, candidates), max_length))


def confidence_cascades(
    right: ArrayLike,
    cost_usd: ArrayLike,
    results: ArrayLike,
    confidence: ArrayLike,
    *,
    candidates: Sequence[int] | None = None,
    max_length: int = MAX_LENGTH,
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[Cascade]:
    """The same of confidence cascades, at each of the thresholds: one for all models of a cascade."""
    table = _table(right, cost_usd, results)
    sure = _matching(table, confidence)
    rows = _rows(table, candidates)
    found = [
        Cascade(one.order, one.accuracy, one.cost_usd, threshold)
        for threshold in thresholds
        for one in _search(table, _confident(table, sure, threshold), rows, max_length)
    ]
    return _frontier(found)


def play_agreement(order: Sequence[int], right: ArrayLike, cost_usd: ArrayLike, results: ArrayLike) -> Played:
    """The cascade of this order on each question."""
    table = _table(right, cost_usd, results)
    return _play(table, _agreeing(table), order)


def play_confidence(
    order: Sequence[int],
    threshold: float,
    right: ArrayLike,
    cost_usd: ArrayLike,
    results: ArrayLike,
    confidence: ArrayLike,
) -> Played:
    """The cascade of this order and threshold on each question."""
    table = _table(right, cost_usd, results)
    return _play(table, _confident(table, _matching(table, confidence), threshold), order)


def most_useful(cascades: Sequence[Cascade], value_usd: float) -> Cascade:
    """The one of the highest value_usd * accuracy - cost, the cheaper of equals; `value_usd` is USD per right answer.
    ValueError without any."""
    return max(cascades, key=lambda one: (value_usd * one.accuracy - one.cost_usd, -one.cost_usd))


def cheapest_reaching(cascades: Sequence[Cascade], accuracy: float) -> Cascade | None:
    """The cheapest that is at least so accurate, the more accurate of equals; None where none is."""
    good = [one for one in cascades if one.accuracy >= accuracy - 1e-12]
    return min(good, key=lambda one: (one.cost_usd, -one.accuracy), default=None)


def result_numbers(column: Sequence[object | None], is_same: Callable[[object, object], bool]) -> list[int]:
    """Numbers for one question's results, equal where two are the same: each is compared with the first of every group
    so far. -1 for None, which is no result."""
    firsts: list[object] = []
    numbers = []
    for result in column:
        if result is None:
            numbers.append(-1)
            continue
        at = next((i for i, first in enumerate(firsts) if is_same(first, result)), len(firsts))
        if at == len(firsts):
            firsts.append(result)
        numbers.append(at)
    return numbers


def _table(right: ArrayLike, cost_usd: ArrayLike, results: ArrayLike) -> _Table:
    table = _Table(np.asarray(right, np.float64), np.asarray(cost_usd, np.float64), np.asarray(results, np.int64))
    shape = table.right.shape
    if len(shape) != 2 or not all(shape) or table.cost_usd.shape != shape or table.results.shape != shape:
        raise ConfigError(
            f"a cascade needs models x questions of right, cost and results, each at least 1; got {shape}, "
            f"{table.cost_usd.shape} and {table.results.shape}"
        )
    if not (np.isfinite(table.right).all() and np.isfinite(table.cost_usd).all()):
        raise ConfigError("a cascade needs a number for each model and question; some of right or cost are none")
    return table


def _matching(table: _Table, confidence: ArrayLike) -> _Floats:
    sure = np.asarray(confidence, np.float64)
    if sure.shape != table.right.shape:
        raise ConfigError(f"confidences of shape {sure.shape} for answers of shape {table.right.shape}")
    return sure


def _rows(table: _Table, candidates: Sequence[int] | None) -> list[int]:
    rows = list(range(len(table.right)) if candidates is None else dict.fromkeys(candidates))
    if not rows or not all(0 <= row < len(table.right) for row in rows):
        raise ConfigError(f"candidates {rows} of a table of {len(table.right)} models; name rows of it, at least one")
    return rows


def _agreeing(table: _Table) -> _Stops:
    has_result = table.results >= 0

    def stops(before: tuple[int, ...], model: int) -> _Bools:
        same: _Bools = np.zeros(table.right.shape[1], np.bool_)
        for earlier in before:
            same |= table.results[earlier] == table.results[model]
        same &= has_result[model]
        return same

    return stops


def _confident(table: _Table, confidence: _Floats, threshold: float) -> _Stops:
    with np.errstate(invalid="ignore"):
        is_sure = (confidence >= threshold) & (table.results >= 0)
    return lambda before, model: is_sure[model]


def _extended(table: _Table, stops: _Stops, prefix: _Prefix, model: int) -> _Prefix:
    """The prefix with one more model asked, where it is still open."""
    has_result = table.results[model] >= 0
    last = np.where(has_result, table.right[model], prefix.fallback)
    ends = prefix.open & stops(prefix.order, model)
    return _Prefix(
        (*prefix.order, model),
        prefix.open & ~ends,
        last,
        prefix.right + float(last[ends].sum()),
        prefix.cost_usd + float(table.cost_usd[model][prefix.open].sum()),
    )


def _search(table: _Table, stops: _Stops, rows: Sequence[int], max_length: int) -> list[Cascade]:
    """Every order that may be worth its money. The last model of an order never stops anything, so that all ways to end
    a prefix are summed at once."""
    n = table.right.shape[1]
    has_result = (table.results[rows] >= 0).astype(np.float64)
    right = table.right[rows] * has_result
    cost = table.cost_usd[rows]
    found: list[Cascade] = []
    level = [_Prefix((), np.ones(n, np.bool_), np.zeros(n), 0.0, 0.0)]
    for length in range(1, min(max_length, len(rows)) + 1):
        open_PN = np.array([prefix.open for prefix in level], np.float64)
        fallback_PN = np.array([prefix.fallback for prefix in level]) * open_PN
        base_right = np.array([prefix.right for prefix in level])[:, None]
        base_cost = np.array([prefix.cost_usd for prefix in level])[:, None]
        # Where the last model gives no result, the one before it stands.
        right_PM = base_right + open_PN @ right.T + fallback_PN @ (1.0 - has_result).T
        cost_PM = base_cost + open_PN @ cost.T
        for place, prefix in enumerate(level):
            for at, model in enumerate(rows):
                if model not in prefix.order:
                    order = (*prefix.order, model)
                    found.append(Cascade(order, float(right_PM[place, at]) / n, float(cost_PM[place, at]) / n))
        if length < max_length:
            level = [
                _extended(table, stops, prefix, model)
                for prefix in level
                if prefix.open.any()
                for model in rows
                if model not in prefix.order
            ]
        if not level:
            break  # every order has ended on every question
    return found


def _frontier(cascades: Sequence[Cascade]) -> list[Cascade]:
    kept: list[Cascade] = []
    for one in sorted(cascades, key=lambda one: (one.cost_usd, -one.accuracy, len(one.order), one.order)):
        if not kept or one.accuracy > kept[-1].accuracy + 1e-12:
            kept.append(one)
    return kept


def _play(table: _Table, stops: _Stops, order: Sequence[int]) -> Played:
    n = table.right.shape[1]
    is_open = np.ones(n, np.bool_)
    right, cost = np.zeros(n), np.zeros(n)
    n_asked = np.zeros(n, np.int64)
    for place, model in enumerate(order):
        answered = is_open & (table.results[model] >= 0)
        right = np.where(answered, table.right[model], right)
        cost += np.where(is_open, table.cost_usd[model], 0.0)
        n_asked += is_open
        is_open = is_open & ~stops(tuple(order[:place]), model)
    return Played(right, cost, n_asked)
