"""The tables' folders of a compacted lake are read by pandas, polars, pyarrow and DuckDB as they lie, wherever the lake
lies: every row once, every column, whatever version wrote it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import storage.sql.query
from flows.cli.app import app
from r2.errors import LakeError
from storage.lake.lake import Lake
from storage.lake.places import SCHEMA_FILE
from storage.lake.schema import TABLES
from storage.sql.query import connect, write_database
from tests.support.lake_rows import problem, together, unit_of, worked_lake
from tests.support.old_lake import STOPPED_RUN, unpack

PROGRAMS: dict[str, Callable[[str], pa.Table]] = {
    "pandas": lambda folder: pa.Table.from_pandas(pd.read_parquet(folder), preserve_index=False),
    "polars": lambda folder: pl.read_parquet(folder).to_arrow(),
    "polars, lazily": lambda folder: pl.scan_parquet(f"{folder}/*.parquet").collect().to_arrow(),
    "pyarrow": pq.read_table,
    "pyarrow.dataset": lambda folder: pyarrow.dataset.dataset(folder).to_table(),
    "duckdb": lambda folder: duckdb.sql(f"from '{folder}/*.parquet'").to_arrow_table(),
}


def rows(table: pa.Table, columns: list[str]) -> list[str]:
    """Some columns of the rows, in no order."""
    return sorted(map(repr, zip(*(table[column].to_pylist() for column in columns), strict=True)))


def of_the_lake(root: Path, table: str, columns: list[str]) -> list[str]:
    with connect(root) as db:
        return rows(db.sql(f"from {table}").to_arrow_table(), columns)


def key(table: str) -> list[str]:
    return [name for name in TABLES[table].schema.names if name in ("run_id", "problem_id", *TABLES[table].order)]


def compact_all(root: Path) -> Lake:
    lake = Lake(root)
    for run_id in lake.manifest.run_ids():
        lake.compact(run_id)
    return lake


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compacted lake in which two runs were compacted twice, under another name than it was written in."""
    folder = tmp_path_factory.mktemp("moved")
    lake = compact_all(worked_lake(folder / "lake"))
    lake.commit("run-b", "00001-0", unit_of([1, 2], "run-b"))
    lake.commit("run-a", "00001-0", unit_of([3]))
    compact_all(folder / "lake")
    (folder / "lake").rename(folder / "elsewhere")
    return folder / "elsewhere"


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_reads_every_row_of_a_table_once_and_every_column(program: str, table: str, moved: Path):
    read = PROGRAMS[program](str(moved / table))
    assert set(read.column_names) == set(TABLES[table].schema.names), "in an empty table too"
    expected = of_the_lake(moved, table, key(table))
    assert rows(read, key(table)) == expected
    assert len(expected) == {"runs": 4, "trajectories": 8, "subtasks": 14, "calls": 22}.get(table, 0)


