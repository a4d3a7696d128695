"""What `r2 answer` says of batch lanes: in a dry run what they would cost and how long they may take, at the end what
live would have cost."""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from r2.settings import AnswerSettings
from storage.lake.address import lake_folder

if TYPE_CHECKING:
    from r2.methods.estimate import CallEstimate
    from r2.pool.file.config import PoolConfig


def add_batch_rows(table: Table, result: Any) -> None:
    """The receipt of the jobs; nothing where there was none."""
    from storage.runs.job_files import receipt_of

    receipt = receipt_of(result.lake / "_runs" / result.summary.run_id / "jobs")
    if not receipt.n_jobs:
        return
    table.add_row("  of it by batch", f"{receipt.cost_usd:.6f}")
    table.add_row("  the same answers live", f"{receipt.live_usd:.6f}")
    table.add_row("batch jobs", f"{receipt.n_jobs}  ({receipt.n_answered} calls answered)")
    if receipt.n_rescued:
        table.add_row("  calls rescued: asked live for the deadline", str(receipt.n_rescued))
    if receipt.n_live > receipt.n_rescued:
        table.add_row("  calls of them asked live for other reasons", str(receipt.n_live - receipt.n_rescued))
    if receipt.n_open:
        table.add_row("  jobs that wait: the same command reads them", str(receipt.n_open))
    if receipt.unused_usd:
        table.add_row("  paid for answers that nobody asks for any more", f"{receipt.unused_usd:.6f}")


def print_batch(
    pool: "PoolConfig", settings: AnswerSettings, calls: "Sequence[CallEstimate]", n_questions: int
) -> None:
    """A dry run's two prices, and the hours that a question of this depth may take. ConfigError as the run would."""
    from r2.methods.batch_estimate import batch_estimate
    from r2.pool.batch.choosing import batch_choices

    chosen, left = batch_choices(pool, settings.lane, settings.deadline_s)
    for line in left:
        print(line)
    if not chosen:
        return
    estimate = batch_estimate(calls, chosen, n_questions)
    print(
        f"by batch: about {estimate.usd:.6f} USD instead of {estimate.live_usd:.6f} live; {estimate.n_calls} of "
        f"{sum(call.n_calls for call in calls)} calls go by batch, to {', '.join(chosen)}"
    )
    hours = asyncio.run(_promised_hours(pool, chosen))
    print(
        f"hours by batch: a question has up to {estimate.depth} jobs one after the other, each within {hours:.0f} h by "
        f"the provider's promise: {estimate.depth * hours:.0f} h at most{_measured(lake_folder(settings.lake), chosen)}"
    )
    if settings.deadline_s is not None:
        print(
            f"deadline: what is not back {settings.deadline_s / 3600:.1f} h after the start is asked live, so the bill "
            f"ends between {estimate.usd:.6f} and {estimate.live_usd:.6f} USD"
        )


async def _promised_hours(pool: "PoolConfig", entries: Iterable[str]) -> float:
    """The longest of the windows that the entries' providers promise."""
    import aiohttp

    from r2.pool.batch.providers import open_provider
    from r2.pool.client.dialects import dialect_of

    windows_s = []
    async with aiohttp.ClientSession() as session:
        for name in entries:
            table = pool.models[name]
            dialect = dialect_of(table.endpoint, table.dialect)
            provider = open_provider(
                dialect, table.endpoint, table.served_model or name, table.api_key_env, session=session, environ={}
            )
            if provider is not None:
                windows_s.append(provider.limits.window_s)
    return max(windows_s, default=0.0) / 3600


def _measured(lake: Path, entries: Iterable[str]) -> str:
    """How long jobs of these entries took in the lake, as the end of a sentence; "" where it has none."""
    from r2.errors import LakeError
    from storage.sql.query import connect

    try:
        with connect(lake, views=()) as db:
            [(n, median_h)] = db.execute(
                "select count(*), median(epoch_ms(ended_at - submitted_at) / 3.6e6) from jobs "
                "where state = 'ended' and list_contains(?, request_model)",
                [list(entries)],
            ).fetchall()
    except LakeError:
        return ""
    return f"; jobs of this lake took {median_h:.2f} h (median of {n})" if n else ""
