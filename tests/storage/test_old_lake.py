"""A lake that the commit before the move of the packages wrote is read as that commit read it (tests/support/data/)."""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from r2.call import Completion
from r2.policies.registry import Registry
from r2.pool.file.config import load_pool
from r2.pool.file.identity import entry_digest
from r2.pool.file.recording import Recording, recorded_evaluation
from storage.evaluations.store import read_comparison, read_evaluation
from storage.evaluations.sweeps import read_sweep
from storage.lake.lake import Lake
from storage.runs.journal import Journal
from storage.runs.label_sets import read_label_rows
from storage.runs.plan import read_plan, run_dir_of
from storage.sql.query import connect, shipped_views, write_database
from tests.support.old_lake import ARCHIVE, EVALUATION, FINISHED_RUN, STOPPED_RUN, SWEEP, unpack

KNOWN_BETTER = {"reconcile_counts"}
"""That commit listed each finished training here, although nothing was wrong with it."""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked files, which these tests only read."""
    return unpack(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def database(old: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(old / "lake") as db:
        yield db


@pytest.fixture(scope="module")
def said(old: Path) -> dict[str, Any]:
    """What that commit answered, by table and view."""
    answers: dict[str, Any] = json.loads((old / "views.json").read_text("utf-8"))
    return answers


def rows_of(db: duckdb.DuckDBPyConnection, view: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    cursor = db.execute(f"from {view}")
    return [column[0] for column in cursor.description or ()], cursor.fetchall()


def order(row: dict[str, Any]) -> str:
    """Sums differ in their last digits from one answer to the next."""
    return repr([f"{value:.9g}" if isinstance(value, float) else value for value in row.values()])


def is_same(now: object, then: object) -> bool:
    if isinstance(now, float) and isinstance(then, float):
        return math.isclose(now, then, rel_tol=1e-9, abs_tol=1e-15)
    return now == then


def test_every_table_and_view_of_then_is_there_now(said: dict[str, Any], database: duckdb.DuckDBPyConnection):
    names = {name for (name,) in database.execute("select view_name from duckdb_views() where not internal").fetchall()}
    assert set(said) <= names
    assert len(set(said) & set(shipped_views())) > 25


def test_every_view_answers_as_it_did_then(said: dict[str, Any], database: duckdb.DuckDBPyConnection):
    differing = []
    for view, then in said.items():
        columns, rows = rows_of(database, view)
        if view in KNOWN_BETTER:
            continue
        assert len(rows) == then["n_rows"], view
        for column, digest in then.get("sha256", {}).items():
            cells = sorted(str(row[columns.index(column)]) for row in rows)
            if hashlib.sha256("\n".join(cells).encode("utf-8", "surrogatepass")).hexdigest() != digest:
                differing.append(f"{view}.{column}")
        old_rows = sorted(then.get("rows", []), key=order)
        kept = list(old_rows[0]) if old_rows else []
        new_rows = sorted(({c: plain(row[columns.index(c)]) for c in kept} for row in rows), key=order)
        for now, before in zip(new_rows, old_rows, strict=bool(old_rows)):
            differing += [f"{view}.{c}: {now[c]!r}, was {before[c]!r}" for c in kept if not is_same(now[c], before[c])]
    assert differing == []


def plain(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float) else str(value)


@pytest.mark.parametrize("view", ["reconcile_cost", "reconcile_tokens", "reconcile_counts", "reconcile_duplicates"])
def test_its_totals_agree_with_their_parts(view: str, database: duckdb.DuckDBPyConnection):
    assert rows_of(database, view)[1] == []


def test_the_lake_is_sound_and_its_database_can_be_written_anew(tmp_path: Path):
    lake = unpack(tmp_path) / "lake"
    assert Lake(lake).verify() == []
    with duckdb.connect(str(write_database(lake)), read_only=True) as db:
        assert db.execute("select count(*) from trajectories").fetchone() == (110,)


def test_plans_and_journals_of_runs_are_read(tmp_path: Path):
    lake = unpack(tmp_path) / "lake"
    assert read_plan(run_dir_of(lake, FINISHED_RUN)).n_bad == 1
    plan = read_plan(run_dir_of(lake, STOPPED_RUN))
    assert (plan.n_requested, len(plan.shards), plan.settings.max_cost_usd) == (15, 3, 0.0004)
    n_calls = 0
    for shard in plan.shards:
        with Journal.open(plan.journal_file(shard.index)) as journal:
            n_calls += sum(Completion.from_bytes(record).cost_usd > 0 for _, record in journal.records())
    assert n_calls == 13
    with Journal.open(lake / "_evaluations" / "calls.journal") as journal:
        assert len(journal) > 109


def test_evaluation_sweep_and_label_sets_are_read(old: Path):
    evaluation = read_evaluation(old / "lake", EVALUATION)
    assert [row.name for row in evaluation.rows] == [
        "direct sim-0.6b",
        "cot sim-4b-cot",
        "query_router",
        "random",
        "r2",
    ]
    comparison = read_comparison(old / "lake", EVALUATION)
    assert comparison["cot sim-4b-cot"].accuracy.value == 1.0
    assert len(read_sweep(old / "lake", SWEEP).points) >= 2
    for name in ("decomposer", "allocator"):
        assert len(read_label_rows(old / "labels" / f"{name}.parquet", "train")) == 4


def test_pool_files_and_their_entries_keep_their_digests(old: Path):
    """They are part of every run's identity and of the keys of an evaluation's calls."""
    for name, then in json.loads((old / "digests.json").read_text("utf-8")).items():
        pool = load_pool(old / name, old / "policies")
        assert pool.digest == then["digest"]
        assert {entry: entry_digest(pool, entry) for entry in pool.models} == then["entries"]


def test_policy_cards_load_and_their_weights_are_those_they_name(old: Path):
    registry = Registry(old / "policies")
    assert [(name, registry.versions(name)) for name in ("allocator", "decomposer")] == [
        ("allocator", ["v1"]),
        ("decomposer", ["v1", "v2"]),
    ]
    trained = registry.load("decomposer@v2")
    assert (trained.card.parent, trained.card.kind, trained.card.base) == ("decomposer@v1", "decomposer", "tiny:16x1")
    assert registry.current("decomposer") == "v1"


def test_recordings_open(old: Path):
    assert len(Recording.open(old / "run.jsonl.gz")) == 38
    assert len(Recording.open(old / "evaluation.jsonl.gz")) == 109
    recorded = recorded_evaluation(old / "evaluation.jsonl.gz")
    assert recorded is not None
    assert recorded["settings"]["problems"] == ["scan"]


def test_the_fixture_is_small_and_names_no_place_of_the_machine_that_made_it(old: Path):
    assert ARCHIVE.stat().st_size < 300_000
    named = [path for path in old.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    assert [path for path in named if b"/tmp/" in path.read_bytes() or b"/home/" in path.read_bytes()] == []
