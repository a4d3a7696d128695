"""What a policy is trained and examined on: label sets or generated subtasks, split into train and test. Light: no
torch, for dry runs too."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from r2.errors import ConfigError
from r2.policies.registry import file_sha256
from r2.problem import Problem
from r2.problems.source import parse_source
from r2.problems.split import Side, split_of
from r2.training.data import ChatRow, bare_row
from r2.training.sft.augment import augmented
from r2.training.sft.settings import PolicyKind, SftSettings
from r2.training.sft.specialist import SolvedSubtask, balanced, generated_subtasks
from storage.runs.label_sets import read_label_rows
from storage.sources.problem_files import problems_of

JOB = {"decomposer": "decompose", "allocator": "allocate", "specialist": "solve"}
"""Policy -> its job, as prompts and calls name it."""


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """`held_out_subtasks` are what a specialist's `held_out` rows were made of; empty for a router's policies. No
    held-out prompt is among the trained ones; `n_seen` counts those that were, and were left out."""

    train: list[ChatRow]
    held_out: list[ChatRow]
    held_out_subtasks: list[SolvedSubtask]
    data_sha256: dict[str, str]
    n_seen: int = 0


def training_rows(settings: SftSettings, kind: PolicyKind) -> TrainingRows:
    """Both sides of the split. ConfigError or InputFileError where the data is not there or not of its format, or one
    side is empty."""
    found = _subtask_rows(settings) if kind == "specialist" else _label_rows(settings, kind)
    if not found.train:
        raise ConfigError(
            f"{', '.join(found.data_sha256)}: no rows on the train side to train {settings.policy_name(kind)} on. "
            "Label more problems, or lower test_share."
        )
    return found


def held_out_problems(settings: SftSettings) -> list[Problem]:
    """Problems of `settings.problems` on the test side, as many as are executed."""
    data_dir = Path(settings.data_dir) if settings.data_dir else None
    wanted = int(2 * settings.n_executed / settings.test_share)
    problems = problems_of(parse_source(settings.problems or ""), wanted, settings.seed, data_dir)
    mine = (p for p in problems if split_of(p.question, settings.split_seed, settings.test_share) == "test")
    return [problem for problem, _ in zip(mine, range(settings.n_executed), strict=False)]


def _label_rows(settings: SftSettings, kind: PolicyKind) -> TrainingRows:
    paths = [Path(folder) / f"{kind}.parquet" for folder in settings.labels.split(",")]
    for path in paths:
        if not path.exists():
            raise ConfigError(
                f"{path}: no such label set. Make it with: r2 label --problems SOURCE --out {path.parent}"
            )
    sides: dict[str, list[ChatRow]] = {}
    for side in ("train", "test"):
        rows = [row for path in paths for row in read_label_rows(path, side)]
        if settings.prompt_mode == "bare":
            sides[side] = [bare_row(row, JOB[kind]) for row in rows]
        else:
            sides[side] = [ChatRow(prompt=row["prompt"], completion=row["completion"]) for row in rows]
    train = sides["train"]
    trained = {_prompt(row) for row in train}
    unseen = [row for row in sides["test"] if _prompt(row) not in trained]
    # One in every so many, so that what is examined is of all label sets.
    test = unseen[:: max(1, len(unseen) // max(1, settings.n_held_out))][: settings.n_held_out]
    if kind == "allocator":
        train = augmented(train, settings.augment, seed=settings.seed)
    hashes = {str(path): file_sha256(path) for path in paths}
    return TrainingRows(train, test, [], hashes, len(sides["test"]) - len(unseen))


def _prompt(row: ChatRow) -> tuple[tuple[str, str], ...]:
    return tuple((said["role"], said["content"]) for said in row["prompt"])


def _subtask_rows(settings: SftSettings) -> TrainingRows:
    source = settings.problems or ""

    def made(side: Side) -> list[SolvedSubtask]:
        return generated_subtasks(
            source,
            settings.n_problems,
            settings.seed,
            side=side,
            split_seed=settings.split_seed,
            test_share=settings.test_share,
        )

    trained = balanced(made("train"), settings.steps * settings.batch_size, settings.seed)
    seen = {solved.messages() for solved in trained}
    tested = {solved.messages(): solved for solved in made("test")}
    held_out = balanced((s for said, s in tested.items() if said not in seen), settings.n_held_out, settings.seed)
    train = [solved.row() for solved in trained]
    rows = [solved.row() for solved in held_out]
    return TrainingRows(train, rows, held_out, {source: rows_sha256(train)}, len(seen & tested.keys()))


def rows_sha256(rows: Sequence[ChatRow]) -> str:
    """Of generated rows, which have no file."""
    return hashlib.sha256(orjson.dumps(rows)).hexdigest()
