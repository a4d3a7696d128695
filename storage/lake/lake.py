"""The lake: flat Parquet tables that grow by whole units, each exactly once, and stay readable through any crash.

    <root>/_parts/<table>/<run_id>/part-<unit>-<token>.parquet    one file per unit and table
    <root>/<table>/<run_id>.compact-<number>-<token>.parquet      one file per compacted run, for other programs too
    <root>/_manifest/<run_id>/<unit>.json                         the truth: which parts count

`storage/lake/places.py` has the places in full, docs/read_without_r2.md what other programs may rely on.

A commit writes and syncs the parts first and links the manifest entry last, so a reader sees all tables of a unit or
none of it, and a retried unit is dropped. A unit is complete: its subtasks and calls belong to its trajectories, and
only settled trajectories (answered, failed) are stored, each once; deferred ones are counted in `runs` and committed
when settled. Readers write nothing: a lake on a read-only disk is read as any other. Everything here blocks; from a
coroutine call it in a thread.
"""

import contextlib
import itertools
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from r2.atomic import naming, replacing
from r2.errors import ConfigError, LakeError, RunLockedError
from storage.lake.address import lake_folder
from storage.lake.compaction import compact_run, forget, leave_out
from storage.lake.manifest import COMPACTION, LEFT_OUT, Manifest, UnitEntry, make_folder
from storage.lake.ordered import rows_of_run, windows
from storage.lake.parts import check_part, check_schema_file, is_inside
from storage.lake.places import (
    EARLIER_SCHEMA_FILE,
    PARTS,
    SCHEMA_FILE,
    half_written_schemas,
    our_files,
    places_of,
    run_of,
    unit_of,
)
from storage.lake.run_lock import run_lock
from storage.lake.schema import OF_RUNS, TABLES, Row, table_from_rows
from storage.lake.unit import UnitWriter
from storage.lake.view import bring_into_view, is_seen

LEAST_HOURS = 1.0
"""No file of a bucket that is younger is ever deleted: its commit may be under way on another machine, whose lock this
one does not see."""


