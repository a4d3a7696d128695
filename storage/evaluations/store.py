"""What an evaluation leaves in the lake, beside its runs: problems of both sides, what was chosen and why, and the
comparison.

    <lake>/_evaluations/<evaluation_id>/dev.jsonl, test.jsonl    the problems, as question files
                                        plan.json                `Evaluation`: settings, rows with their runs and
                                        operating points, money summary.json             the comparison on test problems
                                        (r2/evaluation/compare.py `from_json`) dev.json                 the same on dev
                                        problems, every operating point a method query_router-*.json      the query
                                        router that was fitted on dev problems

Its runs are ordinary runs of the lake, of kind `evaluate`. Written by `flows/evaluate_methods.py`, read by the report
and `r2 rescore`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter

from r2.atomic import write_atomically
from r2.errors import ConfigError, LakeError
from r2.evaluation.compare import Comparison, from_json, to_json
from r2.problem import Problem
from storage.lake.stores import store_of
from storage.runs.checks import CheckSummary
from storage.sources.problem_files import row_of

FOLDER = "_evaluations"
CALLS = "calls.journal"
"""Answers to the calls of all evaluations of a lake, each once; `tasks/evaluation/shared_calls.py`."""


@dataclass(frozen=True, slots=True)
class DevRun:
    """A run over the dev problems at one value of a method's knob (None: it has none), and how it did. `cost_usd` is
    per problem.

    `run_id` is "" where the point followed from other runs' answers: a query router's answers are known, because every
    model was asked.
    """

    value: float | None
    run_id: str
    accuracy: float
    cost_usd: float


@dataclass(frozen=True, slots=True)
class EvaluatedRow:
    """A row of the table. `value` is the operating point that `rule` chose among `dev`; `test_runs` has one run per
    seed."""

    name: str
    method: str
    """cot, direct, tot, ..., r2."""
    is_constant: bool
    knob: str
    value: float | None
    rule: str
    reasoning: Mapping[str, Any]
    dev: tuple[DevRun, ...]
    test_runs: tuple[str, ...]
    is_finished: bool
    """Every test problem is settled with every seed: it is in the comparison."""


@dataclass(frozen=True, slots=True)
class LeakageReport:
    """Training questions that are also among the evaluated problems, the same or nearly (r2/problems/leakage.py)."""

    labels: str
    n_train: int
    n_evaluation: int
    n_same: int
    n_near: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """plan.json. Money is USD over all sessions: `charged_usd` is what the methods' calls cost each of them, `paid_usd`
    what was sent."""

    evaluation_id: str
    status: str
    """completed, budget_stopped, interrupted, incomplete (some calls could not be made)."""
    settings: Mapping[str, Any]
    pool_digest: str
    n_dev: int
    n_test: int
    difficulty: Mapping[str, str]
    """problem_id -> easy, medium or hard, of both sides."""
    difficulty_source: str
    rows: tuple[EvaluatedRow, ...]
    subject: str | None
    verdict: str
    charged_usd: float
    paid_usd: float
    n_calls_charged: int
    n_calls_paid: int
    leaks: LeakageReport | None = None
    fitted_on: tuple[str, ...] = ()
    """Runs of every model over the dev problems that the query router was fitted on, and rules and cascades were chosen
    by."""
    wall_s: float = 0.0
    """Of the last session."""
    ended_at: float = 0.0
    prices: Mapping[str, str] = field(default_factory=dict)
    """Pool entry -> price version."""
    check: CheckSummary | None = None
    """Of the user's own check, over every run on test problems."""
    gold_difficulty: Mapping[str, str] = field(default_factory=dict)
    """What of `difficulty` follows from gold plans."""

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Rows that have not answered every problem yet; they are not in the comparison."""
        return tuple(row.name for row in self.rows if not row.is_finished)

    def runs(self) -> list[str]:
        """Every run of the evaluation, each once."""
        dev = [point.run_id for row in self.rows for point in row.dev if point.run_id]
        test = [run_id for row in self.rows for run_id in row.test_runs]
        return list(dict.fromkeys([*dev, *self.fitted_on, *test]))


_EVALUATION = TypeAdapter(Evaluation)


def evaluation_dir(lake: Path, evaluation_id: str) -> Path:
    return lake / FOLDER / evaluation_id


def evaluation_ids(lake: Path) -> list[str]:
    """The evaluations of a lake, by name."""
    store_of(lake).receive(lake / FOLDER)
    return sorted(path.parent.name for path in (lake / FOLDER).glob("*/plan.json"))


def evaluations_of(lake: Path, sources: Sequence[str]) -> list[str]:
    """The evaluations of the lake over these sources of problems, in any order. One that cannot be read is left out."""
    found = []
    for evaluation_id in evaluation_ids(lake):
        try:
            settings = orjson.loads((evaluation_dir(lake, evaluation_id) / "plan.json").read_bytes())["settings"]
            if sorted(settings["problems"]) == sorted(sources):
                found.append(evaluation_id)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def is_evaluation(lake: Path, name: str) -> bool:
    store_of(lake).receive(evaluation_dir(lake, name))
    return (evaluation_dir(lake, name) / "plan.json").exists()


def write_evaluation(lake: Path, evaluation: Evaluation) -> Path:
    path = evaluation_dir(lake, evaluation.evaluation_id) / "plan.json"
    write_atomically(path, _EVALUATION.dump_json(evaluation, indent=1))
    store_of(lake).share(path.parent)
    return path


def read_evaluation(lake: Path, evaluation_id: str) -> Evaluation:
    """ConfigError, with the evaluations there are, for an unknown one; LakeError for a plan.json of another format."""
    path = evaluation_dir(lake, evaluation_id) / "plan.json"
    store_of(lake).receive(path.parent)
    try:
        return _EVALUATION.validate_json(path.read_bytes())
    except OSError:
        known = ", ".join(evaluation_ids(lake)) or "none"
        raise ConfigError(f"{lake} has no evaluation {evaluation_id!r}. Evaluations: {known}.") from None
    except ValueError as error:
        raise LakeError(f"{path}: not an evaluation of this version: {error}. Run `r2 evaluate` again.") from None


def write_comparison(lake: Path, evaluation_id: str, name: str, comparison: Comparison) -> Path:
    """`name` is summary or dev."""
    path = evaluation_dir(lake, evaluation_id) / f"{name}.json"
    write_atomically(path, to_json(comparison))
    store_of(lake).share(path)
    return path


def read_comparison(lake: Path, evaluation_id: str, name: str = "summary") -> Comparison:
    """ConfigError where it was not written yet: the evaluation has no finished row to compare."""
    path = evaluation_dir(lake, evaluation_id) / f"{name}.json"
    try:
        return from_json(path.read_bytes())
    except OSError:
        raise ConfigError(f"{path}: missing; run `r2 evaluate` with the same settings to finish it.") from None


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """A question file, atomically."""
    write_atomically(path, b"".join(orjson.dumps(row_of(p), option=orjson.OPT_APPEND_NEWLINE) for p in problems))
