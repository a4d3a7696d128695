"""The last step of a run's session: accounts checked, session recorded, lake compacted, views refreshed, answers
exported. Needs no Prefect."""

import sys
from collections.abc import Sequence
from pathlib import Path

from r2.errors import LakeError
from r2.methods import method_named
from r2.records.tables import RunRow
from storage.lake.lake import Lake
from storage.runs.answers import note_out, out_of, write_answers
from storage.runs.job_files import store_jobs
from storage.runs.plan import RunPlan, read_plan
from storage.runs.sessions import add_session, session_row
from storage.runs.summary import RunSummary, summarize
from storage.sql.query import refresh_database
from tasks.answering.progress import Progress


def finish_run(
    run_dir: Path, progress: Progress, out: str | None, more_columns: Sequence[str] = ()
) -> tuple[RunSummary, list[Path]]:
    """Closes the session and returns what the run came to so far, with the files of answers it wrote."""
    summary = close_session(run_dir, progress)
    plan = read_plan(run_dir)
    written = _written(plan, out, more_columns)
    note_out(plan, written[0])
    return summary, written


def tell_again(
    run_dir: Path, progress: Progress, out: str | None, more_columns: Sequence[str] = ()
) -> tuple[RunSummary, list[Path]]:
    """The same of a run that is closed: its answers are written again. Nothing in the lake changes, unless the process
    that closed it was killed before it ended."""
    plan = read_plan(run_dir)
    bring_into_view(plan, is_complete=True)
    summary = summarize(run_dir.parent.parent, plan.run_id, plan.settings.reasoning.check)
    check_accounts(plan.n_requested, summary, progress.n_deferred)
    return summary, _written(plan, out, more_columns)


def _written(plan: RunPlan, out: str | None, more_columns: Sequence[str]) -> list[Path]:
    return write_answers(plan, Lake(plan.run_dir.parent.parent), out_of(plan, out), more_columns)


def close_session(run_dir: Path, progress: Progress) -> RunSummary:
    """Accounts checked, session recorded, run compacted where it is complete, views refreshed."""
    plan = read_plan(run_dir)
    root = run_dir.parent.parent
    summary = summarize(root, plan.run_id, plan.settings.reasoning.check)
    check_accounts(plan.n_requested, summary, progress.n_deferred)
    record_session(
        plan,
        progress,
        kind=method_named(plan.settings.reasoning.method).run_kind,
        n_answered=summary.n_answered,
        n_failed=summary.n_failed,
        cost_usd=summary.cost_usd,
    )
    is_complete = progress.stop_reason is None and progress.n_deferred == 0
    bring_into_view(plan, is_complete=is_complete)
    return summary


def bring_into_view(plan: RunPlan, *, is_complete: bool) -> None:
    """What follows once the session's row is stored, so that the row is in view with the rest. Each part finds by
    itself whether it is done, for a kill may come between any two."""
    lake = Lake(plan.run_dir.parent.parent)
    store_jobs(plan.jobs_dir, lake, plan.run_id, is_complete=is_complete)
    if is_complete:
        lake.compact(plan.run_id)
    refresh_database(lake.root)


def record_session(
    plan: RunPlan, progress: Progress, *, kind: str, n_answered: int, n_failed: int, cost_usd: float
) -> None:
    """Adds the session's row to `runs`. The counts and the cost are over all sessions of the run."""
    status = _status(n_answered, n_failed, progress, plan.settings.max_error_rate)
    row = row_of(plan, progress, kind=kind, status=status, n_answered=n_answered, n_failed=n_failed, cost_usd=cost_usd)
    add_session(Lake(plan.run_dir.parent.parent), row)


def row_of(
    plan: RunPlan, progress: Progress, *, kind: str, status: str, n_answered: int, n_failed: int, cost_usd: float
) -> RunRow:
    """A session's row in `runs`; what is not settled is deferred."""
    lake = Lake(plan.run_dir.parent.parent)
    return session_row(
        lake,
        plan.run_id,
        flow_run_id=_flow_run_id(),
        kind=kind,
        method=plan.settings.reasoning.method,
        input_path=plan.settings.input,
        pool_path=plan.settings.pool,
        config=plan.settings.model_dump(mode="json"),
        status=status,
        n_requested=plan.n_requested,
        n_answered=n_answered,
        n_failed=n_failed,
        n_deferred=plan.n_requested - n_answered - n_failed,
        n_calls_lost=progress.n_calls_lost,
        cost_usd=cost_usd + progress.unsettled_cost_usd,
        session_cost_usd=progress.session_cost_usd,
        started_at=progress.started_at,
        tags=progress.tags,
    )


def _flow_run_id() -> str:
    """Of the flow that runs here; "" where none does. A process that has not loaded Prefect runs no flow."""
    if "prefect" not in sys.modules:
        return ""
    from prefect import runtime

    return str(runtime.flow_run.id or "")


def check_accounts(n_requested: int, summary: RunSummary, n_deferred: int) -> None:
    """requested = answered + failed + deferred, from three independent counts: the plan, the lake, the shards.
    LakeError if not."""
    if n_requested != summary.n_answered + summary.n_failed + n_deferred:
        raise LakeError(
            f"run {summary.run_id}: {n_requested} requested, but {summary.n_answered} answered + {summary.n_failed} "
            "failed + "
            f"{n_deferred} deferred. Check the lake with `r2 lake verify`; the run's journal and shards are kept."
        )


def _status(n_answered: int, n_failed: int, progress: Progress, max_error_rate: float) -> str:
    if progress.stop_reason == "budget":
        return "budget_stopped"
    if progress.stop_reason == "interrupted":
        return "interrupted"
    if progress.is_cut_off or n_failed > max_error_rate * (n_answered + n_failed):
        return "failed"
    return "completed_with_errors" if n_failed or progress.n_deferred else "completed"
