"""Forgetting a person: `r2 lake forget`.

What counts and what was paid stay as they were: `storage/lake/forgotten.py` says what is left of a row. Everything may
be done again at any time, and after a kill the same call ends what was begun: what is there no more is not found.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from r2.errors import ConfigError
from storage.forgetting.files import can_strip, strip_file
from storage.forgetting.of_run import Found, beside_tables, in_answers, in_plan, in_tables
from storage.forgetting.search import files_with
from storage.forgetting.theirs import find_theirs, names_in_loop, rows_with_words
from storage.lake.lake import Lake
from storage.lake.places import PARTS
from storage.lake.schema import TABLES
from storage.runs.journal import Journal
from storage.runs.plan import RunPlan
from storage.sql.query import write_database

_ELSEWHERE = (*TABLES, PARTS, "_manifest", "_locks")
"""Folders of a lake that the tables' part sees to."""
_OF_RUNS = ("shards", "journal", "jobs", "manifest.json", "reopened.jsonl")


@dataclass(slots=True)
class Forgotten:
    """`found`: what was taken out, or would be; `untouched`: what was left, and why; `still`: files of the lake that
    hold the person's words even now; `others`: (run, problem) of rows that have the same words under another name."""

    found: list[Found] = field(default_factory=list)
    untouched: list[str] = field(default_factory=list)
    still: list[Path] = field(default_factory=list)
    others: list[tuple[str, str]] = field(default_factory=list)


def forget(
    root: Path,
    problem_ids: Collection[str],
    run_ids: Sequence[str] = (),
    also: Sequence[Path] = (),
    *,
    is_dry: bool = False,
    searches: bool = True,
) -> Forgotten:
    """Takes every word of these problems out of the lake and out of the files `also`, which may be folders.

    `run_ids`: of these runs alone. With `is_dry` nothing is changed. RunLockedError, and nothing is changed, where one
    of the runs is being worked on. ConfigError as of `find_theirs`, and for a file that is not there or of no kind that
    rows can be taken out of.
    """
    lake, done = Lake(root), Forgotten()
    named = list(_named(also))
    theirs = find_theirs(lake, problem_ids, run_ids)
    if not run_ids and (further := names_in_loop(root, theirs)):
        problem_ids = {*problem_ids, *further}
        theirs = find_theirs(lake, problem_ids)
    with ExitStack() as locks:
        if not is_dry:
            for run_id in theirs.runs:
                locks.enter_context(lake.run_lock(run_id))
            theirs = find_theirs(lake, problem_ids, run_ids)  # nobody works on them from here on
            for path in _other_files(root):
                if path.suffix == ".journal":
                    Journal.open(path).close()  # RunLockedError while somebody has it open
        for of_run in theirs.runs.values():
            answers, untouched = in_answers(lake, of_run, is_dry=is_dry)
            done.found += answers
            done.untouched += [*untouched, *_input_of(of_run.plan, root, named)]
        for path in [*_other_files(root), *named]:
            if n := strip_file(path, theirs, is_dry=is_dry):
                done.found.append(("rows of a file", str(path), n))
        for of_run in theirs.runs.values():
            done.found += beside_tables(lake, of_run, theirs, is_dry=is_dry)
            done.found += in_plan(of_run, is_dry=is_dry)
            done.found += in_tables(lake, of_run, is_dry=is_dry)
    done.untouched = list(dict.fromkeys(done.untouched))
    if not is_dry:
        write_database(root)
        if searches:
            done.still = files_with(root, theirs.questions)
            done.others = rows_with_words(lake, theirs.questions) if done.still else []
    return done


def _named(also: Sequence[Path]) -> Iterator[Path]:
    for path in also:
        if path.is_dir():
            yield from (one for one in sorted(path.rglob("*")) if one.is_file() and can_strip(one))
        elif not path.is_file():
            raise ConfigError(f"--also {path}: no such file or folder.")
        elif not can_strip(path):
            raise ConfigError(
                f"--also {path}: rows cannot be taken out of a file of this kind. Expected JSONL, CSV, TSV or Parquet, "
                "as question files, answers files, label sets and recordings are."
            )
        else:
            yield path


def _other_files(root: Path) -> Iterator[Path]:
    """Files of the lake with rows that belong to no run's tables, plan or journals."""
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        is_of_run = parts[0] == "_runs" and len(parts) > 2 and parts[2] in _OF_RUNS
        if parts[0] in _ELSEWHERE or is_of_run or any(part.startswith(".") for part in parts) or path.is_symlink():
            continue
        if path.is_file() and can_strip(path):
            yield path


def _input_of(plan: RunPlan | None, root: Path, named: Sequence[Path]) -> Iterator[str]:
    """The user's own file that a run was planned from."""
    place = Path(plan.input_path) if plan is not None and plan.input_path else None
    if place is None or not place.exists() or place.is_relative_to(root.resolve()):
        return
    if place.resolve() not in {path.resolve() for path in named}:
        yield f"{place}: your file of questions; name it with --also, or take the rows out of it yourself"
