"""Answers that earlier runs of a lake paid for, by what was asked.

Two places have them: the table `calls`, and the journals of runs that are not finished. An index of both is made once,
16 bytes of memory a call of the table: the first 8 bytes of the request's address, the part and the row. Bodies stay on
disk. A look-up reads the row group that the answer is in, and keeps the newest of them: runs over the same file ask in
the same order, so each group is read about once. Everything here blocks; from a coroutine call it in a thread.
"""

import threading
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from r2.call import Completion, request_sha_of
from r2.errors import LakeError
from storage.lake.lake import Lake
from storage.lake.parts import read_batches
from storage.lake.places import now_at
from storage.lake.schema import TABLES
from storage.runs.journal import Journal, stored_at
from storage.runs.lineage import PaidRun
from storage.runs.stored_call import COLUMNS, completion_of

KEPT_BYTES = 128 << 20
"""Of row groups that are kept in memory; a group has 8 MB of rows at most, and short parts less."""


class PaidCall(NamedTuple):
    """A stored answer and the run that has it. `completion` has the answering attempt alone if it is of the table."""

    completion: Completion
    run_id: str


class _Part(NamedTuple):
    path: Path
    run_id: str
    first_rows: list[int]
    """Of each row group."""


class _Noted(NamedTuple):
    """A place in a journal."""

    path: Path
    offset: int
    run_id: str


