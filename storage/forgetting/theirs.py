"""What a lake has of a person: the rows with their ids, in every run, and by what else their words can be told: the
questions, and the addresses of the requests that were made for them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from r2.call import problem_mark
from r2.errors import ConfigError, LakeError
from r2.problem import Problem
from storage.lake.forgotten import NO_REQUEST
from storage.lake.lake import Lake
from storage.lake.places import our_files, run_of
from storage.lake.schema import TABLES
from storage.runs.fresh_questions import REFRESH
from storage.runs.plan import RunPlan, read_plan
from storage.sources.questions import BadRow
from storage.sql.query import connect, damage_named

OF_PROBLEMS: Final = tuple(name for name, table in TABLES.items() if "problem_id" in table.schema.names)
_PLACES: Final = ("line-", "bad-line-")
"""Names that rows without an id get: places in a file, which several runs have."""


@dataclass(slots=True)
class OfRun:
    """What one run has of them. `ids`: as the run calls them; a row that could not be read has a name of its own."""

    run_id: str
    ids: set[str]
    stored: dict[str, int] = field(default_factory=dict)
    """Table -> rows that count."""
    unused: list[Path] = field(default_factory=list)
    """Files out of use that hold some."""
    plan: RunPlan | None = None
    planned: Mapping[int, list[tuple[Problem, BadRow | None]]] = field(default_factory=dict)
    """Shard -> rows of the plan."""


@dataclass(slots=True)
class Theirs:
    """`is_of_some_runs`: only the named runs are meant, and an id alone does not say whose row it is."""

    ids: frozenset[str]
    is_of_some_runs: bool
    runs: dict[str, OfRun] = field(default_factory=dict)
    questions: set[str] = field(default_factory=set)
    request_shas: set[str] = field(default_factory=set)

    @property
    def marks(self) -> set[str]:
        """As journals have the problems."""
        return {problem_mark(problem_id) for problem_id in self.ids}

    def is_sure(self, path: Path) -> bool:
        """Whether an id alone says whose row it is: where all runs are meant, and in files of a run that is."""
        return not self.is_of_some_runs or any(run_id in path.as_posix() for run_id in self.runs)

    def is_row(self, problem_id: object, question: object, *, is_sure: bool) -> bool:
        """Whether a row of a file is one of theirs: by its question where it says one, else by its id alone."""
        if problem_id not in self.ids:
            return False
        return question in self.questions if isinstance(question, str) else is_sure


def find_theirs(lake: Lake, problem_ids: Collection[str], run_ids: Sequence[str] = ()) -> Theirs:
    """Reads every plan and every table. ConfigError for a run that the lake does not have, and for an id that is a
    place in a file where no run is named."""
    known = known_runs(lake)
    if missing := [run_id for run_id in run_ids if run_id not in known]:
        raise ConfigError(
            f"--in-run {missing[0]}: {lake.root} has no such run. Runs: {', '.join(known[-10:]) or 'none'}."
        )
    if not run_ids and (places := sorted(one for one in problem_ids if one.startswith(_PLACES))):
        raise ConfigError(
            f"{places[0]}: the name of a row without an id, by its place in its file: other runs have rows of other "
            "people under it. Name the run with --in-run."
        )
    theirs = Theirs(frozenset(problem_ids), bool(run_ids))
    scope = list(run_ids) or known
    for run_id in scope:
        folder = lake.root / "_runs" / run_id
        if (folder / "manifest.json").exists():
            plan = read_plan(folder)
            planned = plan.rows_named(theirs.ids)
            rows = [row for shard in planned.values() for row in shard]
            if rows:
                ids = {problem.problem_id for problem, _ in rows} | theirs.ids
                theirs.runs[run_id] = OfRun(run_id, ids, plan=plan, planned=planned)
            for problem, bad in rows:
                theirs.questions |= {said for said in (problem.question, bad.question if bad else "") if said}
    _add_stored(lake, theirs, scope)
    _add_unused(lake, theirs, scope)
    return theirs


def known_runs(lake: Lake) -> list[str]:
    """Those with rows, and those that are planned alone."""
    planned = {path.parent.name for path in (lake.root / "_runs").glob("*/manifest.json")}
    return sorted({*lake.manifest.run_ids(), *planned})


def _add_stored(lake: Lake, theirs: Theirs, scope: Sequence[str]) -> None:
    ids = sorted(theirs.ids.union(*(one.ids for one in theirs.runs.values())))
    with connect(lake.root, views=()) as db, damage_named(lake.root):
        db.register("theirs", pa.table({"problem_id": pa.array(ids, pa.string())}))
        db.register("scope", pa.table({"run_id": pa.array(scope, pa.string())}))
        mine = "semi join theirs using (problem_id) semi join scope using (run_id)"
        for table in OF_PROBLEMS:
            rows = db.execute(f"select run_id, problem_id, count(*) from {table} {mine} group by all").fetchall()
            for run_id, problem_id, n in rows:
                if problem_id in theirs.ids or problem_id in theirs.runs.get(run_id, OfRun("", set())).ids:
                    of_run = theirs.runs.setdefault(run_id, _of_run(lake, run_id, theirs.ids))
                    of_run.stored[table] = of_run.stored.get(table, 0) + n
        said = db.execute(f"select distinct run_id, problem_id, input from trajectories {mine}").fetchall()
        asked = db.execute(f"select distinct run_id, problem_id, request_sha from calls {mine}").fetchall()
    for run_id, problem_id, text in said:
        if run_id in theirs.runs and problem_id in theirs.runs[run_id].ids and text:
            theirs.questions.add(text)
    for run_id, problem_id, request_sha in asked:
        if run_id in theirs.runs and problem_id in theirs.runs[run_id].ids and request_sha != NO_REQUEST:
            theirs.request_shas.add(request_sha)


def _of_run(lake: Lake, run_id: str, ids: Collection[str]) -> OfRun:
    folder = lake.root / "_runs" / run_id
    plan = read_plan(folder) if (folder / "manifest.json").exists() else None
    return OfRun(run_id, set(ids), plan=plan)


def _add_unused(lake: Lake, theirs: Theirs, scope: Sequence[str]) -> None:
    """Files that a compaction replaced or a crash left behind: nobody reads them, and the words are still in them."""
    live = {path for run_id in lake.manifest.run_ids() for table in TABLES for path in lake.files(table, run_id)}
    for path in our_files(lake.root):
        run_id = run_of(path)
        if path in live or run_id not in scope:
            continue
        ids = theirs.runs[run_id].ids if run_id in theirs.runs else theirs.ids
        if _holds(path, ids):
            theirs.runs.setdefault(run_id, _of_run(lake, run_id, theirs.ids)).unused.append(path)


def _holds(path: Path, ids: Collection[str]) -> bool:
    """Whether a file of rows has one of theirs. One that is not whole may: nobody can tell."""
    try:
        if "problem_id" not in pq.read_schema(path).names:
            return False
        return any(
            pc.any(pc.is_in(batch["problem_id"], pa.array(sorted(ids), pa.string()))).as_py()
            for batch in _batches(path)
        )
    except (OSError, pa.ArrowException):
        return True


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(columns=["problem_id"])


def names_in_loop(root: Path, theirs: Theirs) -> set[str]:
    """What the nightly loop calls their questions in its rounds, and so in its labelling runs."""
    found = set()
    for path in sorted((root / REFRESH).glob("*/*/questions.jsonl")):
        for line in path.read_bytes().splitlines():
            row = orjson.loads(line)
            if theirs.is_row(row.get("problem_id"), row.get("question"), is_sure=False):
                found.add(str(row["id"]))
    return found


def rows_with_words(lake: Lake, questions: Collection[str]) -> list[tuple[str, str]]:
    """(run, problem) of rows that have one of these questions still, under other names."""
    try:
        with connect(lake.root, views=()) as db:
            db.register("said", pa.table({"input": pa.array(sorted(questions), pa.string())}))
            found = db.execute(
                "select distinct run_id, problem_id from trajectories semi join said using (input) order by all"
            ).fetchall()
    except LakeError:
        return []
    return [(str(run_id), str(problem_id)) for run_id, problem_id in found]