@pytest.mark.parametrize("table", ["trajectories", "calls"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_runs_that_an_earlier_version_stored_are_seen_after_a_compaction(
    program: str, table: str, earlier: Path, earlier_rows: dict[str, list[str]]
):
    assert rows(PROGRAMS[program](str(earlier / table)), key(table)) == earlier_rows[table]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("old")) / "lake"


@pytest.fixture(scope="module")
def earlier_rows(unpacked: Path) -> dict[str, list[str]]:
    """By table, before anything was compacted."""
    return {table: of_the_lake(unpacked, table, key(table)) for table in TABLES}


@pytest.fixture(scope="module")
def earlier(unpacked: Path, earlier_rows: dict[str, list[str]]) -> Path:
    """The lake of an earlier version, compacted by this one."""
    lake = Lake(unpacked)
    assert lake.verify() == []
    assert lake.unseen() == lake.manifest.run_ids(), "that layout is for no other program"
    compact_all(unpacked)
    return unpacked


def test_the_layout_of_an_earlier_version_is_gone_after_a_compaction_and_nothing_else(
    earlier: Path, earlier_rows: dict[str, list[str]]
):
    lake = Lake(earlier)
    assert lake.verify() == [] and lake.unseen() == [] and lake.unnamed() == []
    found = {path.name for table in TABLES for path in (earlier / table).iterdir() if ".compact-" not in path.name}
    assert found == {SCHEMA_FILE}
    assert {table: of_the_lake(earlier, table, key(table)) for table in TABLES} == earlier_rows
    assert len(list((earlier / "calls").glob(f"{STOPPED_RUN}.*"))) == 1
    assert lake.vacuum(older_than_hours=24) == [], (
        "readers that hold the replaced files have a day, however old they are"
    )
    assert lake.vacuum(older_than_hours=0) != []
    assert {table: of_the_lake(earlier, table, key(table)) for table in TABLES} == earlier_rows


def older_version(patch: pytest.MonkeyPatch) -> None:
    """A program whose trajectories have no target, and whose calls have no pause that the server asked for."""
    for name, column in (("trajectories", "target"), ("calls", "retry_after_s")):
        table = TABLES[name]
        schema = table.schema.remove(table.schema.get_field_index(column))
        patch.setitem(TABLES, name, replace(table, schema=schema))
    for module in ("storage.lake.unit", "storage.lake.view", "storage.lake.compaction", "storage.sql.query"):
        patch.setattr(f"{module}.schema_digest", lambda: "older")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_column_that_came_later_is_null_in_what_was_stored_before(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as then:
        older_version(then)
        Lake(tmp_path).commit("run-a", "00000-0", problem(0))
        compact_all(tmp_path)
    Lake(tmp_path).commit("run-b", "00000-0", problem(0, "run-b"))
    Lake(tmp_path).compact("run-b")
    assert Lake(tmp_path).unseen() == ["run-a"]
    compact_all(tmp_path)
    assert Lake(tmp_path).unseen() == []
    read = PROGRAMS[program](str(tmp_path / "trajectories"))
    assert rows(read, ["run_id", "target"]) == ["('run-a', None)", "('run-b', '9')"]


@pytest.mark.parametrize("program", ["pandas", "pyarrow", "pyarrow.dataset"])
def test_programs_that_take_the_columns_of_the_first_file_get_those_of_today_even_before_that(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as then:
        older_version(then)
        Lake(tmp_path).commit("run-a", "00000-0", problem(0))
        compact_all(tmp_path)
    Lake(tmp_path).commit("run-b", "00000-0", problem(0, "run-b"))
    Lake(tmp_path).compact("run-b")
    read = PROGRAMS[program](str(tmp_path / "trajectories"))
    assert rows(read, ["run_id", "target"]) == ["('run-a', None)", "('run-b', '9')"]


def test_what_a_newer_version_stored_is_not_rewritten_without_its_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lake = Lake(tmp_path)
    lake.commit("run-a", "00000-0", together(problem(0), problem(1)))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    with monkeypatch.context() as then:
        older_version(then)
        with pytest.raises(LakeError, match=r"table trajectories: a newer version .* stored target.*Upgrade"):
            Lake(tmp_path).compact("run-a")
    after = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet") if path.name != SCHEMA_FILE}
    assert after == {path: content for path, content in before.items() if path.name != SCHEMA_FILE}


def test_a_run_that_is_not_compacted_is_not_seen_and_verify_says_so(tmp_path: Path):
    Lake(tmp_path).commit("run-a", "00000-0", problem(0))
    assert pd.read_parquet(tmp_path / "calls").empty
    result = CliRunner().invoke(app, ["lake", "verify", "--lake", str(tmp_path)])
    assert result.exit_code == 0
    assert "Other programs do not see 1 run as it is, until `r2 lake compact`: run-a" in result.stderr
    compact_all(tmp_path)
    assert "Other programs" not in CliRunner().invoke(app, ["lake", "verify", "--lake", str(tmp_path)]).stderr


def test_a_file_that_others_would_count_and_no_run_names_is_wrong(tmp_path: Path):
    lake = Lake(tmp_path)
    lake.commit("run-a", "00000-0", problem(0))
    lake.compact("run-a")
    [file] = lake.files("calls")
    stranger = file.with_name("run-a.compact-00009-0123abcd.parquet")
    shutil.copy(file, stranger)
    [said] = lake.verify()
    assert said.startswith(f"{stranger}: named by no run, but other programs count its rows")


def test_a_connection_that_a_second_compaction_overtook_says_so_and_counts_nothing_twice(tmp_path: Path):
    lake = Lake(tmp_path)
    lake.commit("run-a", "00000-0", problem(0))
    lake.compact("run-a")
    with connect(tmp_path) as db:
        lake.commit("run-a", "00001-0", problem(1))
        lake.compact("run-a")
        with pytest.raises(LakeError, match="nothing is missing"), storage.sql.query.damage_named(tmp_path):
            db.execute("select count(*) from calls").fetchall()
    with connect(tmp_path) as db:
        assert db.execute("select count(*) from calls").fetchall() == [(6,)]


def opened(database: str) -> list[tuple[int]]:
    with duckdb.connect(database, read_only=True) as db:
        return db.execute("select count(*) from calls union all select count(*) from cost_by_model").fetchall()


def test_lake_duckdb_goes_with_the_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_database(compact_all(worked_lake(tmp_path / "lake")).root)
    expected = opened(str(tmp_path / "lake" / "lake.duckdb"))
    assert expected == [(13,), (6,)]
    shutil.copytree(tmp_path / "lake", tmp_path / "a copy's place")
    (tmp_path / "lake").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert opened(str(tmp_path / "moved" / "lake.duckdb")) == expected
    assert opened("a copy's place/lake.duckdb") == expected
    monkeypatch.chdir(tmp_path / "moved")
    assert opened("lake.duckdb") == expected


def test_lake_duckdb_attached_to_another_database_is_told_its_place_after_a_move(tmp_path: Path):
    write_database(worked_lake(tmp_path / "lake"))
    count = "select count(*) from lake.calls"
    with duckdb.connect() as db:
        db.execute(f"attach '{tmp_path}/lake/lake.duckdb' as lake (read_only)")
        assert db.execute(count).fetchall() == [(13,)]
    (tmp_path / "lake").rename(tmp_path / "moved")
    with duckdb.connect() as db:
        db.execute(f"attach '{tmp_path}/moved/lake.duckdb' as lake (read_only)")
        with pytest.raises(duckdb.IOException, match="No files found"):
            db.execute(count)
        db.execute(f"set variable lake_folder = '{tmp_path}/moved'")
        assert db.execute(count).fetchall() == [(13,)]
