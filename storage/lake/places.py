"""Where the files of a lake lie: in a table's folder what other programs shall read, and everything else apart from it.

    <root>/<table>/0_schema.parquet                               no rows, the columns of today
    <root>/<table>/<run_id>.compact-<number>-<token>.parquet      in view: a compacted run, all its rows of the table
    <root>/_parts/<table>/<run_id>/part-<unit>-<token>.parquet    the parts of a run that is not compacted yet
    <root>/_parts/<table>/<run_id>/<any of these names>           not in view yet, or replaced and kept for a while

So a table's folder holds each row once and all files in it have the same columns: any program reads it as it lies.
The manifest names a part by the place it is meant for; `located` finds it where it is. Earlier versions kept all parts
in `<root>/<table>/run_date=<day>/run_id=<run_id>/`: these are read as well, and the next compaction moves them.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from storage.lake.schema import TABLES
from storage.lake.stores import store_of

PARTS = "_parts"
SCHEMA_FILE = "0_schema.parquet"
"""In each table's folder, and by its name the first there: no rows, and the columns of today. Programs that take the
columns of the first file take these, and an empty table has its columns."""
EARLIER_SCHEMA_FILE = "_schema.parquet"
_TOKEN = r"-[0-9a-f]{8}\.parquet"
_IN_VIEW = re.compile(rf"(?P<run_id>.+)\.compact-\d+{_TOKEN}")
_OURS = re.compile(rf"\.?(part-.+|.+\.compact-\d+){_TOKEN}(\.tmp)?")


def parts_folder(root: Path, table: str, run_id: str) -> Path:
    """Where the files of a run lie that are not in view."""
    return root / PARTS / table / run_id


def earlier_folder(root: Path, table: str, run_id: str, run_date: str) -> Path:
    """Where earlier versions kept all files of a run."""
    return root / table / f"run_date={run_date}" / f"run_id={run_id}"


def is_for_view(path: str) -> bool:
    """Whether a part of the manifest is meant for its table's folder, where other programs read it."""
    place = PurePosixPath(path)
    return len(place.parts) == 2 and _IN_VIEW.fullmatch(place.name) is not None


def is_in_tables_place(path: PurePosixPath, table: str) -> bool:
    """Whether a path of the manifest stays within what belongs to the table."""
    within = path.parts[1:] if path.parts[:1] == (PARTS,) else path.parts
    return not path.is_absolute() and ".." not in path.parts and within[:1] == (table,)


def located(root: Path, table: str, run_id: str, path: str, sha256: str = "") -> Path:
    """Where a part of the manifest lies now, on this machine; the place it is meant for if it is nowhere.

    A file moves at most twice, into view and out of it, and both at one instant: looking three times finds it.
    """
    places = places_of(root, table, run_id, path)
    found = next((place for place in places if place.is_file()), None)
    return found or store_of(root).bring(places, sha256=sha256) or places[0]


def places_of(root: Path, table: str, run_id: str, path: str) -> tuple[Path, Path, Path]:
    """Where a part of the manifest may lie, in the order in which to look."""
    meant, apart = root / path, parts_folder(root, table, run_id) / PurePosixPath(path).name
    return meant, apart, meant


def now_at(root: Path, table: str, run_id: str, path: Path) -> Path:
    """Where a file of the run lies that was at `path` before: a compaction may have moved it out of view meanwhile."""
    return located(root, table, run_id, path.relative_to(root).as_posix())


def our_files(root: Path) -> Iterator[Path]:
    """Files in a place and with a name that this program gives, finished or not."""
    store = store_of(root)
    if store.is_remote:
        yield from filter(_is_ours, store.listed([*TABLES, PARTS]))
        return
    for table in TABLES:
        yield from (path for path in (root / table).glob("*.parquet") if _IN_VIEW.fullmatch(path.name))
        for pattern in (f"{PARTS}/{table}/*/*", f"{table}/run_date=*/run_id=*/*"):
            yield from (path for path in root.glob(pattern) if is_our_name(path.name))


def _is_ours(path: Path) -> bool:
    is_apart = path.parent.parent.parent.name == PARTS
    return is_our_name(path.name) and (is_apart or _IN_VIEW.fullmatch(path.name) is not None)


def half_written_schemas(root: Path) -> Iterator[Path]:
    """What is left of a `0_schema.parquet` whose writer was killed."""
    for table in TABLES:
        yield from (root / table).glob(".*_schema.parquet.*.tmp")


def unit_of(path: Path, run_id: str) -> str:
    """The unit that one of `our_files` of a run was written for."""
    name = path.name.removesuffix(".tmp").removesuffix(".parquet").lstrip(".")
    return name.removeprefix("part-").removeprefix(f"{run_id}.").rpartition("-")[0]


def is_our_name(name: str) -> bool:
    return _OURS.fullmatch(name) is not None


def run_of(path: Path) -> str:
    """The run that one of `our_files` belongs to."""
    in_view = _IN_VIEW.fullmatch(path.name)
    return in_view["run_id"] if in_view else path.parent.name.removeprefix("run_id=")
