"""What is wrong with the plans, shards and journals in a lake. Reads everything, changes nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec

from r2.errors import R2Error
from storage.runs.journal import Journal
from storage.runs.plan import planned_runs, read_plan

P = ParamSpec("P")


def wrong_with_runs(root: Path) -> Iterator[str]:
    """One line each. A run without a manifest was never planned to its end: nothing reads it."""
    for run_dir in planned_runs(root):
        try:
            plan = read_plan(run_dir)
        except R2Error as error:
            yield str(error)
            continue
        for shard in plan.shards:
            yield from said(plan.check_shard, shard.index)


def wrong_with_journals(root: Path) -> Iterator[str]:
    """One line each, of all journals beside the tables: those of runs, evaluations, plans and trainings."""
    found = (path for folder in root.glob("_*") for path in folder.rglob("*.journal*"))
    for path in sorted({path.with_name(path.name.removesuffix(".mark")) for path in found}):
        if path.suffix == ".journal" and not path.name.startswith("."):
            yield from filter(None, [Journal.problem(path)])


def said(check: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> Iterator[str]:
    """What a check complains of, if it does."""
    try:
        check(*args, **kwargs)
    except R2Error as error:
        yield str(error)
