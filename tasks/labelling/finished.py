"""A labelling run that has nothing left to ask, told without Prefect."""

from dataclasses import dataclass
from pathlib import Path

from r2.settings import AnswerSettings, LabelSettings
from storage.lake.address import lake_folder
from storage.lake.lake import Lake
from storage.runs.label_sets import LabelSets, LabelSummary
from storage.runs.plan import read_plan
from storage.sources.problem_files import question_file
from tasks.answering.finished import is_finished
from tasks.answering.plan_file import plan_file
from tasks.answering.progress import Progress, progress_so_far
from tasks.labelling.finish_labels import finish_labels


@dataclass(frozen=True, slots=True)
class LabelResult:
    """How a session of a labelling run ended."""

    summary: LabelSummary
    sets: LabelSets
    progress: Progress
    lake: Path


def answering_of(settings: LabelSettings) -> AnswerSettings:
    """How the problems are asked: the settings of the run that labels them. Their file is written into the lake."""
    data_dir = Path(settings.data_dir) if settings.data_dir else None
    file = question_file(settings.problems, settings.limit, settings.seed, data_dir, lake_folder(settings.lake))
    return settings.answering(str(file.path), file.check, file.columns)


def finished_labels(settings: LabelSettings) -> LabelResult | None:
    """The result of a finished run, whose sets are written again; None where something is left to ask."""
    answering = answering_of(settings)
    run_dir = plan_file(answering)
    plan = read_plan(run_dir, answering)
    with Lake(settings.lake).run_lock(plan.run_id):
        progress = progress_so_far(plan)
        if not is_finished(plan, progress):
            return None
        summary, sets = finish_labels(run_dir, progress, settings)
    return LabelResult(summary, sets, progress, lake_folder(settings.lake))
