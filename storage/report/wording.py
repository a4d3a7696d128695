"""Numbers as people read them: the same rounding in the verdict, the charts' tables and the tooltips."""

import math
from collections.abc import Iterable

from storage.report.content import Interval, Table

ABSENT = "–"


def percent(value: float, digits: int = 1) -> str:
    """0.874 is 87.4%."""
    return f"{100 * value:.{digits}f}%"


def share(interval: Interval | None) -> str:
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


def usd(interval: Interval) -> str:
    """An amount with its interval: 0.812 (0.790 to 0.836)."""
    if interval.low is None or interval.high is None:
        return number(interval.value)
    return f"{number(interval.value)} ({number(interval.low)} to {number(interval.high)})"


def seconds(value: float) -> str:
    """0.42 s, 14.1 s; milliseconds below a tenth."""
    return f"{1000 * value:.0f} ms" if value < 0.1 else f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def points(interval: Interval) -> str:
    """A difference of shares in percentage points: +1.2 (-0.3 to +2.6)."""
    if interval.low is None or interval.high is None:
        return f"{100 * interval.value:+.1f}"
    return f"{100 * interval.value:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def between(interval: Interval) -> str:
    """The bounds alone."""
    if interval.low is None or interval.high is None:
        return "no interval"
    return f"{number(interval.low)} to {number(interval.high)}"


def prices(versions: Iterable[tuple[str, str]]) -> Table:
    """(model, price version) as a table; a version is `DATE:INPUT/CACHED/OUTPUT`, one of another form is shown as it is."""
    rows = []
    for model, version in versions:
        date, _, numbers = version.rpartition(":")
        cells = numbers.split("/")
        rows.append((model, *cells, date) if len(cells) == 3 else (model, version, "", "", ""))
    return Table("Prices, USD per million tokens", ("model", "input", "cached input", "output", "date"), tuple(rows))
