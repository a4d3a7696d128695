"""What a run shows while it goes: a live table on a terminal, one JSON line every ten seconds elsewhere.

Everything goes to stderr; results belong to stdout. Reads the session's counters, never the lake.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import orjson
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from r2.pool.batch.jobs import LaneGauge
from tasks.answering.session import RunSession

REFRESH_S = 0.5
REPORT_S = 10.0


@asynccontextmanager
async def shown(session: RunSession) -> AsyncIterator[None]:
    """Shows the session's progress until the block ends."""
    console = Console(stderr=True)
    shower = asyncio.create_task(_draw(session, console) if console.is_terminal else _report(session))
    try:
        yield
    finally:
        shower.cancel()
        await asyncio.gather(shower, return_exceptions=True)


async def _draw(session: RunSession, console: Console) -> None:
    with Live(_picture(session), console=console, refresh_per_second=1 / REFRESH_S, transient=True) as live:
        while True:
            await asyncio.sleep(REFRESH_S)
            live.update(_picture(session))


async def _report(session: RunSession) -> None:
    while True:
        await asyncio.sleep(REPORT_S)
        sys.stderr.write(orjson.dumps(_facts(session)).decode() + "\n")
        sys.stderr.flush()


def settled_percent(session: RunSession) -> float:
    """How far the run is, from 0 to 100."""
    return 100 * session.progress.shown().n_settled / max(1, session.progress.n_requested)


def projected_usd(session: RunSession) -> float:
    """Cost of the whole run if the rest costs per question what the settled part did."""
    shown = session.progress.shown()
    return shown.cost_usd / shown.n_settled * session.progress.n_requested if shown.n_settled else 0.0


def seconds_left(session: RunSession) -> float | None:
    """What the open questions take at this session's rate; None before it settled any."""
    rate = _rate(session)
    n_open = session.progress.n_requested - session.progress.shown().n_settled
    return n_open / rate if rate > 0 else None


def _facts(session: RunSession) -> dict[str, object]:
    progress, shown = session.progress, session.progress.shown()
    left = seconds_left(session)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "run_id": session.plan.run_id,
        "requested": progress.n_requested,
        "answered": shown.n_answered,
        "failed": shown.n_failed,
        "questions_per_s": round(_rate(session), 2),
        "seconds_left": None if left is None else round(left),
        "usd": round(shown.cost_usd, 6),
        "usd_saved": round(shown.saved_usd, 6),
        "usd_projected": round(projected_usd(session), 6),
        "models": {
            gauge.name: {
                "in_flight": gauge.in_flight,
                "calls": gauge.calls,
                "per_s": round(gauge.rate_per_s, 2),
                "429": gauge.rate_limited,
                "errors": gauge.errors,
                "p50_s": round(gauge.p50_s, 3),
                "p95_s": round(gauge.p95_s, 3),
                "usd": round(gauge.cost_usd, 6),
            }
            for gauge in session.client.gauges()
        },
        **({"batch": _lane_facts(session)} if session.lanes is not None else {}),
    }


def _lane_facts(session: RunSession) -> dict[str, object]:
    """Each batch lane now: calls that wait to be sent, calls in jobs, and what the providers say is done of them."""
    assert session.lanes is not None
    return {
        lane.name: {
            "waiting": lane.n_waiting,
            "in_jobs": lane.n_in_jobs,
            "done": lane.n_done,
            "jobs": lane.n_jobs,
            "oldest_s": round(lane.oldest_s),
            "closed": lane.why_closed,
        }
        for lane in session.lanes.lane_gauges()
    }


def _rate(session: RunSession) -> float:
    progress = session.progress
    return (progress.shown().n_settled - progress.n_settled_before) / max(1e-9, time.time() - progress.started_at)


def _picture(session: RunSession) -> Group:
    progress, shown = session.progress, session.progress.shown()
    table = Table(box=None, pad_edge=False)
    table.add_column("model")
    for heading in ("in flight", "limit", "calls", "per s", "429s", "errors", "p50 s", "p95 s", "USD"):
        table.add_column(heading, justify="right")
    for g in session.client.gauges():
        table.add_row(
            g.name,
            str(g.in_flight),
            str(g.limit),
            str(g.calls),
            f"{g.rate_per_s:.1f}",
            str(g.rate_limited),
            str(g.errors),
            f"{g.p50_s:.2f}",
            f"{g.p95_s:.2f}",
            f"{g.cost_usd:.6f}",
        )
    head = Text(
        f"{session.plan.run_id}  {shown.n_answered} answered, {shown.n_failed} failed of {progress.n_requested}"
        f"  {_rate(session):.1f}/s  {_time_left(session)}  "
        f"USD {shown.cost_usd:.6f} so far, {projected_usd(session):.6f} projected"
        + (f", {shown.saved_usd:.6f} saved" if shown.saved_usd else "")
    )
    bar = ProgressBar(total=max(1, progress.n_requested), completed=shown.n_settled)
    lanes = [] if session.lanes is None else [_lanes_table(session.lanes.lane_gauges())]
    # The padding ends the bar's line: the bar itself does not, and the headings would be lost behind it.
    return Group(head, Padding(bar, 0), table, *lanes)


def _lanes_table(gauges: Sequence[LaneGauge]) -> Table:
    """The batch lanes."""
    table = Table(box=None, pad_edge=False)
    table.add_column("batch lane")
    for heading in ("waiting", "in jobs", "done there", "jobs", "oldest h"):
        table.add_column(heading, justify="right")
    table.add_column("closed")
    for g in gauges:
        table.add_row(
            g.name,
            str(g.n_waiting),
            str(g.n_in_jobs),
            str(g.n_done),
            str(g.n_jobs),
            f"{g.oldest_s / 3600:.2f}",
            g.why_closed,
        )
    return table


def _time_left(session: RunSession) -> str:
    """How long the rest takes if it goes on as it did: `about 3 min left`; "" before this session settled anything."""
    seconds = seconds_left(session)
    if seconds is None:
        return ""
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"about {seconds / unit_s:.0f} {unit} left"
    return f"about {seconds:.0f} s left"