class Lake:
    """One lake. Constructing it touches nothing; the first commit creates the folders."""

    def __init__(self, root: Path | str) -> None:
        self.root = lake_folder(root)
        self.manifest = Manifest(self.root)
        self.store = self.manifest.store
        self._is_prepared = False

    def commit(
        self, run_id: str, unit: str, tables: Mapping[str, Sequence[Row]], meta: Mapping[str, Any] | None = None
    ) -> bool:
        """Adds a unit to the lake, in all its tables at one instant, durably. False if it is there already; ours is
        dropped.

        Rows may come in any order and are stored by (input index, rollout, ...). Raises LakeError, and adds nothing,
        for rows that do not fit the schema, a deferred trajectory, or a child row whose trajectory is not in the unit.
        """
        if unit.startswith(COMPACTION):
            raise LakeError(f"unit {unit!r}: names that start with {COMPACTION!r} are for compactions")
        if self.manifest.has(run_id, unit):
            return False
        ordered = _in_input_order(unit, tables)
        with naming(self.root):
            self.prepare()
            with UnitWriter(self.manifest, run_id, unit) as writer:
                for name, rows in ordered.items():
                    writer.write(name, table_from_rows(name, rows))
                indices = [row.input_index for row in ordered.get("trajectories", ())]
                return writer.publish(indices, meta=meta) is not None

    def exists(self) -> bool:
        """Whether something was ever committed."""
        return self.manifest.folder.is_dir() if not self.store.is_remote else self.store.is_there()

    def entries(self, run_id: str | None = None) -> list[UnitEntry]:
        """Every commit ever made, superseded ones included, oldest first within a run."""
        return [entry for run in self._runs(run_id) for entry in self.manifest.entries(run)]

    def units(self, run_id: str) -> dict[str, UnitEntry]:
        """The units committed to a run by name: what a resumed run need not do again.

        Of compactions only what they left out (`leave_out`), as units of their own that count negative.
        """
        found: dict[str, UnitEntry] = {}
        for entry in self.manifest.entries(run_id):
            if not entry.is_compaction:
                found[entry.unit] = entry
            for prefix, meta in entry.meta.get(LEFT_OUT, {}).items() if entry.is_compaction else ():
                name = f"{prefix}left-out-by-{entry.unit}"
                found[name] = replace(entry, unit=name, parts={}, replaces=(), meta=meta)
        return found

    def files(self, table: str, run_id: str | None = None) -> list[Path]:
        """The live files of a table in input order: what a query may read. Superseded and unfinished ones are not among
        them."""
        live = [entry for run in self._runs(run_id) for entry in self.manifest.live(run)]
        self.manifest.bring((entry, table) for entry in live if table in entry.parts)
        return [entry.file(self.root, table) for entry in live if table in entry.parts]

    def settled_ids(self, run_id: str, unit_prefix: str) -> set[str]:
        """problem_id of every trajectory stored within the input ranges of the units whose name starts with
        `unit_prefix`.

        Stored means settled (see `commit`). It holds after a compaction too: the units' ranges are looked up in its
        file.
        """
        ranges = [(e.first_input_index, e.last_input_index) for e in self.manifest.entries(run_id, unit_prefix)]
        found: set[str] = set()
        bounds = [(first, last) for first, last in ranges if first is not None and last is not None]
        if not bounds:
            return found
        first, last = min(low for low, _ in bounds), max(high for _, high in bounds)
        for entry in self.manifest.live(run_id):
            if entry.first_input_index is None or entry.last_input_index is None:
                continue
            if entry.first_input_index <= last and entry.last_input_index >= first:
                inside = (pc.field("input_index") >= first) & (pc.field("input_index") <= last)
                path = entry.file(self.root, "trajectories")
                found.update(
                    pq.read_table(path, columns=["problem_id"], filters=inside, partitioning=None)[
                        "problem_id"
                    ].to_pylist()
                )
        return found

    def iter_rows(
        self, table: str, run_id: str, columns: Sequence[str] | None = None, batch_size: int = 1024
    ) -> Iterator[pa.RecordBatch]:
        """A run's rows as record batches in the order of the input, in memory that does not grow with the run."""
        wanted = list(columns) if columns is not None else TABLES[table].schema.names
        entries = self.manifest.live(run_id)
        needed = {table} if table in OF_RUNS else {table, "trajectories"}
        self.manifest.bring((entry, name) for entry in entries for name in needed & entry.parts.keys())
        if table in OF_RUNS:
            pieces = rows_of_run(self.root, entries, table, wanted)
        else:
            pieces = (window[table] for window in windows(self.root, entries, {table: wanted}) if table in window)
        for rows in pieces:
            yield from rows.combine_chunks().to_batches(batch_size)

    def compact(self, run_id: str) -> UnitEntry | None:
        """Rewrites a run's parts as one file per table, which other programs see from then on; None if it is that
        already. See `storage.lake.compaction`."""
        self.store.look_again()
        with naming(self.root):
            self.prepare()
            return compact_run(self.manifest, run_id)

    def leave_out(
        self,
        run_id: str,
        problem_ids: Collection[str],
        counted: Mapping[str, Mapping[str, Any]],
        added: Mapping[str, Sequence[Row]],
    ) -> bool:
        """Takes problems out of a run, at one instant in all tables, so that they can be answered again. False, and
        nothing changed, where a compaction was faster.

        `counted` says what `units` is to count for it: prefix of a unit's name -> meta, negative. `added` are rows of
        the tables `OF_RUNS` that come with it.
        """
        self.prepare()
        return leave_out(self.manifest, run_id, problem_ids, added, {LEFT_OUT: counted}) is not None

    def forget(self, run_id: str, problem_ids: Collection[str]) -> bool:
        """Takes every word of these problems out of a run's tables; see `storage.lake.forgotten`. False, and nothing
        changed, where a compaction was faster. The files that had them are out of use, and still there:
        `delete_unused`."""
        self.prepare()
        return forget(self.manifest, run_id, problem_ids) is not None

    def delete_unused(self, run_id: str) -> list[Path]:
        """`vacuum` of one run, at once: also files that a query may have open. For whoever holds the run's lock."""
        bring_into_view(self.manifest, run_id)
        return self._delete_unused(run_id, [path for path in our_files(self.root) if run_of(path) == run_id], None)

    def vacuum(self, older_than_hours: float = 24.0) -> list[Path]:
        """Deletes our files that no live entry names and that are out of use for longer than given, and returns them.

        The time leaves running queries their files. Runs that are being worked on are passed over: their newest files
        may not be named yet. Files with other names are not ours to delete; `verify` names them.
        """
        self.store.look_again()
        if self.store.is_remote and older_than_hours < LEAST_HOURS:
            raise ConfigError(
                f"--older-than-hours {older_than_hours:g}: at least {LEAST_HOURS:g} for a lake in a bucket: another "
                "machine may be about to commit what it just stored."
            )
        for run_id in self.manifest.run_ids():
            bring_into_view(self.manifest, run_id)
        store, oldest = self.store, self.store.now() - older_than_hours * 3600
        deleted = []
        ours = sorted(our_files(self.root), key=run_of)
        for run_id, mine in itertools.groupby(ours, run_of):
            paths = list(mine)
            with contextlib.suppress(RunLockedError), self.run_lock(run_id):
                deleted += self._delete_unused(run_id, paths, oldest)
        for path in half_written_schemas(self.root):
            if path.stat().st_mtime <= oldest:
                path.unlink()
                deleted.append(path)
        return deleted

    def _live_at(self, run_id: str, ours: Sequence[Path]) -> set[Path]:
        """Where the live files of a run lie; of a bucket, where they were when `ours`, all its files, were listed."""
        if not self.store.is_remote:
            return {path for table in TABLES for path in self.files(table, run_id)}
        for unit in {unit_of(path, run_id) for path in ours}:
            self.manifest.has(run_id, unit)  # by its name, for it may not be listed yet: from then on it is known
        listed = set(ours)
        places = (
            places_of(self.root, table, run_id, part.path)
            for entry in self.manifest.live(run_id)
            for table, part in entry.parts.items()
        )
        return {path for some in places for path in ([place for place in some if place in listed][:1] or some)}

    def _delete_unused(self, run_id: str, paths: Sequence[Path], oldest: float | None) -> list[Path]:
        """Of the run's files those that no live entry names and that are out of use since `oldest`; None: since ever so
        short a time."""
        live = self._live_at(run_id, paths)
        replaced_at = self._newest_compaction(run_id)
        deleted = []
        for path in paths:
            if path not in live and (oldest is None or max(self.store.modified_at(path), replaced_at) <= oldest):
                self.store.remove(path)
                deleted.append(path)
        return deleted

    def _newest_compaction(self, run_id: str) -> float:
        """Epoch seconds: since then at the longest are the run's files out of use that it has replaced. 0 without
        one."""
        entries = self.manifest.entries(run_id, COMPACTION)
        return datetime.fromisoformat(entries[-1].written_at).timestamp() if entries else 0.0

    def verify(self) -> list[str]:
        """Everything wrong with the stored data, one line each: reads every live part with its checksums."""
        self.store.look_again()
        problems = []
        for run_id in self.manifest.run_ids():
            try:
                live = self.manifest.live(run_id)
            except LakeError as error:
                problems.append(str(error))
                continue
            for entry in live:
                for table in entry.parts:
                    if found := self._check_part(entry, table):
                        problems.append(found)
        ours = {*our_files(self.root), *half_written_schemas(self.root)}
        unnamed = set(self.unnamed())
        for path in sorted(self.store.listed([*TABLES, PARTS])):
            if path.parent.name in TABLES and path.name in (SCHEMA_FILE, EARLIER_SCHEMA_FILE):
                self.store.renew([path])
                self.store.bring([path])
                if found := check_schema_file(path, TABLES[path.parent.name]):
                    problems.append(found)
            elif path in unnamed and path.parent.name in TABLES:
                problems.append(
                    f"{path}: named by no run, but other programs count its rows. Move it out of the lake's folders."
                )
            elif path not in ours:
                problems.append(
                    f"{path}: foreign file, not part of the lake and not read. Move it out of the lake's folders."
                )
        return problems

    def unnamed(self) -> list[Path]:
        """Files with a part's name that no commit ever named: a crash left them, or somebody put them there. They are
        not read; `vacuum` deletes them. Runs whose manifest cannot be read are left out: nobody knows of their files.
        """
        self.store.look_again()
        found = []
        for run_id, paths in itertools.groupby(sorted(our_files(self.root), key=run_of), run_of):
            with contextlib.suppress(LakeError):
                entries = self.manifest.entries(run_id)
                named = {PurePosixPath(part.path).name for entry in entries for part in entry.parts.values()}
                found += [path for path in paths if path.name not in named]
        return sorted(found)

    def unseen(self) -> list[str]:
        """Runs that other programs, which read the tables' folders, do not see as they are, until `compact`: not
        compacted yet, or stored in the layout or with the columns of another version. Unreadable ones are left out."""
        self.store.look_again()
        found = []
        for run_id in self.manifest.run_ids():
            with contextlib.suppress(LakeError):
                found += [] if is_seen(self.manifest, run_id) else [run_id]
        return found

    def _check_part(self, entry: UnitEntry, table: str) -> str | None:
        try:
            self.store.renew(places_of(self.root, table, entry.run_id, entry.parts[table].path))
            path = entry.file(self.root, table)
        except LakeError as error:
            return str(error)
        if table not in TABLES:
            return f"{path}: of table {table}, which this program does not know. Upgrade it."
        if not is_inside(path, self.root):
            return f"{path}: a link that leads out of the lake. Put the file itself in its place."
        return check_part(path, entry.parts[table], TABLES[table].schema)

    def run_lock(self, run_id: str) -> contextlib.AbstractContextManager[None]:
        """See `storage.lake.run_lock`."""
        return run_lock(self.root, run_id)

    def prepare(self) -> None:
        """Creates the tables' folders, each with its file of no rows and all columns, and rewrites those of an older
        schema."""
        if self._is_prepared:
            return
        self.store.open()
        for table in TABLES.values():
            path = self.root / table.name / SCHEMA_FILE
            path.with_name(EARLIER_SCHEMA_FILE).unlink(missing_ok=True)
            if check_schema_file(path, table, is_of_today=True) is None:
                continue
            make_folder(path.parent)
            with replacing(path) as file:
                pq.write_table(table.schema.empty_table(), file, write_page_checksum=True)
            self.store.keep([path])
        self._is_prepared = True

    def _runs(self, run_id: str | None) -> list[str]:
        return self.manifest.run_ids() if run_id is None else [run_id]


