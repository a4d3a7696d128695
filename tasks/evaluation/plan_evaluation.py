"""The first task of an evaluation: its problems gathered, split and frozen as the question files of its runs."""

from dataclasses import dataclass
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from r2.answering.wanted import wanted_digest
from r2.atomic import check_folder
from r2.evaluation.settings import EvaluateSettings
from r2.pool.file.config import load_pool
from r2.problems.own_check import checks_digest
from storage.evaluations.problems import EvaluatedProblems, evaluated_problems
from storage.evaluations.store import evaluation_dir, write_problems
from storage.evaluations.summary import UNKNOWN
from storage.lake.manifest import make_folder


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


@task(name="plan-evaluation", cache_policy=NO_CACHE, persist_result=False)
def plan_evaluation(settings: EvaluateSettings) -> PlannedEvaluation:
    """ConfigError or InputFileError if problems or pool cannot be used."""
    check_folder(Path(settings.lake), "--lake")
    pool = load_pool(settings.pool)
    pool.check_keys()
    problems = evaluated_problems(settings)
    by_content = checks_digest(settings.reasoning) + wanted_digest(settings.reasoning)
    evaluation_id = settings.evaluation_id(problems.digest, pool.digest + by_content)
    folder = evaluation_dir(Path(settings.lake), evaluation_id)
    make_folder(folder)
    planned = PlannedEvaluation(evaluation_id, problems, folder / "dev.jsonl", folder / "test.jsonl", pool.digest)
    write_problems(planned.dev_file, problems.dev)
    write_problems(planned.test_file, problems.test)
    return planned
