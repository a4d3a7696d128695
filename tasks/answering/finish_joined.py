"""The end of a join: this worker's session recorded, and, by one worker, the run closed once no shard is open."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from r2.methods import method_named
from storage.joined.claims import Claims
from storage.joined.mark import remove_mark
from storage.lake.lake import Lake
from storage.runs.answers import default_out, note_out, out_of, write_answers
from storage.runs.plan import RunPlan
from storage.runs.summary import RunSummary, summarize
from storage.sql.query import refresh_database
from tasks.answering.finish_run import bring_into_view, check_accounts, record_session
from tasks.answering.progress import Progress, settled_rows
from tasks.blocking import to_end

POLL_S: Final = 1.0


async def finish_joined(
    plan: RunPlan, progress: Progress, claims: Claims, out: str | None, more_columns: Sequence[str] = ()
) -> tuple[RunSummary, list[Path]]:
    """What the run came to so far, with the files of answers that this worker wrote.

    Once no shard is open one worker compacts the run and writes its answers; should it die, another does. Where
    questions are left over, the last worker to leave writes what there is.
    """
    await to_end(_record, plan, progress)
    written: list[Path] = []
    while True:
        claim = await claims.take_finish()
        if claim is not None:
            written = await to_end(_close_run, plan, out, more_columns)
            await claims.check(claim)
            remove_mark(plan.run_dir)
            await claims.forget_run()
            break
        seen = await claims.look()
        if not seen.is_there:
            await to_end(lambda: bring_into_view(plan, is_complete=True))
            break
        if seen.n_open:
            others = [worker for worker in seen.workers if worker != claims.worker]
            if others:
                progress.said.append(f"{len(others)} more work on the run; the last of them writes its answers.")
            else:
                written = await to_end(_write_partly, plan, out, more_columns)
            break
        await asyncio.sleep(POLL_S)
    progress.n_deferred = await to_end(n_deferred, plan)
    summary = await to_end(_summary, plan)
    if not progress.n_deferred:
        check_accounts(plan.n_requested, summary, 0)
    return summary, written


def n_deferred(plan: RunPlan) -> int:
    """Questions of the run that no unit has settled, from the units' notes."""
    settled = settled_rows(plan)
    return sum(shard.n_rows - settled[shard.index] for shard in plan.shards)


def _summary(plan: RunPlan) -> RunSummary:
    return summarize(plan.run_dir.parent.parent, plan.run_id, plan.settings.reasoning.check)


def _record(plan: RunPlan, progress: Progress) -> None:
    summary = _summary(plan)
    record_session(
        plan,
        progress,
        kind=method_named(plan.settings.reasoning.method).run_kind,
        n_answered=summary.n_answered,
        n_failed=summary.n_failed,
        cost_usd=summary.cost_usd,
    )


def _close_run(plan: RunPlan, out: str | None, more_columns: Sequence[str]) -> list[Path]:
    check_accounts(plan.n_requested, _summary(plan), 0)
    bring_into_view(plan, is_complete=True)
    return _write(plan, out, more_columns)


def _write_partly(plan: RunPlan, out: str | None, more_columns: Sequence[str]) -> list[Path]:
    check_accounts(plan.n_requested, _summary(plan), n_deferred(plan))
    refresh_database(Lake(plan.settings.lake).root)
    return _write(plan, out, more_columns)


def _write(plan: RunPlan, out: str | None, more_columns: Sequence[str]) -> list[Path]:
    path = out_of(plan, out)
    if not path.parent.is_dir():  # the input lay on another machine
        path = plan.run_dir / default_out(plan.settings.input).name
    written = write_answers(plan, Lake(plan.settings.lake), path, more_columns)
    note_out(plan, written[0])
    return written
