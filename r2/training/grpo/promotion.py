"""Whether what a round learned takes the place of what was there: a paired comparison on held-out problems. Pure.

A new version is promoted only if all of this holds (docs/method.md, sections 5 and 12; ours):

    read        its plans and allocations can be read, at all and nearly as often as before
    utility     1[correct] - lambda * cost / cost_ref is higher; its 95 % interval does not reach below minus a margin
    accuracy    it is no worse by more than `accuracy_margin`, by exact bounds on the problems that only one has right
    order       shown the models in random orders it costs at most `max_shuffled_cost` times as much

The decision says which margin of accuracy the problems at hand can hold, or how many are missing for the one that was
asked for. Called by r2/training/grpo/rounds.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from r2.evaluation.floor import margin_held, rows_missing
from r2.evaluation.intervals import paired_interval
from r2.evaluation.outcomes import FloatArray


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How a pair of policies did on the held-out problems, one entry per problem, in a fixed order."""

    problem_ids: tuple[str, ...]
    is_correct: tuple[float, ...]
    cost_usd: tuple[float, ...]
    cost_share: tuple[float, ...]
    """cost_usd over what the same problem costs on the largest model alone."""
    is_read: tuple[float, ...] = ()
    """1 where plan and allocation were read, 0 where a fallback stood in for one of them; empty in results written
    before this was measured."""

    @property
    def readable(self) -> float:
        """Share of the problems whose plan and allocation were read; 1 where it was not measured."""
        return sum(self.is_read) / len(self.is_read) if self.is_read else 1.0

    def utilities(self, lam: float) -> list[float]:
        """1[correct] - lambda * cost_usd / cost_ref of each problem."""
        return [right - lam * cost for right, cost in zip(self.is_correct, self.cost_share, strict=True)]

    def summary(self, lam: float) -> dict[str, float]:
        """Means over the problems."""
        n = max(1, len(self.problem_ids))
        return {
            "utility": sum(self.utilities(lam)) / n,
            "accuracy": sum(self.is_correct) / n,
            "cost_usd": sum(self.cost_usd) / n,
            "cost_share": sum(self.cost_share) / n,
            "readable": self.readable,
        }


@dataclass(frozen=True, slots=True)
class Gate:
    """What a promotion needs. The fields are those of `GrpoSettings`, which says what they mean."""

    lam: float
    margin: float = 0.01
    readable_loss: float = 0.05
    min_readable: float = 0.5
    accuracy_margin: float = 0.05
    delta: float = 0.05
    cost_share_cap: float = 3.0
    max_shuffled_cost: float = 1.1


@dataclass(frozen=True, slots=True)
class Decision:
    """A paired comparison: mean difference of utility with its 95 % interval, and what follows from it."""

    is_promoted: bool
    difference: float
    low: float
    high: float
    n_problems: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    reason: str
    n_losses: int = 0
    """Problems that only the old version has right; with a check that gives numbers, those it has more right."""
    n_wins: int = 0
    """Problems that only the new version has right."""
    accuracy_margin_held: float = 1.0
    """By how much, at most, the new version is less accurate, at confidence 1 - delta."""
    n_problems_missing: int | None = None
    """How many more held-out problems would show the asked margin, if losses and wins go on as they are; 0: these show
    it; None: no number would."""
    n_capped: int = 0
    """Problems whose saving was counted only up to the cap."""
    shuffled_cost_ratio: float | None = None
    """Cost with the models in random orders over cost as served; None where it was not measured."""


