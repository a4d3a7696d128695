"""Order, compaction and vacuum: the run reads back as the input, however it was committed, in bounded memory."""

import random
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import storage.lake.parts
from storage.lake.lake import Lake
from storage.lake.places import parts_folder
from storage.lake.schema import TABLES
from tests.support.lake_rows import (
    CURVE,
    FEEDBACK,
    JOB,
    RUN,
    bad_row,
    indices,
    keys,
    labelled,
    problem,
    rewarded,
    rows_of,
    together,
    unit_of,
)


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
        lake.commit("run-a", f"{unit:05d}-0", rewarded(labelled(unit_of([unit, unit + 4]))))
        of_run = {"runs": [replace(RUN, session=unit)], "curves": [replace(CURVE, step=unit)]}
        of_run["jobs"] = [replace(JOB, job_id=f"{unit:032x}")]
        of_run["feedback"] = [replace(FEEDBACK, problem_id=f"p{unit}")]
        lake.commit("run-a", f"session-{unit:04d}", of_run)
    before = {name: list(rows_of(lake, name)) for name in TABLES}
    entry = lake.compact("run-a")
    assert entry is not None and len(entry.replaces) == 8
    assert {name: len(lake.files(name)) for name in TABLES} == dict.fromkeys(TABLES, 1)
    assert {name: list(rows_of(lake, name)) for name in TABLES} == before
    assert [row["session"] for row in before["runs"]] == [0, 1, 2, 3]
    assert [row["step"] for row in before["curves"]] == [0, 1, 2, 3]
    assert [row["value"] for row in before["rewards"]][:2] == [0.2, 1.0]
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
    monkeypatch.setattr(storage.lake.parts, "GROUP_ROWS", 1000)
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
    folder = parts_folder(tmp_path, "calls", "run-a")
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


def test_a_run_of_long_bodies_is_read_and_compacted_in_pieces(tmp_path: Path) -> None:
    """600 calls of 1 MB: 600 MB that compress to nothing."""
    body = b"a" * (1 << 20)
    lake = Lake(tmp_path)
    for first in (0, 100):
        tables = unit_of(range(first, first + 100))
        lake.commit(
            "run-a", f"{first:05d}-0", {**tables, "calls": [replace(c, raw_body=body) for c in tables["calls"]]}
        )
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        assert sum(batch.num_rows for batch in lake.iter_rows("calls", "run-a")) == 600
        assert lake.compact("run-a") is not None
    finally:
        pa.set_memory_pool(before)
    assert pool.max_memory() < 400 << 20
    assert indices(lake) == list(range(200))


def test_look_ups_of_a_problem_skip_row_groups_by_their_bloom_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four groups of 64 problems, with filters that are made for 1 % of false alarms."""
    monkeypatch.setattr(storage.lake.parts, "GROUP_ROWS", 64)
    lake = Lake(tmp_path)
    for first in range(0, 256, 64):
        lake.commit("run-a", f"{first:05d}-0", unit_of(range(first, first + 64)))
    lake.compact("run-a")
    [path] = lake.files("trajectories")

    def left(problem_id: str) -> int:
        probe = "select count(*) filter (not bloom_filter_excludes) from parquet_bloom_probe(?, 'problem_id', ?)"
        [(n,)] = duckdb.execute(probe, [str(path), problem_id]).fetchall()
        return int(n)

    assert all(left(f"p{index}") >= 1 for index in range(256))
    assert sum(left(f"absent-{index}") for index in range(250)) <= 40, "1,000 filters asked"
