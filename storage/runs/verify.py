"""What is wrong with the plans, shards and journals of a lake's runs. Reads everything, changes nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec

from r2.errors import R2Error
from storage.runs.journal import Journal
from storage.runs.journal_mark import mark_of
from storage.runs.plan import read_plan

P = ParamSpec("P")


def wrong_with_runs(root: Path) -> Iterator[str]:
    """One line each. A run without a manifest was never planned to its end: nothing reads it."""
    for manifest in sorted((root / "_runs").glob("*/manifest.json")):
        run_dir = manifest.parent
        try:
            plan = read_plan(run_dir)
        except R2Error as error:
            yield str(error)
            continue
        for shard in plan.shards:
            yield from said(plan.check_shard, shard.index)
        yield from _wrong_with_journals(run_dir / "journal")


def _wrong_with_journals(folder: Path) -> Iterator[str]:
    names = {path.name.removesuffix(".mark") for path in folder.glob("*.journal*") if not path.name.startswith(".")}
    for path in sorted(folder / name for name in names):
        if path.exists() or mark_of(path).exists():
            yield from filter(None, [Journal.problem(path)])


def said(check: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> Iterator[str]:
    """What a check complains of, if it does."""
    try:
        check(*args, **kwargs)
    except R2Error as error:
        yield str(error)