def decide(before: HeldOut, after: HeldOut, gate: Gate, seed: int = 0, *, shuffled: HeldOut | None = None) -> Decision:
    """Compares two versions over the same problems. `shuffled` is the new version shown the models in random orders;
    None where the allocator did not learn.

    Raises ValueError if the versions are not over the same problems.
    """
    if before.problem_ids != after.problem_ids:
        raise ValueError("the two versions were not evaluated on the same problems in the same order")
    n = len(after.problem_ids)
    gains, n_capped = _gains(before, after, gate)
    interval = paired_interval(gains, np.zeros(n), seed=seed) if n else None
    difference = float(gains.mean()) if n else 0.0
    low, high = (interval.low, interval.high) if interval is not None else (0.0, 0.0)
    rise = np.asarray(after.is_correct) - np.asarray(before.is_correct)
    n_losses, n_wins = int((rise < -1e-9).sum()), int((rise > 1 - 1e-9).sum())
    held = margin_held(n_losses, n_wins, n, gate.delta) if n else 1.0
    missing = rows_missing(n_losses, n_wins, n, gate.accuracy_margin, gate.delta) if n else None
    ratio = None if shuffled is None else _cost_ratio(shuffled, after)
    gain = f"utility {difference:+.4f}, 95 % {low:+.4f} to {high:+.4f}, n = {n}"
    capped = f"; {n_capped} savings counted only up to the cap" if n_capped else ""
    losses = f"{n_losses} lost and {n_wins} won of {n} problems"
    if after.readable < gate.min_readable or after.readable < before.readable - gate.readable_loss - 1e-9:
        reason = (
            f"kept: plan and allocation can be read for only {100 * after.readable:.0f} % of the held-out problems, "
            f"{100 * before.readable:.0f} % before; a fallback answered for the others ({gain})"
        )
    elif difference <= 0:
        reason = f"kept: held-out utility is not higher ({gain}{capped})"
    elif low < -gate.margin:
        reason = f"kept: the interval of the gain reaches below {-gate.margin:+.4f} ({gain}{capped})"
    elif held > gate.accuracy_margin:
        wanted = f"that accuracy is no worse by more than {gate.accuracy_margin:.4g}"
        lacking = (
            f"no number of problems would show {wanted} at these shares"
            if missing is None
            else f"{missing} more held-out problems are needed to show {wanted}"
        )
        reason = f"kept: {lacking}; these hold a margin of {held:.4f} ({losses}; {gain}{capped})"
    elif ratio is not None and 0 < gate.max_shuffled_cost < ratio:
        reason = (
            f"kept: shown the models in random orders it costs {ratio:.2f} times as much, more than "
            f"{gate.max_shuffled_cost:g}: it goes by their places, not by their profiles ({gain}{capped})"
        )
    else:
        reason = f"held-out {gain}{capped}; accuracy no worse by more than {held:.4f} ({losses})"
    return Decision(
        not reason.startswith("kept"),
        difference,
        low,
        high,
        n,
        before.summary(gate.lam),
        after.summary(gate.lam),
        reason,
        n_losses,
        n_wins,
        held,
        missing,
        n_capped,
        ratio,
    )


def _gains(before: HeldOut, after: HeldOut, gate: Gate) -> tuple[FloatArray, int]:
    """Gain in utility per problem, and on how many the saving was capped.

    What one problem saves counts up to `cost_share_cap` times the median cost share before, so that a few problems that
    used to be very dear do not decide alone. What a problem costs more always counts whole.
    """
    share = np.asarray(before.cost_share, np.float64)
    saved = share - np.asarray(after.cost_share, np.float64)
    n_capped = 0
    if gate.cost_share_cap and (share > 0).any():
        limit = gate.cost_share_cap * float(np.median(share[share > 0]))
        n_capped = int((saved > limit + 1e-12).sum())
        saved = np.minimum(saved, limit)
    rise = np.asarray(after.is_correct, np.float64) - np.asarray(before.is_correct, np.float64)
    return rise + gate.lam * saved, n_capped


def _cost_ratio(shuffled: HeldOut, after: HeldOut) -> float:
    mixed, served = sum(shuffled.cost_usd), sum(after.cost_usd)
    if served > 0:
        return mixed / served
    return 1.0 if mixed <= 0 else float("inf")