class PaidCalls:
    """The answers of some earlier runs. `find` may be called from several threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._keys = _EMPTY
        self._places = _EMPTY
        self._parts: list[_Part] = []
        self._in_journals: dict[str, _Noted] = {}
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._kept_bytes = 0
        self._turn = threading.Lock()
        self.warnings: list[str] = []
        """Files of earlier runs that cannot be read: what is in them is asked again."""

    @classmethod
    def open(cls, root: Path, runs: Sequence[PaidRun], entries: Mapping[str, str]) -> Self:
        """Reads the addresses of what was answered by entries that are today as they were then.

        `entries`: pool entry -> `answering_digest` today. `runs`: of several answers to one request the one of the
        first run counts.
        """
        calls, lake = cls(root), Lake(root)
        keys, places = array("Q"), array("Q")
        answering: dict[str, list[str]] = {}
        for run in runs:
            answering[run.run_id] = same = answering_as_then(run, entries)
            if same:
                calls._index_table(lake, run, same, keys, places)
        order = pc.sort_indices(pa.table({"key": _numbers(keys), "place": _numbers(places)}), _BY_KEY)
        calls._keys, calls._places = _sorted(keys, order), _sorted(places, order)
        for run in runs:
            if same := answering[run.run_id]:
                calls._index_journals(run, same)
        return calls

    def __len__(self) -> int:
        """Stored answers, those to equal requests included."""
        return len(self._keys) + len(self._in_journals)

    def may_have(self, request_sha: str) -> bool:
        """False where there is certainly no answer. Reads nothing."""
        return request_sha in self._in_journals or next(self._places_of(request_sha), None) is not None

    def find(self, request_sha: str, model: str) -> PaidCall | None:
        """The stored answer of entry `model` to a request; None where there is none."""
        with self._turn:
            for place in self._places_of(request_sha):
                index, row_number = place >> 32, place & 0xFFFFFFFF
                row = self._row(index, row_number)
                if row is not None and (row["request_sha"], row["request_model"]) == (request_sha, model):
                    return PaidCall(completion_of([row]), self._parts[index].run_id)
        noted = self._in_journals.get(request_sha)
        stored = None if noted is None else stored_at(noted.path, noted.offset)
        if noted is None or stored is None or request_sha_of(stored) != request_sha:
            return None
        return PaidCall(Completion.from_bytes(stored), noted.run_id)

    def _places_of(self, request_sha: str) -> Iterator[int]:
        key = _key(request_sha)
        for at in range(bisect_left(self._keys, key), len(self._keys)):
            if self._keys[at] != key:
                return
            yield self._places[at]

    def _row(self, index: int, row_number: int) -> dict[str, Any] | None:
        """A row of a part. None, said once, where the part cannot be read any more."""
        part = self._parts[index]
        group = bisect_left(part.first_rows, row_number + 1) - 1
        try:
            rows = self._group(index, group)
        except (OSError, pa.ArrowException) as error:
            self._cannot(f"{part.path}: {error}")
            return None
        [row] = rows.slice(row_number - part.first_rows[group], 1).to_pylist()
        stored: dict[str, Any] = dict.fromkeys(COLUMNS) | row  # with the columns that an older part lacks
        return stored

    def _group(self, index: int, group: int) -> pa.Table:
        place = (index, group)
        if place in self._groups:
            self._groups.move_to_end(place)
            return self._groups[place]
        part = self._parts[index]
        path = now_at(self._root, "calls", part.run_id, part.path)
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            stored = set(file.schema_arrow.names)
            wanted = [name for name in ("request_sha", *COLUMNS) if name in stored]
            rows = file.read_row_group(group, columns=wanted, use_threads=False)
        self._groups[place] = rows
        self._kept_bytes += rows.nbytes
        while self._kept_bytes > KEPT_BYTES and len(self._groups) > 1:
            _, oldest = self._groups.popitem(last=False)
            self._kept_bytes -= oldest.nbytes
        return rows

    def _index_table(self, lake: Lake, run: PaidRun, same: list[str], keys: "array[int]", places: "array[int]") -> None:
        names = pa.array(same, pa.string())
        try:
            paths = lake.files("calls", run.run_id)
        except LakeError as error:
            self._cannot(str(error))
            return
        for path in paths:
            index, row_number, n_before = len(self._parts), 0, len(places)
            try:
                about = pq.read_metadata(path)
                sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
                self._parts.append(_Part(path, run.run_id, [sum(sizes[:group]) for group in range(len(sizes))]))
                for rows in read_batches(path, TABLES["calls"].schema, _ADDRESS):
                    is_answer = pc.and_(pc.is_null(rows["error_type"]), pc.is_in(rows["request_model"], names))
                    at = pc.indices_nonzero(is_answer)
                    shas = bytes.fromhex("".join(rows["request_sha"].take(at).to_pylist()))
                    if len(shas) != _SHA_BYTES * len(at):
                        raise ValueError("a request_sha that is none")
                    keys.frombytes(memoryview(shas).cast("Q")[:: _SHA_BYTES // 8].tobytes())
                    places.extend((index << 32) + row_number + row for row in at.to_pylist())
                    row_number += rows.num_rows
            except (LakeError, OSError, ValueError, pa.ArrowException) as error:
                self._cannot(f"{path}: {error}")
                del keys[n_before:], places[n_before:]

    def _index_journals(self, run: PaidRun, same: list[str]) -> None:
        for request_sha, _, path, offset in journalled(run, same, self._cannot):
            if not self.may_have(request_sha):
                self._in_journals[request_sha] = _Noted(path, offset, run.run_id)

    def _cannot(self, what: str) -> None:
        warning = f"{what} What was paid for in it is asked again."
        if warning not in self.warnings:
            self.warnings.append(warning)


def answering_as_then(run: PaidRun, entries: Mapping[str, str]) -> list[str]:
    """The entries that would answer today what they answered when the run was planned. `entries`: pool entry ->
    `answering_digest` today."""
    return [name for name, entry in run.entries.items() if entries.get(name) == entry.answering]


def journalled(
    run: PaidRun, same: Sequence[str], cannot: Callable[[str], None]
) -> Iterator[tuple[str, Completion, Path, int]]:
    """(request address, answer, file, offset) of the answers of these entries in the journals of a run that is not
    finished. `cannot` is told of a journal that cannot be read."""
    for path in sorted((run.run_dir / "journal").glob("*.journal")):
        try:
            with Journal.glance(path) as journal:
                for offset, stored in journal.places():
                    completion, request_sha = Completion.from_bytes(stored), request_sha_of(stored)
                    if request_sha and completion.is_ok and completion.model in same:
                        yield request_sha, completion, path, offset
        except (LakeError, OSError, ValueError, KeyError) as error:
            cannot(f"{path}: {error}")


_ADDRESS = ("request_sha", "request_model", "error_type")
_SHA_BYTES = 32
_EMPTY = memoryview(b"").cast("Q")
_BY_KEY = [("key", "ascending"), ("place", "ascending")]


def _key(request_sha: str) -> int:
    return memoryview(bytes.fromhex(request_sha[:16])).cast("Q")[0]


def _numbers(values: "array[int]") -> pa.Array:
    return pa.Array.from_buffers(pa.uint64(), len(values), [None, pa.py_buffer(values)])


def _sorted(values: "array[int]", order: pa.Array) -> memoryview:
    taken = _numbers(values).take(order)
    return memoryview(taken.buffers()[1])[: 8 * len(taken)].cast("Q") if len(taken) else _EMPTY
