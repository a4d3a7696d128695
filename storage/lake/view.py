"""What other programs see of a run: its newest compaction, one file in each table's folder, and no file that it
replaced.

Compactions and `Lake.vacuum` bring the files to their places, after the manifest entry that decides: one that was
killed in between is made up for by the next. Until then, and while a program looks in the very moment of a move, it may
see less of that run, and never a row twice. This program itself reads by the manifest and is exact at any moment.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.lake.manifest import COMPACTION, Manifest, UnitEntry, make_folder
from storage.lake.places import earlier_folder, is_for_view, is_our_name, parts_folder
from storage.lake.schema import TABLES, schema_digest


def bring_into_view(manifest: Manifest, run_id: str) -> None:
    """Moves the run's files to their places. May be done at any time, by several processes at once."""
    while True:
        live = manifest.live(run_id)
        for table in TABLES:
            _arrange(manifest, run_id, table, live)
        if _compactions(manifest.live(run_id)) == _compactions(live):
            return  # else a newer one came meanwhile, and its files were perhaps moved away


def is_to_compact(live: Sequence[UnitEntry]) -> bool:
    """Whether a compaction of these live entries would change what other programs see: several units, or files that are
    not meant for their eyes, or the columns of another version."""
    parts = [part for entry in live for part in entry.parts.values()]
    return len(live) > 1 or any(
        [
            *(not is_for_view(part.path) for part in parts),
            *(entry.schema != schema_digest() for entry in live if entry.parts),
        ]
    )


def is_seen(manifest: Manifest, run_id: str) -> bool:
    """Whether other programs see the run as it is. LakeError if its manifest cannot be read."""
    live = manifest.live(run_id)
    meant = {manifest.root / part.path for entry in live for part in entry.parts.values()}
    in_view = {path for table in TABLES for path in _in_view(manifest, run_id, table, live)}
    return not is_to_compact(live) and meant == in_view


def _arrange(manifest: Manifest, run_id: str, table: str, live: Sequence[UnitEntry]) -> None:
    """First out, then in: a reader in between sees less, and not twice. The moves are not synced: after a power cut a
    file lies in the one place or in the other, and both are looked at."""
    apart = parts_folder(manifest.root, table, run_id)
    paths = [manifest.root / entry.parts[table].path for entry in live if table in entry.parts]
    for path in _in_view(manifest, run_id, table, live):
        if path not in paths:
            _move(manifest, path, apart / path.name)
    for path in paths:
        if is_for_view(str(path.relative_to(manifest.root))) and not manifest.store.has(path):
            _move(manifest, apart / path.name, path)
    for folder in _earlier_folders(manifest, run_id, table, live):
        with contextlib.suppress(OSError):  # not there, or not empty
            folder.rmdir()
            folder.parent.rmdir()


def _in_view(manifest: Manifest, run_id: str, table: str, live: Sequence[UnitEntry]) -> Iterator[Path]:
    """Our files of the run in the table's folder: parts of compactions, and all that earlier versions put there."""
    for entry in manifest.entries(run_id, COMPACTION):
        if table in entry.parts and is_for_view(entry.parts[table].path):
            path = manifest.root / entry.parts[table].path
            if manifest.store.has(path):
                yield path
    for folder in _earlier_folders(manifest, run_id, table, live):
        if folder.is_dir():
            yield from (path for path in folder.iterdir() if is_our_name(path.name))


def _earlier_folders(manifest: Manifest, run_id: str, table: str, live: Sequence[UnitEntry]) -> set[Path]:
    return {earlier_folder(manifest.root, table, run_id, entry.run_date) for entry in live}


def _compactions(live: Sequence[UnitEntry]) -> list[UnitEntry]:
    return [entry for entry in live if entry.is_compaction]


def _move(manifest: Manifest, path: Path, to: Path) -> None:
    make_folder(to.parent)
    manifest.store.move(path, to)
