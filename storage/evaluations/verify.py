"""What is wrong with a lake: its tables, and the plans, shards, journals and results that runs and evaluations keep
beside them. Reads everything, changes nothing."""

from collections.abc import Iterator
from pathlib import Path

from storage.evaluations.store import FOLDER, evaluation_ids, read_comparison, read_evaluation
from storage.lake.lake import Lake
from storage.runs.verify import said, wrong_with_journals, wrong_with_runs


def verify_lake(root: Path) -> list[str]:
    """Everything wrong with a lake and what is kept in it, one line each."""
    return [
        *Lake(root).verify(),
        *wrong_with_runs(root),
        *wrong_with_journals(root),
        *_wrong_with_evaluations(root),
    ]


def _wrong_with_evaluations(root: Path) -> Iterator[str]:
    for name in evaluation_ids(root):
        yield from said(read_evaluation, root, name)
        for side in ("summary", "dev"):
            if (root / FOLDER / name / f"{side}.json").exists():
                yield from said(read_comparison, root, name, side)
