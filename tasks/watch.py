"""What of a lake is cause for an alert: the day's spend above a budget, the newest day's accuracy below a floor. Needs
no Prefect."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from storage.sql.query import connect


@dataclass(frozen=True, slots=True)
class Alert:
    """`event` is the name that automations know it by."""

    event: str
    what: str
    value: float
    limit: float


def alerts(
    lake: Path, *, max_usd_per_day: float | None, accuracy_floor: float | None, now: datetime | None = None
) -> list[Alert]:
    """Nothing where a limit is None, or where there is too little to tell: accuracy is below its floor where the whole
    Wilson interval of the newest day is. Spend is of calls of the UTC day `now` that the lake has: those of questions
    that are not settled yet are missing."""
    today = (now or datetime.now(UTC)).date()
    found = []
    with connect(lake, views=("day_of", "drift")) as db:
        [(usd,)] = db.execute(
            "select coalesce(sum(cost_usd), 0) from calls where day_of(started_at) = ?", [today]
        ).fetchall()
        day = db.execute("select recent, recent_high, n_recent from drift where what = 'accuracy'").fetchone()
    if max_usd_per_day is not None and usd > max_usd_per_day:
        what = f"{usd:.6f} USD were spent on {today}, the budget of a day is {max_usd_per_day:g}"
        found.append(Alert("r2.alert.spend", what, float(usd), max_usd_per_day))
    if accuracy_floor is not None and day is not None and day[1] is not None and day[1] < accuracy_floor:
        what = (
            f"{100 * day[0]:.1f} % of the {day[2]} judged questions of the newest day are right, 95 % at most "
            f"{100 * day[1]:.1f} %; the floor is {100 * accuracy_floor:g} %"
        )
        found.append(Alert("r2.alert.accuracy", what, float(day[0]), accuracy_floor))
    return found
