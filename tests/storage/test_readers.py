"""Readers of a lake write nothing: `r2 sql`, `r2 report` and `r2 lake verify` on a read-only disk, and what they say
where a stored file is missing or is another's."""

import contextlib
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2.errors import ConfigError, LakeError
from storage.lake.lake import Lake
from storage.lake.places import SCHEMA_FILE
from storage.lake.schema import TABLES
from storage.report import write_report
from storage.sql.query import connect, run_sql, shipped_views
from tests.support.lake_rows import labelled, problem, rewarded, together, worked_lake


def state_of(root: Path) -> dict[str, tuple[int, int, int]]:
    """Inode, size and time of change of every file and folder."""
    return {
        str(path.relative_to(root)): (about.st_ino, about.st_size, about.st_mtime_ns)
        for path in [root, *root.rglob("*")]
        for about in [path.lstat()]
    }


@contextlib.contextmanager
def unchanged(root: Path) -> Iterator[bool]:
    """The folder was not written to in the block, and could not be where the value is true: root on a machine without
    mounts can always write."""
    before = state_of(root)
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    is_mounted = os.geteuid() == 0 and _mounted_read_only(root)
    for folder in folders if not is_mounted else ():
        folder.chmod(0o500)
    try:
        yield is_mounted or os.geteuid() != 0
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(root)], check=True)
        else:
            for folder in folders:
                folder.chmod(0o700)
    assert state_of(root) == before


def _mounted_read_only(root: Path) -> bool:
    """A bind mount, for root is not stopped by modes. False where the machine allows none."""
    if shutil.which("mount") is None:
        return False
    if subprocess.run(["mount", "--bind", str(root), str(root)], check=False, capture_output=True).returncode:
        return False
    if subprocess.run(["mount", "-o", "remount,bind,ro", str(root)], check=False, capture_output=True).returncode:
        subprocess.run(["umount", "-l", str(root)], check=True)
        return False
    return True


def ask(root: Path, query: str) -> bytes:
    out = io.BytesIO()
    run_sql(root, query, "csv", out)
    return out.getvalue()


def test_every_table_and_view_of_a_read_only_lake_is_read(tmp_path: Path):
    root = worked_lake(tmp_path / "lake")
    Lake(root).commit("run-z", "00000-0", labelled(rewarded(together(problem(0, "run-z")))))

    def everything() -> dict[str, list[tuple[Any, ...]]]:
        with connect(root) as db:
            return {name: db.execute(f"from {name} order by all").fetchall() for name in [*TABLES, *shipped_views()]}

    expected = everything()
    with unchanged(root):
        assert everything() == expected
        assert Lake(root).verify() == []
        assert [batch.num_rows for batch in Lake(root).iter_rows("candidates", "run-z")] == [4]


def test_a_lake_without_a_schema_file_is_read_and_stays_without(tmp_path: Path):
    root = worked_lake(tmp_path / "lake")
    expected = ask(root, "from subtasks order by all")
    for path in root.rglob(SCHEMA_FILE):
        path.unlink()
    with unchanged(root):
        assert ask(root, "from subtasks order by all") == expected
        assert ask(root, "select count(*) from curves") == b"count_star()\n0\n"


def test_a_second_commit_leaves_the_schema_files_as_they_are(tmp_path: Path):
    Lake(tmp_path).commit("run-a", "00000-0", problem(0))
    before = {path: path.stat().st_ino for path in tmp_path.rglob(SCHEMA_FILE)}
    assert len(before) == len(TABLES)
    Lake(tmp_path).commit("run-a", "00001-0", problem(1))
    assert {path: path.stat().st_ino for path in tmp_path.rglob(SCHEMA_FILE)} == before


@pytest.mark.parametrize("content", [b"", b"PAR1 torn", None])
def test_a_schema_file_that_is_damaged_or_of_another_version_is_written_anew_by_the_next_commit(
    content: bytes | None, tmp_path: Path
):
    Lake(tmp_path).commit("run-a", "00000-0", problem(0))
    path = tmp_path / "calls" / SCHEMA_FILE
    if content is None:
        pq.write_table(pa.table({"run_id": pa.array([], pa.string())}), path)
    else:
        path.write_bytes(content)
    assert ask(tmp_path, "select count(*) from calls") == b"count_star()\n3\n"
    Lake(tmp_path).commit("run-a", "00001-0", problem(1))
    assert pq.read_schema(path).names == TABLES["calls"].schema.names


def test_a_report_of_a_read_only_lake_says_where_it_may_go(tmp_path: Path):
    root = worked_lake(tmp_path / "lake")
    with unchanged(root) as is_forbidden:
        assert write_report(root, "run-a", tmp_path / "report.html") == tmp_path / "report.html"
        if not is_forbidden:
            pytest.skip("root writes everywhere on this machine")
        with pytest.raises(ConfigError, match=r"run-a.html: cannot be written: .*Name another file with --out"):
            write_report(root, "run-a")


def foreign_file(path: Path) -> None:
    pq.write_table(pa.table({"anything": [1, 2]}), path)


def other_table(path: Path) -> None:
    path.write_bytes(next((path.parents[2] / "runs").rglob("part-*")).read_bytes())


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (Path.unlink, "missing, though the manifest names it"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "torn or damaged"),
        (lambda path: path.write_bytes(b""), "torn or damaged"),
        (lambda path: path.write_bytes(b"hello" * 100), "torn or damaged"),
        (foreign_file, "not a part of this table"),
        (other_table, "not a part of this table"),
    ],
)
def test_a_part_that_is_missing_or_no_part_is_one_message_with_its_name(harm: Any, said: str, tmp_path: Path):
    root = worked_lake(tmp_path / "lake")
    part = Lake(root).files("trajectories", "run-a")[0]
    harm(part)
    for reader in (lambda: ask(root, "from trajectories"), lambda: write_report(root, "run-a", tmp_path / "r.html")):
        with pytest.raises(LakeError) as told:
            reader()
        assert str(part) in str(told.value)
        assert said in str(told.value)
        assert "r2 lake verify" in str(told.value)
    assert [str(part) in line and said in line for line in Lake(root).verify()] == [True]


def test_a_query_that_is_wrong_is_not_taken_for_a_damaged_lake(tmp_path: Path):
    root = worked_lake(tmp_path / "lake")
    for query in ("select nothing from trajectories", "selec 1", "from nowhere", "select 'x'::integer"):
        with pytest.raises(ConfigError, match="Tables: runs"):
            ask(root, query)


def test_rows_that_outgrow_the_memory_go_where_only_this_user_can_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"r2-{os.getuid()}").symlink_to(tmp_path / "somebody's")
    root = worked_lake(tmp_path / "lake")
    with connect(root) as connection:
        [(folder,)] = connection.execute("select current_setting('temp_directory')").fetchall()
    private = Path(folder).parent
    assert private.parent == tmp_path and not private.is_symlink()
    assert private.stat().st_mode & 0o077 == 0
