"""The rows of a run in the order of the input, out of units that were committed in any order, in bounded memory.

A part is sorted by its problems' input index, and every table of a unit has its problems in the same order; units may
overlap (what one session left open, a later one committed). So the parts are walked side by side, one window of input
indices at a time; what is held is one window plus one batch per part that reaches into it, whatever the run's size.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from storage.lake.manifest import UnitEntry
from storage.lake.parts import read_batches, unpacked_bytes
from storage.lake.schema import TABLES

WINDOW = 1024
"""Input indices per window at most: twice a default shard, a few MB of rows."""
WINDOW_BYTES = 64 << 20
"""A window of rows that are larger has fewer indices: calls can carry long bodies."""

Columns = Mapping[str, Sequence[str]]


def windows(root: Path, entries: Sequence[UnitEntry], wanted: Columns) -> Iterator[dict[str, pa.Table]]:
    """For each window the rows of the tables in `wanted`, ordered by (input index, the table's own order).

    `entries` are live and in input order; those without trajectories have no place in the input and are left out.
    Tables without a row in a window are absent from its dict.
    """
    needed = {table: [*dict.fromkeys([*columns, *_ordering(table)])] for table, columns in wanted.items()}
    needed.setdefault("trajectories", _ordering("trajectories"))
    waiting = deque(entry for entry in entries if entry.first_input_index is not None)
    walking: list[_Walk] = []
    while waiting or walking:
        starts = [walk.first_index() for walk in walking] + [_first(entry) for entry in islice(waiting, 1)]
        start = min(starts)
        while waiting and _first(waiting[0]) < start + WINDOW:
            walking.append(_Walk(root, waiting.popleft(), needed))
        size = sum(walk.bytes_per_index for walk in walking)
        end = start + max(1, min(WINDOW, int(WINDOW_BYTES / max(1.0, size))))
        pieces = [_window_of(walk.cursors, end) for walk in walking]
        walking = [walk for walk in walking if not walk.cursors["trajectories"].is_done()]
        merged = _merged(pieces)
        yield {name: merged[name].select(list(wanted[name])) for name in wanted if name in merged}


class _Walk:
    """A unit that is being read: a place in each of its parts, and how much there is for one input index."""

    def __init__(self, root: Path, entry: UnitEntry, wanted: Columns) -> None:
        parts = {name: entry.file(root, name) for name in wanted if name in entry.parts}
        n_bytes = sum(unpacked_bytes(path, wanted[name]) for name, path in parts.items())
        self.bytes_per_index = n_bytes / ((entry.last_input_index or 0) - _first(entry) + 1)
        self.cursors = {
            name: _Cursor(read_batches(path, TABLES[name].schema, wanted[name])) for name, path in parts.items()
        }

    def first_index(self) -> int:
        return self.cursors["trajectories"].first("input_index")


def _first(entry: UnitEntry) -> int:
    return entry.first_input_index or 0


def rows_of_run(root: Path, entries: Sequence[UnitEntry], table: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of one of the tables `OF_RUNS`, which have no place in the input, in the order they were written."""
    for entry in sorted(entries, key=lambda entry: entry.written_at):
        if table in entry.parts:
            yield from read_batches(entry.file(root, table), TABLES[table].schema, columns)


class _Cursor:
    """A place in one part."""

    def __init__(self, batches: Iterator[pa.Table]) -> None:
        self._batches = batches
        self._held: pa.Table | None = None

    def _peek(self) -> pa.Table | None:
        while self._held is None or self._held.num_rows == 0:
            self._held = next(self._batches, None)
            if self._held is None:
                return None
        return self._held

    def is_done(self) -> bool:
        return self._peek() is None

    def first(self, column: str) -> int:
        held = self._peek()
        assert held is not None, "a finished cursor is not walked further"
        return int(held[column][0].as_py())

    def take_while(self, belongs: Callable[[pa.Table], pa.Array]) -> list[pa.Table]:
        """Takes rows up to the first one that does not belong."""
        taken = []
        while (held := self._peek()) is not None:
            n = pc.index(belongs(held), False).as_py()
            if n == -1:
                taken.append(held)
                self._held = None
                continue
            taken.append(held.slice(0, n))
            self._held = held.slice(n)
            break
        return [piece for piece in taken if piece.num_rows]


def _window_of(cursors: Mapping[str, _Cursor], end: int) -> dict[str, pa.Table]:
    """One part of each table, up to input index `end`."""
    trajectories = cursors["trajectories"].take_while(lambda rows: pc.less(rows["input_index"], end))
    if not trajectories:
        return {}
    window = {"trajectories": pa.concat_tables(trajectories)}
    problem_ids = window["trajectories"]["problem_id"].combine_chunks()
    for name, cursor in cursors.items():
        if name != "trajectories":
            rows = cursor.take_while(lambda rows: pc.is_in(rows["problem_id"], value_set=problem_ids))
            if rows:
                window[name] = pa.concat_tables(rows)
    return window


def _merged(pieces: Sequence[Mapping[str, pa.Table]]) -> dict[str, pa.Table]:
    """The pieces of several units as one, sorted only where the units overlap."""
    pieces = [piece for piece in pieces if piece]
    ranges = [pc.min_max(piece["trajectories"]["input_index"]).as_py() for piece in pieces]
    is_apart = all(a["max"] < b["min"] for a, b in itertools.pairwise(ranges))
    names = dict.fromkeys(name for piece in pieces for name in piece)
    merged = {name: pa.concat_tables([piece[name] for piece in pieces if name in piece]) for name in names}
    if is_apart:
        return merged
    trajectories = merged["trajectories"].sort_by([("input_index", "ascending"), ("rollout", "ascending")])
    problem_ids = trajectories["problem_id"].combine_chunks()
    for name, rows in merged.items():
        keys = {column: rows[column] for column in TABLES[name].order}
        place = pc.index_in(rows["problem_id"], value_set=problem_ids)
        order = pa.table({"place": place, **keys})
        merged[name] = rows.take(pc.sort_indices(order, [(column, "ascending") for column in order.column_names]))
    return merged


def _ordering(table: str) -> list[str]:
    return ["problem_id", *TABLES[table].order, *(["input_index"] if table == "trajectories" else [])]
