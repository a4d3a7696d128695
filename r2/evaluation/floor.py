"""Promises about accuracy that hold with a confidence chosen beforehand: a floor, and "no worse than before". Pure.

Ours (docs/method.md, section 12). Exact binomial bounds, so that nothing is promised that few rows cannot show:

- `certify`: which setting of a knob is at least so accurate (learn then test, arXiv:2110.01052, with fixed-sequence
  testing down one path of settings). Called by r2/evaluation/sweep.py.
- `no_worse_by`, `margin_held`, `rows_missing`: by how much a new version can be worse than the old one, from the
  problems on which only one of them is right. Called by r2/training/grpo/rounds.py.

The rows must be fresh: neither what was trained or calibrated on, nor what the knob's values were chosen by. A promise
is about questions drawn as these rows were drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log

from r2.errors import ConfigError

MAX_ROWS = 10_000_000
"""No advice goes beyond so many rows."""


@dataclass(frozen=True, slots=True)
class Tested:
    """One setting on the fresh rows: how many were right, and the chance of so many if its accuracy were just below
    the target."""

    theta: float
    n_right: int
    n_rows: int
    p_value: float

    @property
    def accuracy(self) -> float:
        return self.n_right / self.n_rows


@dataclass(frozen=True, slots=True)
class Floor:
    """What the rows say about a target. `tested` begins with the dearest setting and ends where the path ended.

    `theta` is the cheapest setting whose accuracy is at least `target`, at confidence 1 - delta; None: not even the
    dearest one is shown to be. Then `rows_needed` is how many rows it takes at the share of right answers seen, and
    None where no number of rows would do, because that share is not above the target.
    """

    target: float
    delta: float
    theta: float | None
    rows_needed: int | None
    tested: tuple[Tested, ...]
    n_settings: int

    @property
    def said(self) -> str:
        """The result in a sentence or two."""
        first, last = self.tested[0], self.tested[-1]
        if self.theta is not None:
            held = next(one for one in self.tested if one.theta == self.theta)
            ended = f"{last.n_right} of {last.n_rows} at {last.theta:g} do not show it"
            rest = ended if last is not held else "the cheapest setting there is"
            return (
                f"Setting {self.theta:g}: at least {self.target:.1%} are right, with {1 - self.delta:.1%} confidence: "
                f"{held.n_right} of {held.n_rows} rows; {rest}."
            )
        seen = f"{first.n_right} of {first.n_rows} rows are right at the dearest setting, {first.theta:g}"
        if self.rows_needed is None:
            return (
                f"No setting is shown to be {self.target:.1%} right: {seen}, which no number of rows lifts above the "
                "target. Ask for less, or add a stronger model."
            )
        return (
            f"Too few rows to promise {self.target:.1%} with {1 - self.delta:.1%} confidence: {seen}; at that share "
            f"it takes {self.rows_needed} rows, {self.rows_needed - first.n_rows} more."
        )


def certify(right_VR: Sequence[Sequence[int]], thetas: Sequence[float], target: float, delta: float) -> Floor:
    """The cheapest setting whose accuracy is at least `target`, wrong with probability at most `delta`.

    `right_VR` has, per setting from the dearest down, 1 or 0 per row; a failed row is 0. As `certify_counts`.
    ConfigError if settings and rows do not fit together, and for a value that is neither 0 nor 1.
    """
    if len(right_VR) != len(thetas):
        raise ConfigError(f"{len(right_VR)} settings were run and {len(thetas)} are named; expected as many.")
    for theta, row in zip(thetas, right_VR, strict=True):
        if other := [value for value in row if value not in (0, 1)]:
            raise ConfigError(
                f"setting {theta:g}: a row is {other[0]!r} right; an accuracy floor needs answers that are right (1) "
                "or wrong (0)."
            )
    n_rows = {len(row) for row in right_VR}
    if len(n_rows) > 1:
        raise ConfigError(f"the settings have {min(n_rows)} to {max(n_rows)} rows; a floor needs the same rows in all.")
    return certify_counts([int(sum(row)) for row in right_VR], n_rows.pop() if n_rows else 0, thetas, target, delta)


def certify_counts(
    n_right_V: Sequence[int], n_rows: int, thetas: Sequence[float], target: float, delta: float
) -> Floor:
    """As `certify`, from the number of right rows per setting.

    Learn then test: setting after setting from the dearest down, each is a test at level `delta` of "its accuracy is
    below the target", by the exact binomial tail; the first that is not rejected ends the path. One path fixed
    beforehand needs no correction for the number of settings. ConfigError without settings or rows, and for a target
    or delta outside (0, 1).
    """
    _check_share("the target accuracy", target)
    _check_share("delta", delta)
    if not thetas or not n_rows:
        raise ConfigError(
            f"An accuracy floor of {target:.1%} needs checked rows: at least {fewest_rows(target, delta)}, even if all "
            "of them are right. There are none."
        )
    tested = []
    chosen: float | None = None
    for theta, n_right in zip(thetas, n_right_V, strict=True):
        tested.append(Tested(theta, n_right, n_rows, tail(n_right, n_rows, target)))
        if tested[-1].p_value > delta:
            break
        chosen = theta
    needed = None if chosen is not None else rows_needed(n_right_V[0] / n_rows, target, delta)
    return Floor(target, delta, chosen, needed, tuple(tested), len(thetas))


def tail(n_right: int, n_rows: int, target: float) -> float:
    """P(at least n_right of n_rows are right) where each is right with probability `target`: the exact p-value of
    "the accuracy is below the target"."""
    from scipy.special import betainc  # imported where it is needed: few commands ask for a bound

    return 1.0 if n_right <= 0 else float(betainc(n_right, n_rows - n_right + 1, target))


def fewest_rows(target: float, delta: float) -> int:
    """Rows that are needed even if every one of them is right: target^n <= delta. 59 for 0.95 at 0.05."""
    return ceil(log(delta) / log(target) - 1e-12)


def rows_needed(share: float, target: float, delta: float) -> int | None:
    """Rows with which a share of right answers shows the target at level delta; None where the share is not above the
    target, or it would take more than `MAX_ROWS`."""
    if share <= target:
        return None
    return _smallest(fewest_rows(target, delta), lambda n: tail(int(share * n + 1e-9), n, target) <= delta)


def no_worse_by(losses: int, wins: int, n: int, delta: float) -> float:
    """By how much, at most, a new version is less accurate than the old one, at confidence 1 - delta.

    Of `n` problems the new version is wrong where the old one is right on `losses`, and right where the old one is
    wrong on `wins`. U(losses / n) - L(wins / n), Clopper-Pearson bounds at delta / 2 each. Below 0: it is shown to be
    better. (McNemar's test only asks whether they differ, not by how much.) ConfigError for counts that do not fit.
    """
    _check_share("delta", delta)
    if n < 1 or losses < 0 or wins < 0 or losses + wins > n:
        raise ConfigError(f"{losses} losses and {wins} wins of {n} problems: expected counts of at least one problem.")
    return _upper(losses, n, delta / 2) - _lower(wins, n, delta / 2)


def margin_held(losses: int, wins: int, n: int, delta: float) -> float:
    """The smallest margin that these rows can hold: `no_worse_by`, or 0 where the new version is shown to be
    better."""
    return max(0.0, no_worse_by(losses, wins, n, delta))


def rows_missing(losses: int, wins: int, n: int, margin: float, delta: float) -> int | None:
    """How many more problems it takes to show that the new version is no worse by more than `margin`, if losses and
    wins go on at the shares seen. 0: these rows show it. None: they would never (it loses at least so much more than it
    wins), or it would take more than `MAX_ROWS`."""
    if no_worse_by(losses, wins, n, delta) <= margin:
        return 0
    lost, won = losses / n, wins / n
    if lost - won >= margin:
        return None

    def holds(rows: int) -> bool:
        return no_worse_by(ceil(lost * rows - 1e-9), int(won * rows + 1e-9), rows, delta) <= margin

    needed = _smallest(n + 1, holds)
    return None if needed is None else needed - n


def _upper(count: int, n: int, level: float) -> float:
    """The share that is exceeded with probability at most `level` (Clopper-Pearson, one-sided)."""
    from scipy.special import betaincinv

    return 1.0 if count == n else float(betaincinv(count + 1, n - count, 1 - level))


def _lower(count: int, n: int, level: float) -> float:
    from scipy.special import betaincinv

    return 0.0 if count == 0 else float(betaincinv(count, n - count + 1, level))


def _smallest(start: int, holds: Callable[[int], bool]) -> int | None:
    """The smallest number from `start` on that holds, up to rounding of the counts: found by doubling, then halving."""
    low, high = start - 1, max(start, 1)
    while not holds(high):
        low, high = high, 2 * high
        if high > MAX_ROWS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _check_share(what: str, value: float) -> None:
    if not 0 < value < 1:
        raise ConfigError(f"{what} is {value:g}: expected a number between 0 and 1, such as 0.95.")
