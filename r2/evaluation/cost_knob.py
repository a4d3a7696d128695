"""From a sweep of the cost knob `b` to the value to use: the accuracy-cost curve, and the table from a budget or an
accuracy to b. Pure.

Ours (docs/method.md, section 3): an allocator that gives log-probabilities chooses argmax of log p - b * ln price, so
each b is an operating point. Points are measured on a calibration set and need not be monotone in b: a dearer point
that is no more accurate is never worth choosing, which the running maximum of the curve takes care of. Called by
r2/evaluation/sweep.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from r2.errors import ConfigError

ACCURACY_SHARES = (0.80, 0.90, 0.95, 0.98, 1.00)
"""Shares of the reference accuracy that the table has a row for."""


@dataclass(frozen=True, slots=True)
class KnobResult:
    """The measured result of one b on the calibration set. `usd_per_1k` is USD per thousand problems, the router's own
    calls included."""

    b: float
    accuracy: float
    usd_per_1k: float


@dataclass(frozen=True, slots=True)
class Advice:
    """A chosen point, and whether it does what was asked; where it does not, it is the nearest there is and `reason`
    says so."""

    point: KnobResult
    is_reached: bool
    reason: str


@dataclass(frozen=True, slots=True)
class TableRow:
    """A line of the table: what is asked for, and the advice. `share` is None in rows of a budget, `usd_per_1k` in rows
    of an accuracy."""

    usd_per_1k: float | None
    share: float | None
    advice: Advice


def checked_values(values: Sequence[float], allocator: str, has_logprobs: bool) -> tuple[float, ...]:
    """The values of b in ascending order, each once; below 0 dearer models win.

    ConfigError for none, for one that is no finite number, and for an allocator without log-probabilities.
    """
    found = tuple(sorted(set(values)))
    if not found:
        raise ConfigError("--b: give at least one value, such as 0,0.05,0.1,0.2.")
    if not all(map(isfinite, found)):
        raise ConfigError(f"--b {','.join(f'{value:g}' for value in values)}: expected finite numbers.")
    if not has_logprobs:
        raise ConfigError(
            f"--b: the cost knob needs the allocator's log-probabilities, and {allocator!r} has logprobs = false. "
            "Set logprobs = true in its table if its endpoint returns them, or choose another allocator with "
            "--allocator."
        )
    return found


def curve(points: Sequence[KnobResult]) -> list[KnobResult]:
    """The points worth choosing, cheapest first: each is more accurate than every cheaper one (the steps of the running
    maximum).

    Of points with the same cost and accuracy the one with the smallest b stays.
    """
    best: list[KnobResult] = []
    for point in sorted(points, key=lambda p: (p.usd_per_1k, -p.accuracy, p.b)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def within_budget(points: Sequence[KnobResult], usd_per_1k: float) -> Advice:
    """The most accurate point that costs at most so much; of equally accurate ones the cheapest, then the smallest b.

    Where no point does, the cheapest of all. Raises ValueError without points.
    """
    affordable = [point for point in curve(points) if point.usd_per_1k <= usd_per_1k]
    if affordable:
        chosen = affordable[-1]
        return Advice(chosen, True, f"the most accurate point at no more than {usd_per_1k:.4g} USD per 1k problems")
    cheapest = min(points, key=lambda p: (p.usd_per_1k, -p.accuracy, p.b))
    return Advice(
        cheapest,
        False,
        f"no b costs so little: {usd_per_1k:.4g} USD per 1k is below the cheapest point's {cheapest.usd_per_1k:.4g} "
        f"(b = {cheapest.b:g})",
    )


def at_accuracy(points: Sequence[KnobResult], accuracy: float) -> Advice:
    """The cheapest point that is at least so accurate; of equally cheap ones the more accurate, then the smallest b.

    Where no point is, the most accurate of all. Raises ValueError without points.
    """
    worth = curve(points)
    if not worth:
        raise ValueError("no points to choose from")
    for point in worth:
        if point.accuracy >= accuracy - 1e-12:
            return Advice(point, True, f"the cheapest point with an accuracy of at least {accuracy:.1%}")
    best = worth[-1]
    return Advice(
        best,
        False,
        f"no b is so accurate: {accuracy:.1%} is above the best point's {best.accuracy:.1%} (b = {best.b:g})",
    )


def table(points: Sequence[KnobResult], reference_accuracy: float) -> list[TableRow]:
    """The calibrated table: for each point worth choosing the budget from which it is the choice, then for each share
    of the reference accuracy the cheapest point that reaches it."""
    budgets = [TableRow(p.usd_per_1k, None, within_budget(points, p.usd_per_1k)) for p in curve(points)]
    shares = [TableRow(None, share, at_accuracy(points, share * reference_accuracy)) for share in ACCURACY_SHARES]
    return budgets + shares
