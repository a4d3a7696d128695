"""The first step of an evaluation: its problems gathered, split and frozen as the question files of its runs. The same
for a sweep. Needs no Prefect."""

from dataclasses import dataclass
from pathlib import Path

from r2.answering.wanted import wanted_digest
from r2.evaluation.settings import EvaluateSettings
from r2.evaluation.sweep import SweepSettings, checked
from r2.pool.file.config import load_pool
from r2.problem import Problem
from r2.problems.own_check import checks_digest
from storage.evaluations.problems import EvaluatedProblems, identified_problems
from storage.evaluations.store import evaluation_dir, write_problems
from storage.evaluations.summary import UNKNOWN
from storage.evaluations.sweeps import sweep_file
from storage.lake.address import lake_folder
from storage.lake.manifest import make_folder
from storage.lake.stores import check_lake


@dataclass(frozen=True, slots=True)
class PlannedEvaluation:
    """Identity, problems and files of an evaluation."""

    evaluation_id: str
    problems: EvaluatedProblems
    dev_file: Path
    test_file: Path
    pool_digest: str

    @property
    def dev_ids(self) -> tuple[str, ...]:
        return tuple(problem.problem_id for problem in self.problems.dev)

    @property
    def test_ids(self) -> tuple[str, ...]:
        return tuple(problem.problem_id for problem in self.problems.test)

    @property
    def difficulty(self) -> dict[str, str]:
        """By problem_id, `UNKNOWN` where there is no gold plan."""
        return {name: self.problems.bands.get(name, UNKNOWN) for name in (*self.dev_ids, *self.test_ids)}


def plan_evaluation(settings: EvaluateSettings) -> PlannedEvaluation:
    """ConfigError or InputFileError if problems or pool cannot be used."""
    check_lake(settings.lake)
    pool = load_pool(settings.pool)
    pool.check_keys()
    root = lake_folder(settings.lake)
    pool_digest = pool.digest + checks_digest(settings.reasoning) + wanted_digest(settings.reasoning)
    problems, evaluation_id = identified_problems(
        settings,
        lambda digest: settings.evaluation_id(digest, pool_digest),
        lambda name: evaluation_dir(root, name).exists(),
    )
    folder = evaluation_dir(root, evaluation_id)
    make_folder(folder)
    planned = PlannedEvaluation(evaluation_id, problems, folder / "dev.jsonl", folder / "test.jsonl", pool.digest)
    write_problems(planned.dev_file, problems.dev)
    write_problems(planned.test_file, problems.test)
    return planned


@dataclass(frozen=True, slots=True)
class PlannedSweep:
    """Identity, problems and file of a sweep; `settings` name its router."""

    sweep_id: str
    settings: SweepSettings
    problems: tuple[Problem, ...]
    file: Path


def planned_sweep(settings: SweepSettings) -> PlannedSweep:
    """ConfigError or InputFileError if problems, pool or router cannot be used."""
    pool = load_pool(settings.pool)
    settings = checked(settings, pool)
    root = lake_folder(settings.lake)
    pool_digest = pool.digest + checks_digest(settings.reasoning)
    found, sweep_id = identified_problems(
        settings,
        lambda digest: settings.sweep_id(digest, pool_digest),
        lambda name: sweep_file(root, name, ".jsonl").exists(),
    )
    path = sweep_file(root, sweep_id, ".jsonl")
    make_folder(path.parent)
    problems = tuple(sorted([*found.dev, *found.test], key=lambda problem: problem.input_index))
    write_problems(path, problems)
    return PlannedSweep(sweep_id, settings, problems, path)
