"""An evaluation or a sweep that has nothing left to ask, told again as it was stored: without Prefect."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2.errors import ConfigError, LakeError
from r2.evaluation.comparison import Comparison
from r2.evaluation.settings import EvaluateSettings
from r2.evaluation.sweep import Sweep, SweepSettings, answers_digest
from r2.pool.file.config import load_pool
from storage.evaluations.problems import leaks_among
from storage.evaluations.store import Evaluation, is_evaluation, read_comparison, read_evaluation
from storage.evaluations.sweeps import read_sweep, sweep_file
from storage.lake.address import lake_folder
from storage.runs.plan import read_plan, run_dir_of
from tasks.answering.finished import is_finished
from tasks.answering.progress import progress_so_far
from tasks.evaluation.plan_evaluation import plan_evaluation, planned_sweep

_OPERATIONAL = frozenset(
    {
        "data_dir",
        "lake",
        "max_cost_usd",
        "max_in_flight",
        "methods_in_flight",
        "models_dir",
        "pool",
        "reuse",
        "shard_size",
    }
)
"""Settings that change nothing of what is concluded from finished runs. The pool counts by its content."""


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """How a session of an evaluation ended. `comparison` is None where no row is finished."""

    evaluation: Evaluation
    comparison: Comparison | None
    lake: Path
    session_paid_usd: float


def finished_evaluation(settings: EvaluateSettings) -> EvaluationResult | None:
    """The evaluation as it was stored; None where something is left to ask, or other settings, prices or training
    labels than today's were concluded from. ConfigError or InputFileError for what is wrong in the settings."""
    planned = plan_evaluation(settings)
    root = lake_folder(settings.lake)
    if not is_evaluation(root, planned.evaluation_id):
        return None
    try:
        evaluation = read_evaluation(root, planned.evaluation_id)
        comparison = read_comparison(root, planned.evaluation_id)
    except (ConfigError, LakeError):  # by another version, or without a finished row: concluded anew
        return None
    prices = {name: card.price.version for name, card in load_pool(settings.pool).roster().by_name.items()}
    is_as_stored = (
        evaluation.status == "completed"
        and _same_conclusions(evaluation.settings, settings)
        and evaluation.prices == prices
        and evaluation.leaks == leaks_among(settings, planned.problems.test)
        and _all_settled(root, evaluation.runs())
    )
    return EvaluationResult(evaluation, comparison, root, 0.0) if is_as_stored else None


def finished_sweep(settings: SweepSettings) -> Sweep | None:
    """The same of a sweep."""
    planned = planned_sweep(settings)
    root = lake_folder(settings.lake)
    if not sweep_file(root, planned.sweep_id, ".json").exists():
        return None
    try:
        sweep = read_sweep(root, planned.sweep_id)
    except ConfigError:  # by another version
        return None
    is_as_stored = (
        sweep.status == "completed"
        and _same_conclusions(sweep.settings, planned.settings)
        and sweep.answers_digest == answers_digest(load_pool(settings.pool), planned.settings.reasoning)
        and _all_settled(root, [point.run_id for point in sweep.points])
    )
    return sweep if is_as_stored else None


def _same_conclusions(stored: Mapping[str, Any], settings: EvaluateSettings) -> bool:
    now = settings.model_dump(mode="json")
    return all(stored.get(name) == value for name, value in now.items() if name not in _OPERATIONAL)


def _all_settled(root: Path, run_ids: Iterable[str]) -> bool:
    """Whether the runs are in the lake, each with all its problems."""
    for run_id in run_ids:
        try:
            plan = read_plan(run_dir_of(root, run_id))
        except LakeError:
            return False
        if not is_finished(plan, progress_so_far(plan)):
            return False
    return True
