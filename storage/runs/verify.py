"""What is wrong with a lake: its tables, and the plans, shards, journals and results that runs and evaluations keep
beside them. Reads everything, changes nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec

from r2.errors import R2Error
from storage.evaluations.store import CALLS, FOLDER, evaluation_ids, read_comparison, read_evaluation
from storage.lake.lake import Lake
from storage.runs.journal import Journal
from storage.runs.journal_mark import mark_of
from storage.runs.plan import read_plan

P = ParamSpec("P")


def verify_lake(root: Path) -> list[str]:
    """Everything wrong with a lake and the runs in it, one line each."""
    return [*Lake(root).verify(), *_wrong_with_runs(root), *_wrong_with_evaluations(root)]


def _wrong_with_runs(root: Path) -> Iterator[str]:
    """A run without a manifest was never planned to its end: nothing reads it."""
    for manifest in sorted((root / "_runs").glob("*/manifest.json")):
        run_dir = manifest.parent
        try:
            plan = read_plan(run_dir)
        except R2Error as error:
            yield str(error)
            continue
        for shard in plan.shards:
            yield from _said(plan.check_shard, shard.index)
        yield from _wrong_with_journals(run_dir / "journal")


def _wrong_with_evaluations(root: Path) -> Iterator[str]:
    for name in evaluation_ids(root):
        yield from _said(read_evaluation, root, name)
        for side in ("summary", "dev"):
            if (root / FOLDER / name / f"{side}.json").exists():
                yield from _said(read_comparison, root, name, side)
    if (root / FOLDER).is_dir():
        yield from filter(None, [Journal.problem(root / FOLDER / CALLS)])


def _wrong_with_journals(folder: Path) -> Iterator[str]:
    names = {path.name.removesuffix(".mark") for path in folder.glob("*.journal*") if not path.name.startswith(".")}
    for path in sorted(folder / name for name in names):
        if path.exists() or mark_of(path).exists():
            yield from filter(None, [Journal.problem(path)])


def _said(check: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> Iterator[str]:
    try:
        check(*args, **kwargs)
    except R2Error as error:
        yield str(error)
