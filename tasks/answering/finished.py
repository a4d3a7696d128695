"""A run that has nothing left to ask, told without Prefect: its summary and its answers are there in a second."""

from dataclasses import dataclass
from pathlib import Path

from r2.settings import AnswerSettings
from storage.lake.address import lake_folder
from storage.lake.lake import Lake
from storage.runs.plan import RunPlan, read_plan
from storage.runs.sessions import is_closed
from storage.runs.summary import RunSummary
from tasks.answering.finish_run import finish_run, tell_again
from tasks.answering.plan_file import plan_file
from tasks.answering.progress import Progress, progress_so_far
from tasks.answering.simulated import warning


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a session of a run ended."""

    summary: RunSummary
    progress: Progress
    lake: Path
    out: list[Path]
    wall_s: float
    n_reopened: int = 0
    """Questions that had failed and were asked again."""
    warning: str = ""
    """What was said before the run, and is said again beside its result."""


def finished_run(settings: AnswerSettings, *, retry_failed: bool = False) -> RunResult | None:
    """The result of a finished run, whose answers are written again; None where something is left to ask. A run that
    was not planned yet is planned: what is wrong with its input is an InputFileError here, before anything starts."""
    run_dir = plan_file(settings)
    plan = read_plan(run_dir, settings)
    with Lake(settings.lake).run_lock(plan.run_id):
        progress = progress_so_far(plan)
        if not is_finished(plan, progress) or (retry_failed and progress.n_failed):
            return None
        finish = tell_again if is_closed(lake_folder(settings.lake), plan.run_id) else finish_run
        summary, written = finish(run_dir, progress, settings.out, settings.more_columns)
    return RunResult(summary, progress, lake_folder(settings.lake), written, progress.wall_s, warning=warning(plan))


def is_finished(plan: RunPlan, progress: Progress) -> bool:
    return progress.n_settled == plan.n_requested
