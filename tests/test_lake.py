"""The lake through crashes, races, retries and compactions: every unit once, in every table, in the order of the input."""

import contextlib
import functools
import itertools
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import storage.parts
from r2.errors import LakeError, RunLockedError
from storage.lake import Lake
from storage.parts import read_batches
from storage.schema import TABLES
from tests.lake_rows import RUN, bad_row, problem, together, unit_of


def keys(lake: Lake, table: str) -> list[tuple[Any, ...]]:
    """(input index out of the problem's name, *order columns) of every row, as iter_rows gives them."""
    columns = ["problem_id", *TABLES[table].order]
    rows = (batch.to_pylist() for batch in lake.iter_rows(table, "run-a", columns))
    return [(int(row["problem_id"][1:]), *(row[c] for c in columns[1:])) for batch in rows for row in batch]


def rows_of(lake: Lake, table: str) -> Iterator[dict[str, Any]]:
    return itertools.chain.from_iterable(batch.to_pylist() for batch in lake.iter_rows(table, "run-a"))


def parts_in(root: Path) -> list[Path]:
    return list(root.rglob("*part-*"))


def indices(lake: Lake) -> list[int]:
    return [key[0] for key in keys(lake, "trajectories")]


def test_a_committed_unit_is_in_every_table_in_the_order_of_the_input(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert lake.commit("run-a", "00000-0", unit_of([2, 0, 1]), meta={"n_answered": 3})
    assert indices(lake) == [0, 1, 2]
    assert keys(lake, "subtasks") == [(i, 0, s) for i in (0, 1, 2) for s in (0, 1)]
    assert keys(lake, "calls") == [(i, 0, c, 0) for i in (0, 1, 2) for c in (0, 1, 2)]
    entry = lake.units("run-a")["00000-0"]
    assert (entry.first_input_index, entry.last_input_index, entry.meta) == (0, 2, {"n_answered": 3})
    assert {name: part.rows for name, part in entry.parts.items()} == {"trajectories": 3, "subtasks": 6, "calls": 9}


def test_a_retried_unit_is_dropped_and_leaves_nothing_behind(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert lake.commit("run-a", "00000-0", unit_of([0]))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert not lake.commit("run-a", "00000-0", unit_of([0, 1]))
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    assert indices(lake) == [0]


def test_of_eight_writers_racing_for_one_unit_exactly_one_wins(tmp_path: Path) -> None:
    won: list[bool] = []
    start = threading.Barrier(8)

    def race() -> None:
        lake = Lake(tmp_path)
        start.wait()
        won.append(lake.commit("run-a", "00000-0", unit_of([0, 1])))

    racers = [threading.Thread(target=race) for _ in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(won) == [False] * 7 + [True]
    assert indices(Lake(tmp_path)) == [0, 1]
    assert len(parts_in(tmp_path)) == 3


class PowerOff(BaseException):
    """The process ends here: nothing after it runs, not even clean-up."""


STEPS = ("fsync", "rename", "link", "unlink")


def count_steps(work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    return run_until(10**9, work, monkeypatch)


def run_until(step: int, work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs `work` with the power going off before its `step`-th system call of STEPS; returns the calls that were tried."""
    n = 0
    with monkeypatch.context() as patched:
        for name in STEPS:
            real = getattr(os, name)

            def call(*arguments: Any, _real: Any = real, **options: Any) -> Any:
                nonlocal n
                n += 1
                if n > step:
                    raise PowerOff
                return _real(*arguments, **options)

            patched.setattr(os, name, call)
        with contextlib.suppress(PowerOff):
            work()
    return n


def test_a_commit_that_dies_at_any_step_is_wholly_there_or_wholly_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit_two(root: Path) -> Callable[[], object]:
        lake = Lake(root)
        lake.commit("run-a", "00000-0", unit_of([0]))
        return functools.partial(lake.commit, "run-a", "00001-0", unit_of([1]))

    n_steps = count_steps(commit_two(tmp_path / "whole"), monkeypatch)
    assert (
        n_steps >= 3 * 3 + 4
    )  # fsync, rename, folder fsync for each table; fsync, link, unlink, folder fsync for the entry
    outcomes = set()
    for step in range(n_steps + 1):
        root = tmp_path / str(step)
        run_until(step, commit_two(root), monkeypatch)
        lake = Lake(root)
        seen = {name: {key[0] for key in keys(lake, name)} for name in ("trajectories", "subtasks", "calls")}
        assert seen["trajectories"] == seen["subtasks"] == seen["calls"]
        assert lake.verify() == []
        outcomes.add(lake.commit("run-a", "00001-0", unit_of([1])))
        assert indices(lake) == [0, 1]
        lake.vacuum(older_than_hours=0)
        assert len(parts_in(root)) == 6
    assert outcomes == {True, False}


def test_a_compaction_that_dies_at_any_step_changes_nothing_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def three_units(root: Path) -> Callable[[], object]:
        lake = Lake(root)
        for unit, some in enumerate(([0, 1], [3, 5], [2, 4])):
            lake.commit("run-a", f"{unit:05d}-0", unit_of(some))
        return functools.partial(lake.compact, "run-a")

    for step in range(count_steps(three_units(tmp_path / "whole"), monkeypatch) + 1):
        root = tmp_path / str(step)
        run_until(step, three_units(root), monkeypatch)
        lake = Lake(root)
        assert indices(lake) == [0, 1, 2, 3, 4, 5]
        assert lake.verify() == []
        lake.compact("run-a")
        lake.vacuum(older_than_hours=0)
        assert indices(lake) == [0, 1, 2, 3, 4, 5]
        assert len(parts_in(root)) == 3


def test_what_counts_is_on_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts and their folders are synced before the manifest entry is linked, and the entry's folder after it."""
    lake = Lake(tmp_path)
    lake.commit("run-a", "00000-0", unit_of([0]))
    log: list[str] = []

    def logged(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            target = Path(f"/proc/self/fd/{arguments[0]}").resolve() if name == "fsync" else Path(arguments[0])
            kind = "folder" if target.is_dir() else "part" if "part-" in target.name else "entry"
            log.append(f"{name} {kind}")
            return real(*arguments, **options)

        return call

    for name in ("fsync", "rename", "link"):
        monkeypatch.setattr(os, name, logged(name, getattr(os, name)))
    lake.commit("run-a", "00001-0", unit_of([1]))
    assert log == ["fsync part", "rename part", "fsync folder"] * 3 + ["fsync entry", "link entry", "fsync folder"]


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({**problem(0), "trajectories": []}, "without its trajectory"),
        (problem(0, status="deferred"), "deferred; commit it once"),
        ({"subtask": []}, "no table subtask"),
        (problem(0, input=None), "column input"),
    ],
)
def test_an_incomplete_unit_is_refused_and_adds_nothing(tables: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(LakeError, match=said):
        Lake(tmp_path).commit("run-a", "00000-0", tables)
    assert Lake(tmp_path).entries() == []
    assert parts_in(tmp_path) == []


@pytest.mark.parametrize(
    ("run_id", "unit"), [("../x", "u"), ("run", ".hidden"), ("run", "a/b"), ("", "u"), ("run", "compact-1")]
)
def test_names_that_could_leave_their_folder_are_refused(run_id: str, unit: str, tmp_path: Path) -> None:
    with pytest.raises(LakeError):
        Lake(tmp_path).commit(run_id, unit, unit_of([0]))


def test_an_empty_unit_counts_as_done(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert lake.commit("run-a", "00000-0", {"trajectories": []}, meta={"n_answered": 0})
    assert not lake.commit("run-a", "00000-0", {"trajectories": []})
    assert list(lake.units("run-a")) == ["00000-0"]


def test_what_one_session_settled_is_known_to_the_next_even_after_compaction_and_vacuum(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.commit("run-a", "00000-0", together(problem(0), bad_row(2)))
    lake.commit("run-a", "00001-0", unit_of([10, 11]))
    lake.commit("run-a", "session-0000", {"runs": [RUN]})
    assert lake.settled_ids("run-a", "00000-") == {"p0", "p2"}
    assert lake.settled_ids("run-a", "00002-") == set()
    lake.compact("run-a")
    lake.commit("run-a", "00000-1", unit_of([1, 3]))
    lake.vacuum(older_than_hours=0)
    assert lake.settled_ids("run-a", "00000-") == {"p0", "p1", "p2", "p3"}
    assert lake.settled_ids("run-a", "00001-") == {"p10", "p11"}
    assert list(lake.units("run-a")) == ["00000-0", "00001-0", "session-0000", "00000-1"]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    assigned=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    compact_after=st.sets(st.integers(0, 4)),
    rollouts=st.integers(1, 2),
    seed=st.integers(0, 999),
)
def test_any_split_into_units_with_any_compactions_reads_back_as_the_input(
    assigned: list[int], compact_after: set[int], rollouts: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Problem i is committed with unit assigned[i]; some units are followed by a compaction."""
    lake = Lake(tmp_path_factory.mktemp("lake"))
    shuffle = random.Random(seed)
    for unit in range(5):
        tables = together(
            *(problem(i, "run-a", r) for i, u in enumerate(assigned) if u == unit for r in range(rollouts))
        )
        for rows in tables.values():
            shuffle.shuffle(rows)
        lake.commit("run-a", f"{unit:05d}-0", tables)
        if unit in compact_after:
            lake.compact("run-a")
    n = len(assigned)
    assert keys(lake, "trajectories") == [(i, r) for i in range(n) for r in range(rollouts)]
    assert keys(lake, "subtasks") == [(i, r, s) for i in range(n) for r in range(rollouts) for s in range(2)]
    assert keys(lake, "calls") == [(i, r, c, 0) for i in range(n) for r in range(rollouts) for c in range(3)]


def test_compaction_leaves_one_file_a_table_and_the_same_rows(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for unit in range(4):
        lake.commit("run-a", f"{unit:05d}-0", unit_of([unit, unit + 4]))
        lake.commit("run-a", f"session-{unit:04d}", {"runs": [replace(RUN, session=unit)]})
    before = {name: list(rows_of(lake, name)) for name in TABLES}
    entry = lake.compact("run-a")
    assert entry is not None and len(entry.replaces) == 8
    assert {name: len(lake.files(name)) for name in TABLES} == dict.fromkeys(TABLES, 1)
    assert {name: list(rows_of(lake, name)) for name in TABLES} == before
    assert [row["session"] for row in before["runs"]] == [0, 1, 2, 3]
    assert lake.compact("run-a") is None


def test_a_compaction_that_lost_the_race_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    for unit in range(2):
        lake.commit("run-a", f"{unit:05d}-0", unit_of([unit]))
    stale = Lake(tmp_path)
    seen = stale.manifest.live("run-a")
    assert lake.compact("run-a") is not None
    monkeypatch.setattr(stale.manifest, "live", lambda run_id: seen)
    assert stale.compact("run-a") is None
    assert indices(lake) == [0, 1]
    assert len(lake.vacuum(older_than_hours=0)) == 6  # the two units' parts; the loser took its own away


def test_the_memory_of_a_compaction_does_not_grow_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.parts, "GROUP_ROWS", 1000)
    peaks = []
    for n_problems in (3_000, 9_000):
        lake = Lake(tmp_path / str(n_problems))
        for first in range(0, n_problems, 500):  # each shard in two interleaved units, so that rows have to be merged
            lake.commit("run-a", f"{first:05d}-0", unit_of(range(first, first + 500, 2)))
            lake.commit("run-a", f"{first:05d}-1", unit_of(range(first + 1, first + 500, 2)))
        before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
        pa.set_memory_pool(pool)
        try:
            assert lake.compact("run-a") is not None
        finally:
            pa.set_memory_pool(before)
        peaks.append(pool.max_memory())
        assert indices(lake) == list(range(n_problems))
    assert peaks[1] < 1.3 * peaks[0]


def test_vacuum_deletes_what_was_superseded_or_left_by_a_crash_and_nothing_else(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for unit in range(2):
        lake.commit("run-a", f"{unit:05d}-0", unit_of([unit]))
    lake.compact("run-a")
    folder = lake.files("calls")[0].parent
    torn = folder / ".part-00009-0-0123abcd.parquet.tmp"
    foreign = folder / "notes.txt"
    torn.write_bytes(b"PAR1")
    foreign.write_bytes(b"mine")
    assert lake.vacuum() == []
    with lake.run_lock("run-a"):
        assert lake.vacuum(older_than_hours=0) == []
    assert len(lake.vacuum(older_than_hours=0)) == 7
    assert not torn.exists() and foreign.exists()
    assert indices(lake) == [0, 1]


def damaged(path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    yield "flipped bit", lambda: path.write_bytes(flipped)
    yield "torn", lambda: path.write_bytes(whole[:-10])
    yield "missing", path.unlink


def test_verify_names_every_file_that_is_not_as_it_was_committed(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.commit("run-a", "00000-0", unit_of(range(50)))
    assert lake.verify() == []
    [path] = lake.files("calls")
    for what, damage in damaged(path):
        damage()
        assert [str(path) in line for line in lake.verify()] == [True], what
    stranger = path.parent / "part.parquet"
    stranger.write_bytes(b"")
    assert any(str(stranger) in line and "foreign" in line for line in lake.verify())


def test_a_flipped_bit_is_an_error_and_never_another_value(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.commit("run-a", "00000-0", unit_of(range(300)))
    [path] = lake.files("trajectories")
    whole = path.read_bytes()
    schema = TABLES["trajectories"].schema
    expected = pa.concat_tables(read_batches(path, schema, schema.names))
    refused = 0
    for at in random.Random(7).sample(range(len(whole)), 60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            assert pa.concat_tables(read_batches(path, schema, schema.names)) == expected
        except LakeError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 40


def test_a_lake_can_be_moved(tmp_path: Path) -> None:
    Lake(tmp_path / "here").commit("run-a", "00000-0", unit_of([0]))
    (tmp_path / "here").rename(tmp_path / "there")
    assert indices(Lake(tmp_path / "there")) == [0]


def test_a_damaged_or_newer_manifest_entry_is_named_and_nothing_is_read(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.commit("run-a", "00000-0", unit_of([0]))
    path = tmp_path / "_manifest" / "run-a" / "00000-0.json"
    entry = json.loads(path.read_bytes())
    path.write_text(json.dumps({**entry, "schema_version": 99}))
    with pytest.raises(LakeError, match="schema version 99"):
        Lake(tmp_path).files("calls")
    path.write_text("{")
    with pytest.raises(LakeError, match=r"00000-0\.json: not a manifest entry"):
        Lake(tmp_path).files("calls")
    assert len(Lake(tmp_path).verify()) == 1


HOLD = """
import sys, time
from storage.lake import Lake
with Lake(sys.argv[1]).run_lock("run-a"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_has_one_worker_and_a_killed_one_lets_it_go(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(RunLockedError, match=f'"pid":{holder.pid}'), lake.run_lock("run-a"):
            pytest.fail("two holders")
        with lake.run_lock("run-b"):
            pass
        holder.kill()
    with lake.run_lock("run-a"):
        pass
