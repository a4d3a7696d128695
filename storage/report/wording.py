"""Numbers as people read them: the same rounding in the verdict, the charts' tables and the tooltips."""

import math
from collections.abc import Iterable

from storage.report.content import Table, ValueWithInterval

ABSENT = "–"


def percent(value: float, digits: int = 1) -> str:
    """0.874 is 87.4%."""
    return f"{100 * value:.{digits}f}%"


def share(interval: ValueWithInterval | None) -> str:
    """A share with its interval: 87.4% (85.1 to 89.3)."""
    if interval is None:
        return ABSENT
    if interval.low is None or interval.high is None:
        return percent(interval.value)
    return f"{percent(interval.value)} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def number(value: float) -> str:
    """Three significant digits, without an exponent between a billionth and a million."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    size = math.floor(math.log10(abs(value)))
    if size >= 6 or size < -9:
        return f"{value:.2e}"
    return f"{value:,.{max(0, 2 - size)}f}"


def usd(interval: ValueWithInterval) -> str:
    """An amount with its interval: 0.812 (0.790 to 0.836)."""
    if interval.low is None or interval.high is None:
        return number(interval.value)
    return f"{number(interval.value)} ({number(interval.low)} to {number(interval.high)})"


def seconds(value: float) -> str:
    """0.42 s, 14.1 s; milliseconds below a tenth."""
    return f"{1000 * value:.0f} ms" if value < 0.1 else f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def points(interval: ValueWithInterval) -> str:
    """A difference of shares in percentage points: +1.2 (-0.3 to +2.6)."""
    if interval.low is None or interval.high is None:
        return f"{100 * interval.value:+.1f}"
    return f"{100 * interval.value:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def between(interval: ValueWithInterval) -> str:
    """The bounds alone."""
    if interval.low is None or interval.high is None:
        return "no interval"
    return f"{number(interval.low)} to {number(interval.high)}"


def prices(versions: Iterable[tuple[str, str]]) -> Table:
    """(model, price version) as a table; a version is `DATE:INPUT/CACHED/OUTPUT`, one of another form is shown as it
    is."""
    rows = []
    for model, version in versions:
        date, _, numbers = version.rpartition(":")
        cells = numbers.split("/")
        rows.append((model, *cells, date) if len(cells) == 3 else (model, version, "", "", ""))
    return Table("Prices, USD per million tokens", ("model", "input", "cached input", "output", "date"), tuple(rows))


OF_AN_EVALUATION: tuple[tuple[str, str, str], ...] = (
    (
        "accuracy",
        "right / problems",
        "Checked by the benchmark's own rule, not by a model. A problem without an answer is wrong. Over several "
        "seeds each problem is averaged first.",
    ),
    (
        "95% interval",
        "2.5 and 97.5 percentiles of the bootstrap",
        "Problems are drawn again with replacement; all methods see the same draws, so differences keep what methods "
        "share.",
    ),
    (
        "USD per 1,000 problems",
        "1000 × Σ cost / problems",
        "All calls of the method: the router's own, retries and escalations included, at the prices above.",
    ),
    (
        "best constant",
        "most accurate of: one model for everything",
        "The line to beat. It is chosen on these same problems, which favours it.",
    ),
    (
        "cost saved at equal accuracy",
        "CS(τ) = 1 − min{C : Q ≥ τ · Q_ref} / C_ref",
        "Cost of the cheapest operating point that is as accurate as the best constant, against that constant's "
        "cost; τ = 1 unless said otherwise.",
    ),
    ("cheaper by", "1 − C / C_ref", "The same whatever the accuracy."),
    (
        "gap recovered (PGR)",
        "(Q − Q_weak) / (Q_strong − Q_weak)",
        "How far from the cheapest constant to the best one. APGR is its mean over the cost between the two.",
    ),
    (
        "AIQ",
        "∫ hull(c) dc / (c_max − c_min)",
        "Mean height of the non-decreasing upper hull of (cost, accuracy) points: what mixing them can reach.",
    ),
    (
        "frontier",
        "no method is at least as right and at most as dear",
        "The dashed line joins the hull's corners; it bends because the cost axis is logarithmic.",
    ),
    (
        "random at this cost",
        "best mixture of constants, blind to the problem",
        "A router that is not above it has learnt nothing about problems.",
    ),
    ("oracle", "per problem, the cheapest model that is right", "Hindsight over the constants; nobody can buy it."),
    (
        "headroom captured",
        "(U − U_random) / (U_oracle − U_random)",
        "How much of what could be gained over chance is gained; U is accuracy less the weighted cost.",
    ),
    (
        "collapse",
        "share of the most used model; entropy H = −Σ p log₂ p",
        "Effective models = 2^H: 1 means that one model gets everything. The router's own calls are not counted.",
    ),
    (
        "latency",
        "Σ over waves of the longest call",
        "From the first call to the answer, queues included, calls of a wave at the same time.",
    ),
    (
        "escalation",
        "",
        "A subtask that a failed check passed on to the next stronger model; not available: the allocated model "
        "could not be asked.",
    ),
)


OF_A_RUN: tuple[tuple[str, str, str], ...] = (
    (
        "accuracy",
        "right / problems with a known answer",
        "Checked by the benchmark's own rule. A problem without an answer is wrong. The interval is Wilson's, 95%.",
    ),
    (
        "USD per 1,000 problems",
        "1000 × Σ cost / problems",
        "All calls, the router's own, retries and escalations included, at the price of the day.",
    ),
    ("difficulty", "subtasks in the plan", "Stands for difficulty where no other is known."),
    ("collapse", "share of the most used model", "Of the answering calls; the router's own are not counted."),
    *(line for line in OF_AN_EVALUATION if line[0] in ("latency", "escalation")),
)
