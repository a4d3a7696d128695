"""`--retry-failed`: the failed questions of a run are open again, before the session begins."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from r2.methods import method_named
from r2.records.tables import RunRow
from storage.lake.lake import Lake
from storage.runs.plan import read_plan
from storage.runs.reopened import reopen_failed
from tasks.answering.finish_run import row_of
from tasks.answering.progress import progress_so_far


@task(name="reopen-run", cache_policy=NO_CACHE, persist_result=False)
def reopen_run(run_dir: Path) -> int:
    """How many questions are asked again. For whoever holds the run's lock."""
    plan = read_plan(run_dir)
    progress = progress_so_far(plan)

    def session(n_reopened: int) -> RunRow:
        return row_of(
            plan,
            progress,
            kind=method_named(plan.settings.reasoning.method).run_kind,
            status="interrupted",
            n_answered=progress.n_answered,
            n_failed=progress.n_failed - n_reopened,
            cost_usd=progress.settled_cost_usd,
        )

    return reopen_failed(plan, Lake(run_dir.parent.parent), session)
