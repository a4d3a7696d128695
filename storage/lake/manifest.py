"""The manifest: which files are the lake. One small JSON entry per committed unit, create-if-absent, never changed or
removed.

`<root>/_manifest/<run_id>/<unit>.json` names a unit's part of every table, so a unit appears in all tables at the one
instant its entry is linked. A file that no live entry names is not data: it is left over from a crash or superseded,
and `Lake.vacuum` deletes it. A compaction is an entry too; it names the units it `replaces`, all of them back to the
first, so that reading the newest compaction and what came after it is enough.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from r2.errors import LakeError
from r2.records.tables import SCHEMA_VERSION
from storage.lake.objects import in_parallel
from storage.lake.places import is_in_tables_place, located, places_of
from storage.lake.stores import store_of

COMPACTION = "compact-"
LEFT_OUT = "left_out"
"""In the `meta` of a compaction that left problems out: prefix of a unit's name -> what to count for it, negative."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]*")


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a unit. `path` is where it is meant to lie, relative to the lake's root, so that a lake can
    be moved; `UnitEntry.file` says where it lies."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class UnitEntry:
    """What one commit added. The input indices bound its trajectories, None if it has none.

    `schema` is the digest of the column names and types it was written with; `meta` belongs to whoever committed.
    """

    run_id: str
    unit: str
    run_date: str
    parts: Mapping[str, Part]
    schema: str
    written_at: str
    first_input_index: int | None = None
    last_input_index: int | None = None
    replaces: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def is_compaction(self) -> bool:
        return self.unit.startswith(COMPACTION)

    def file(self, root: Path, table: str) -> Path:
        """Where its part of the table lies now: in the table's folder, or apart from it."""
        part = self.parts[table]
        return located(root, table, self.run_id, part.path, part.sha256)


class Manifest:
    """The entries under one lake root. Reading needs no lock: every entry is complete from the
    moment it can be seen."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "_manifest"
        self.store = store_of(root)
        self._known: dict[Path, UnitEntry] = {}  # entries never change, so reading one once is enough

    def run_ids(self) -> list[str]:
        """Runs with at least one commit, by name."""
        return self.store.folders(self.folder)

    def has(self, run_id: str, unit: str) -> bool:
        path = self._path(run_id, unit)
        if not path.exists():
            self.store.receive_once(path)
        return path.exists()

    def run_date(self, run_id: str) -> str | None:
        """UTC day of the run's first commit; None before that."""
        here = self.folder / checked_name("run_id", run_id)
        units = _unit_names(self.store.names_here(here)) or self._units(run_id)
        return self._read(run_id, units[0]).run_date if units else None

    def link(self, entry: UnitEntry) -> bool:
        """Makes the unit part of the lake at one instant. False, and nothing changed, if it already is. `sync` makes it
        last."""
        path = self._path(entry.run_id, entry.unit)
        make_folder(path.parent)
        return self.store.create(path, orjson.dumps(asdict(entry), option=orjson.OPT_INDENT_2))

    def sync(self, run_id: str) -> None:
        """Returns once the run's linked entries survive a power cut."""
        sync_folder(self._path(run_id, "any").parent)

    def entries(self, run_id: str, prefix: str = "") -> list[UnitEntry]:
        """Every entry of the run whose unit starts with `prefix`, superseded ones included, oldest first."""
        found = [self._read(run_id, unit) for unit in self._units(run_id) if unit.startswith(prefix)]
        return sorted(found, key=lambda e: (e.written_at, e.unit))

    def live(self, run_id: str) -> list[UnitEntry]:
        """The entries that make up the run: its newest compaction and what it does not replace, in input order."""
        units = self._units(run_id)
        newest = max((u for u in units if u.startswith(COMPACTION)), default=None)
        entries = []
        replaced: set[str] = set()
        if newest is not None:
            entries.append(self._read(run_id, newest))
            replaced = {newest, *entries[0].replaces}
        entries += [self._read(run_id, unit) for unit in units if unit not in replaced]
        return sorted(
            entries, key=lambda e: (e.first_input_index is None, e.first_input_index or 0, e.written_at, e.unit)
        )

    def bring(self, wanted: Iterable[tuple[UnitEntry, str]]) -> None:
        """These parts, by entry and table, are on this machine then; of a bucket several are fetched at once."""
        if self.store.is_remote:
            in_parallel(lambda one: self._bring(*one), wanted)

    def _bring(self, entry: UnitEntry, table: str) -> None:
        part = entry.parts[table]
        self.store.bring(places_of(self.root, table, entry.run_id, part.path), sha256=part.sha256)

    def _units(self, run_id: str) -> list[str]:
        return _unit_names(self.store.names(self.folder / checked_name("run_id", run_id)))

    def _path(self, run_id: str, unit: str) -> Path:
        return self.folder / checked_name("run_id", run_id) / f"{checked_name('unit', unit)}.json"

    def _read(self, run_id: str, unit: str) -> UnitEntry:
        path = self._path(run_id, unit)
        if path not in self._known:
            self._known[path] = _parse_entry(path)
        return self._known[path]


def _unit_names(names: Iterable[str]) -> list[str]:
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json") and not name.startswith("."))


def _parse_entry(path: Path) -> UnitEntry:
    try:
        stored = orjson.loads(path.read_bytes())
        if stored["schema_version"] > SCHEMA_VERSION:
            raise LakeError(
                f"{path}: schema version {stored['schema_version']}; this program knows up to {SCHEMA_VERSION}. "
                "Upgrade it."
            )
        stored["parts"] = {table: Part(**part) for table, part in stored["parts"].items()}
        stored["replaces"] = tuple(stored["replaces"])
        entry = UnitEntry(**stored)
        _check_place(path, entry)
        return entry
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LakeError(
            f"{path}: not a manifest entry ({error}). Without it the run's totals would be wrong, so nothing is read. "
            "Restore the file from a backup, or move it away to give the unit up."
        ) from error


def _check_place(path: Path, entry: UnitEntry) -> None:
    """ValueError for an entry that was copied from another unit, and for a part outside its table's folder."""
    if (entry.run_id, entry.unit) != (path.parent.name, path.name.removesuffix(".json")):
        raise ValueError(f"it is the entry of run {entry.run_id}, unit {entry.unit}")
    for table, part in entry.parts.items():
        if not is_in_tables_place(PurePosixPath(part.path), table):
            raise ValueError(f"its part of {table} is {part.path!r}, outside the table's folder")


def checked_name(what: str, name: str) -> str:
    """`name` if it can stand in a path of the lake; LakeError otherwise."""
    if not _NAME.fullmatch(name):
        raise LakeError(f"{what} {name!r}: expected letters, digits, '_', '-', '.' or '=', and no leading '.' or '-'")
    return name


def make_folder(folder: Path) -> None:
    """Creates `folder` and its missing parents so that they survive a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Makes creations, renames and links inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
