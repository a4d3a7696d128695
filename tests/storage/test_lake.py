"""The lake through crashes, races, retries and compactions: every unit once, in every table, in the
order of the input."""

import contextlib
import functools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2.errors import LakeError, RunLockedError
from storage.lake.lake import Lake
from storage.lake.parts import read_batches
from storage.lake.schema import TABLES
from storage.sql.query import connect
from tests.support.lake_rows import indices, keys, parts_in, problem, seen_by_others, unit_of


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


STEPS = ("fsync", "rename", "replace", "link", "unlink")


def count_steps(work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    return run_until(10**9, work, monkeypatch)


def run_until(step: int, work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs `work` with the power going off before its `step`-th system call of STEPS; returns the calls that were
    tried."""
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
        assert all(seen_by_others(root, name) in ([], keys(lake, name)) for name in ("trajectories", "calls"))
        lake.compact("run-a")
        assert seen_by_others(root, "calls") == keys(lake, "calls")
        lake.vacuum(older_than_hours=0)
        assert indices(lake) == [0, 1, 2, 3, 4, 5]
        assert len(parts_in(root)) == 3


def test_a_run_that_is_compacted_again_is_seen_by_others_as_before_or_as_after_or_for_a_moment_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_unit_more(root: Path) -> Callable[[], object]:
        lake = Lake(root)
        lake.commit("run-a", "00000-0", unit_of([0, 2]))
        lake.compact("run-a")
        lake.commit("run-a", "00001-0", unit_of([1]))
        return functools.partial(lake.compact, "run-a")

    outcomes = []
    for step in range(count_steps(one_unit_more(tmp_path / "whole"), monkeypatch) + 1):
        root = tmp_path / str(step)
        run_until(step, one_unit_more(root), monkeypatch)
        lake = Lake(root)
        assert indices(lake) == [0, 1, 2]
        assert lake.verify() == []
        with connect(root) as db:
            assert db.execute("select count(*), count(distinct problem_id) from trajectories").fetchone() == (3, 3)
        outcomes.append([key[0] for key in seen_by_others(root, "trajectories")])
        lake.vacuum(older_than_hours=0)  # of a compaction that was killed, it makes up for what is missing
        lake.compact("run-a")
        assert seen_by_others(root, "trajectories") == keys(lake, "trajectories")
        assert lake.unseen() == []
    assert {repr(seen) for seen in outcomes} == {"[0, 2]", "[]", "[0, 1, 2]"}


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(work=st.lists(st.tuples(st.sampled_from(["commit", "compact", "vacuum"]), st.integers(0, 45)), max_size=7))
def test_whatever_is_killed_wherever_nothing_is_lost_and_no_row_is_counted_twice(
    work: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each step of the work dies before that system call of its own, if it makes so many; commits are tried again."""
    root = tmp_path_factory.mktemp("lake")
    n_committed = 0
    with pytest.MonkeyPatch.context() as patch:
        for what, step in work:
            lake = Lake(root)
            name, rows = f"{n_committed:05d}-0", unit_of([n_committed])
            run_until(
                step,
                {
                    "commit": functools.partial(lake.commit, "run-a", name, rows),
                    "compact": functools.partial(lake.compact, "run-a"),
                    "vacuum": functools.partial(lake.vacuum, 0),
                }[what],
                patch,
            )
            if what == "commit":
                Lake(root).commit("run-a", name, rows)
                n_committed += 1
            assert indices(Lake(root)) == list(range(n_committed))
            seen = [key[0] for key in seen_by_others(root, "trajectories")]
            assert seen == sorted(set(seen)) and set(seen) <= set(range(n_committed))
    lake = Lake(root)
    lake.compact("run-a")
    assert [key[0] for key in seen_by_others(root, "trajectories")] == list(range(n_committed))
    assert lake.verify() == []


UNTIL_KILLED = """
import sys
from storage.lake.lake import Lake
from tests.support.lake_rows import unit_of
lake = Lake(sys.argv[1])
for unit in range(10_000):
    lake.commit("run-a", f"{unit:05d}-0", unit_of([unit]))
    print(unit, flush=True)
    if unit % 3 == 2:
        lake.compact("run-a")
"""


@pytest.mark.parametrize("wait_s", [0.0, 0.013, 0.031, 0.057])
def test_after_kill_9_while_it_commits_and_compacts_all_that_was_acknowledged_is_there_once(
    wait_s: float, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", UNTIL_KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        for _ in range(12):
            worker.stdout.readline()
        time.sleep(wait_s)
        worker.kill()
        n_acknowledged = 12 + len(worker.stdout.read().splitlines())
    lake = Lake(tmp_path)
    found = indices(lake)
    assert found == list(range(len(found))) and len(found) in (n_acknowledged, n_acknowledged + 1)
    assert lake.verify() == []
    seen = seen_by_others(tmp_path, "calls")
    assert seen == sorted(set(seen))
    lake.compact("run-a")
    assert seen_by_others(tmp_path, "calls") == keys(lake, "calls")


def test_what_counts_is_on_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts and their folders are synced before the manifest entry is linked, and the entry's folder after it."""
    lake = Lake(tmp_path)
    lake.commit("run-a", "00000-0", unit_of([0]))
    log: list[str] = []

    def logged(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            target = Path(f"/proc/self/fd/{arguments[0]}").resolve() if name == "fsync" else Path(arguments[0])
            kind = "folder" if target.is_dir() else "part" if ".parquet" in target.name else "entry"
            log.append(f"{name} {kind}")
            return real(*arguments, **options)

        return call

    for name in ("fsync", "replace", "link"):
        monkeypatch.setattr(os, name, logged(name, getattr(os, name)))
    lake.commit("run-a", "00001-0", unit_of([1]))
    assert log == ["fsync part", "replace part", "fsync folder"] * 3 + ["fsync entry", "link entry", "fsync folder"]


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
    chunks = [pq.read_metadata(path).row_group(0).column(i) for i in range(len(schema.names))]
    values = [
        at
        for chunk in chunks
        for start in [chunk.dictionary_page_offset or chunk.data_page_offset]
        for at in range(start, start + chunk.total_compressed_size)
    ]  # what lies elsewhere, as statistics do, may change unseen: nothing is read from it
    refused, chance = 0, random.Random(7)
    for at in chance.sample(range(len(whole)), 60) + chance.sample(values, 60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            assert pa.concat_tables(read_batches(path, schema, schema.names)) == expected
        except LakeError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 75


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
from storage.lake.lake import Lake
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


def test_a_lock_that_is_a_link_is_refused_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("somebody's")
    (tmp_path / "lake" / "_locks").mkdir(parents=True)
    (tmp_path / "lake" / "_locks" / "run-a.lock").symlink_to(precious)
    with pytest.raises(LakeError, match="a link, where the lock"), Lake(tmp_path / "lake").run_lock("run-a"):
        pytest.fail("nothing is to be done under such a lock")
    assert precious.read_text() == "somebody's"