def _in_input_order(unit: str, tables: Mapping[str, Sequence[Row]]) -> dict[str, list[Any]]:
    """The tables that have rows, each in the order it is stored in. Raises LakeError where the unit is not complete."""
    if unknown := sorted(set(tables) - set(TABLES)):
        raise LakeError(f"unit {unit}: no table {', '.join(unknown)}; the lake has {', '.join(TABLES)}")
    trajectories: list[Any] = sorted(tables.get("trajectories", ()), key=operator.attrgetter("input_index", "rollout"))
    for row in trajectories:
        if row.status == "deferred":
            raise LakeError(
                f"unit {unit}, problem {row.problem_id}: deferred; commit it once it is answered or failed, and "
                "count it in runs"
            )
    place = {(row.problem_id, row.rollout): i for i, row in enumerate(trajectories)}
    ordered: dict[str, list[Any]] = {}
    for name, rows in tables.items():
        within = operator.attrgetter(*TABLES[name].order)
        if name == "trajectories":
            ordered[name] = trajectories
        elif name in OF_RUNS:
            ordered[name] = sorted(rows, key=within)
        else:
            try:
                ordered[name] = sorted(rows, key=lambda row: (place[row.problem_id, row.rollout], within(row)))
            except KeyError as error:
                raise LakeError(
                    f"unit {unit}: {name} of problem, rollout {error} without its trajectory; commit both in one unit"
                ) from None
    return {name: rows for name, rows in ordered.items() if rows}
