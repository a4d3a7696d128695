"""The problems of an evaluation: gathered from their sources, each with its difficulty, split into dev and test,
written once.

Called at the start of `flows/evaluate_methods.py`. For the recording of an evaluation the problems are those that were
recorded.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from r2.answering.prompts import CHOICES_MARK, QUESTION_MARK
from r2.errors import ConfigError, InputFileError
from r2.evaluation.settings import Difficulty, EvaluateSettings, band, band_of, gold_steps, held_out, split
from r2.pool.file.recording import recorded_evaluation
from r2.problem import Problem
from r2.problems.benchmark import USERS_FILE, benchmarks
from r2.problems.leakage import leakage
from r2.problems.own_check import own_checks
from r2.problems.source import Source, parse_source
from storage.evaluations.store import LeakageReport
from storage.sources.own_file import own_files
from storage.sources.problem_files import gold_plans_of, own_problems, problems_of, row_of


@dataclass(frozen=True, slots=True)
class EvaluatedProblems:
    """Both sides in order, and the difficulty of those that have a gold plan."""

    dev: tuple[Problem, ...]
    test: tuple[Problem, ...]
    bands: dict[str, Difficulty]

    @property
    def digest(self) -> str:
        rows = [[row_of(problem) for problem in side] for side in (self.dev, self.test)]
        return hashlib.sha256(orjson.dumps(rows)).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """As a recording keeps them."""
        return {
            "dev": [row_of(problem) for problem in self.dev],
            "test": [row_of(problem) for problem in self.test],
            "bands": self.bands,
        }


def evaluated_problems(settings: EvaluateSettings, *, finds_columns: bool = True) -> EvaluatedProblems:
    """The problems of the settings' sources; `finds_columns` as in `QuestionFile.rows`. ConfigError or InputFileError
    for a source that cannot be read, an id used twice, a problem without an answer, an empty side."""
    if settings.pool.startswith("recording:"):
        recorded = recorded_evaluation(Path(settings.pool.partition(":")[2]))
        if recorded is not None and _same_problems(settings, EvaluateSettings.model_validate(recorded["settings"])):
            return _from_json(recorded["problems"])
    if not settings.problems:
        raise ConfigError(
            f"--problems: name at least one source: {', '.join(b.source for b in benchmarks().values())}, file:PATH."
        )
    data_dir = Path(settings.data_dir) if settings.data_dir else None
    check, _ = own_checks(settings.reasoning)
    needs_gold = check is None or check.needs_gold
    found: list[Problem] = []
    bands: dict[str, Difficulty] = {}
    for text in settings.problems:
        source = parse_source(text)
        problems = _problems(source, settings, data_dir, finds_columns)
        for problem in _limited(held_out(problems, settings), settings.limit):
            if problem.target is None and needs_gold:
                raise ConfigError(
                    f"--problems {text}: {problem.problem_id!r} has no answer to compare with. Give one, or a check "
                    "that does without (--check)."
                )
            found.append(replace(problem, input_index=len(found)))
        bands |= _bands_of_rows(source, settings, data_dir)
    ids = [problem.problem_id for problem in found]
    if len(set(ids)) < len(ids):
        repeated = next(name for name in ids if ids.count(name) > 1)
        raise ConfigError(
            f"--problems: the id {repeated!r} is used twice; every problem of an evaluation needs its own."
        )
    for problem in found:
        if problem.problem_id not in bands and (n_steps := gold_steps(problem)) is not None:
            bands[problem.problem_id] = band(n_steps)
    dev, test = split(found, settings.split_seed, settings.dev_share)
    known = set(ids)
    return EvaluatedProblems(tuple(dev), tuple(test), {name: b for name, b in bands.items() if name in known})


def identified_problems(
    settings: EvaluateSettings, name_of: Callable[[str], str], is_there: Callable[[str], bool]
) -> tuple[EvaluatedProblems, str]:
    """The problems with their evaluation's name, which `name_of` makes of their digest. An evaluation that an earlier
    version began (`is_there`), without the columns that are found by other names, goes on. Errors as
    `evaluated_problems`."""
    found = evaluated_problems(settings)
    name = name_of(found.digest)
    if is_there(name) or not own_files(settings.problems):
        return found, name
    try:
        older = evaluated_problems(settings, finds_columns=False)
    except (ConfigError, InputFileError):  # no earlier version could read them
        return found, name
    before = name_of(older.digest)
    return (older, before) if is_there(before) else (found, name)


def _same_problems(mine: EvaluateSettings, recorded: EvaluateSettings) -> bool:
    def what(settings: EvaluateSettings) -> tuple[object, ...]:
        return (
            settings.problems,
            settings.limit,
            settings.seed,
            settings.held_out,
            settings.split_seed,
            settings.dev_share,
        )

    return what(mine) == what(recorded)


def _problems(
    source: Source, settings: EvaluateSettings, data_dir: Path | None, finds_columns: bool
) -> Iterator[Problem]:
    """More than the limit where some of them will be left out as seen in training."""
    limit = settings.limit
    if limit is not None and settings.held_out is not None:
        limit = round(2 * limit / settings.held_out) + 50
    if source.name == USERS_FILE:
        return own_problems(source, limit, finds_columns=finds_columns)
    return problems_of(source, limit, settings.seed, data_dir)


def _limited(problems: Iterator[Problem], limit: int | None) -> Iterator[Problem]:
    for n, problem in enumerate(problems):
        if limit is not None and n >= limit:
            return
        yield problem


def _bands_of_rows(source: Source, settings: EvaluateSettings, data_dir: Path | None) -> dict[str, Difficulty]:
    """Difficulty of published problems whose rows have a decomposition; {} for other sources."""
    benchmark = benchmarks().get(source.name)
    if benchmark is None or not benchmark.has_gold_rows:
        return {}
    return {p.problem_id: band_of(plan) for p, plan in gold_plans_of(source, None, settings.seed, data_dir)}


def _from_json(stored: dict[str, Any]) -> EvaluatedProblems:
    sides = [[_problem(row, index) for index, row in enumerate(stored[side])] for side in ("dev", "test")]
    return EvaluatedProblems(tuple(sides[0]), tuple(sides[1]), stored["bands"])


def _problem(row: dict[str, Any], index: int) -> Problem:
    named = {"id", "question", "answer", "benchmark", "choices", "aliases", "context"}
    return Problem(
        row["id"],
        row["question"],
        index,
        row["answer"],
        row["benchmark"],
        tuple(row.get("choices", ())),
        row.get("context", ""),
        tuple(row.get("aliases", ())),
        {key: value for key, value in row.items() if key not in named},
    )


def leaks_among(settings: EvaluateSettings, problems: Sequence[Problem]) -> LeakageReport | None:
    """Of the router's training questions, how many are among these; None where no labels are named. ConfigError as
    `train_questions`."""
    if settings.train_labels is None:
        return None
    trained = train_questions(Path(settings.train_labels))
    found = leakage(trained, (problem.question for problem in problems))
    return LeakageReport(settings.train_labels, found.n_train, found.n_evaluation, found.n_same, found.n_near)


def train_questions(labels: Path) -> list[str]:
    """Questions of the training split of a folder of label sets, each once. ConfigError if there is no such set."""
    path = labels / "decomposer.parquet"
    try:
        rows = pq.read_table(path, columns=["prompt", "split"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"--train-labels {labels}: {path} cannot be read: {error}. `r2 label` writes it.") from None
    asked = (row["prompt"][-1]["content"] for row in rows if row["split"] == "train")
    return list(dict.fromkeys(text.partition(QUESTION_MARK)[2].partition(f"\n{CHOICES_MARK}")[0] for text in asked))
