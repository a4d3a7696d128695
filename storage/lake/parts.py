"""One Parquet file of the lake: written durably under a temporary name, hashed on the way, read back with its
checksums.

zstd 3, dictionaries on label columns only, row groups of at most 122,880 rows (DuckDB's own size), a CRC on every page.
DuckDB does not check these CRCs and returns flipped bits as data; `check_part` does, through pyarrow.
"""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from r2.atomic import create_exclusively, move_into_place
from r2.errors import LakeError
from storage.lake.manifest import Part, make_folder, sync_folder
from storage.lake.places import parts_folder
from storage.lake.schema import StoredTable, conform

GROUP_ROWS = 122_880
GROUP_BYTES = 8 << 20
"""A row group also ends here: rows of `calls` can carry long bodies, and a group is held in memory while it is written.
"""

BLOOM_ROOM = 1.25
"""Later groups can have so many times the problems of the first one, before their bloom filters tell less."""
BATCH_BYTES = 16 << 20
"""Of rows read at once, on average."""
_RESTORE = "Restore it from a backup; if a compaction ended in this moment, ask again."


class _Hashing:
    """A binary file that knows the sha256 and the length of what passed through it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.n_bytes = 0
        self.closed = False
        self.is_unwanted = False

    def write(self, chunk: bytes) -> int:
        if self.is_unwanted:
            return len(chunk)
        self.sha256.update(chunk)
        self.n_bytes += len(chunk)
        self.file.write(chunk)
        return len(chunk)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """Left open for the fsync that follows."""


class PartWriter:
    """Streams tables into one part, a context manager: `finish` makes the file durable, and only `keep` lets it outlive
    the block.

    It lies apart from the table's folder; with `is_for_view` it is meant for that folder, and `bring_into_view` moves
    it once the manifest names it. Such a part holds a whole run: look-ups by problem_id skip the row groups that do not
    hold it, by a bloom filter in each.
    """

    def __init__(
        self,
        root: Path,
        table: StoredTable,
        run_id: str,
        unit: str,
        *,
        is_for_view: bool = False,
    ) -> None:
        self._table = table
        self._has_bloom = is_for_view and "problem_id" in table.schema.names
        self.folder = parts_folder(root, table.name, run_id)
        make_folder(self.folder)
        # Unique to this attempt: two processes that race for a unit never write the same file.
        name = f"{f'{run_id}.' if is_for_view else 'part-'}{unit}-{secrets.token_hex(4)}.parquet"
        self.path = self.folder / name
        self.meant_for = f"{table.name}/{name}" if is_for_view else str(self.path.relative_to(root))
        self.temporary = self.folder / f".{name}.tmp"
        self._file = create_exclusively(self.temporary)
        self._sink = _Hashing(self._file)
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._waiting_rows = self._waiting_bytes = 0
        self.rows = 0
        self._is_kept = False

    def write(self, rows: pa.Table) -> None:
        """Adds rows, already in order; what is held in memory stays below one row group."""
        self.rows += rows.num_rows
        while rows.num_rows:
            taken = rows.slice(0, GROUP_ROWS - self._waiting_rows)
            rows = rows.slice(taken.num_rows)
            self._waiting.append(taken)
            self._waiting_rows += taken.num_rows
            self._waiting_bytes += taken.nbytes
            if self._waiting_rows >= GROUP_ROWS or self._waiting_bytes >= GROUP_BYTES:
                self._write_group()

    def _write_group(self) -> None:
        if self._waiting:
            group = pa.concat_tables(self._waiting)
            self._writer = self._writer or self._opened(group)
            self._writer.write_table(group, row_group_size=GROUP_ROWS)
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0

    def _opened(self, first: pa.Table) -> pq.ParquetWriter:
        """The writer. Its bloom filters stay in memory until the file ends, and are as large as the first group's
        problems need."""
        bloom = None
        if self._has_bloom:
            n_problems = pc.count_distinct(first["problem_id"]).as_py()
            bloom = {"problem_id": {"ndv": max(1, round(BLOOM_ROOM * n_problems)), "fpp": 0.01}}
        return pq.ParquetWriter(
            self._sink,
            self._table.schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=list(self._table.labels),
            write_page_checksum=True,
            bloom_filter_options=bloom,
        )

    def finish(self) -> Part:
        """Closes, syncs and names the file. It is not part of the lake before a manifest entry names it."""
        self._write_group()
        self._writer = self._writer or self._opened(self._table.schema.empty_table())
        self._writer.close()
        move_into_place(self._file, self.path)
        self._file.close()
        sync_folder(self.folder)
        return Part(self.meant_for, self.rows, self._sink.n_bytes, self._sink.sha256.hexdigest())

    def keep(self) -> None:
        """The manifest names the file now."""
        self._is_kept = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sink.is_unwanted = True  # pyarrow writes a footer when a writer is given up, too
        if self._writer is not None:
            self._writer.close()
        self._file.close()
        self.temporary.unlink(missing_ok=True)
        if not self._is_kept:
            self.path.unlink(missing_ok=True)


def read_batches(path: Path, schema: pa.Schema, columns: Sequence[str], batch_rows: int = 16_384) -> Iterator[pa.Table]:
    """The rows of a part in file order, a few at a time, page checksums verified; columns it was written without are
    null.

    Raises LakeError, naming the file, if it is missing, torn, damaged or of another table.
    """
    wanted = pa.schema([schema.field(name) for name in columns])
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            names = set(file.schema_arrow.names)
            stored = [name for name in columns if name in names]
            row_bytes = _column_bytes(file.metadata, stored) / max(1, file.metadata.num_rows)
            rows = max(1, min(batch_rows, int(BATCH_BYTES / max(1.0, row_bytes))))
            for batch in file.iter_batches(rows, columns=stored, use_threads=False):
                yield _conformed(path, pa.Table.from_batches([batch]), wanted)
    except FileNotFoundError:
        raise LakeError(f"{path}: missing, though the manifest names it. {_RESTORE}") from None
    except (OSError, pa.ArrowException) as error:
        raise LakeError(f"{path}: torn or damaged: {error}. Restore it from a backup.") from error


def unpacked_bytes(path: Path, columns: Sequence[str]) -> int:
    """Size of these columns of a part. LakeError as `read_batches`."""
    return _column_bytes(_footer(path), columns)


def columns_of(path: Path) -> list[str]:
    """Names of a part's columns. LakeError as `read_batches`."""
    names: list[str] = _footer(path).schema.to_arrow_schema().names
    return names


def _footer(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except FileNotFoundError:
        raise LakeError(f"{path}: missing, though the manifest names it. {_RESTORE}") from None
    except (OSError, pa.ArrowException) as error:
        raise LakeError(f"{path}: torn or damaged: {error}. Restore it from a backup.") from error


def _column_bytes(about: pq.FileMetaData, columns: Sequence[str]) -> int:
    wanted = set(columns)
    return sum(
        column.total_uncompressed_size
        for group in map(about.row_group, range(about.num_row_groups))
        for column in map(group.column, range(group.num_columns))
        if column.path_in_schema.partition(".")[0] in wanted
    )


def _conformed(path: Path, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    try:
        return conform(rows, schema)
    except LakeError as error:
        raise LakeError(f"{path}: not a part of this table: {error}. Restore it from a backup.") from error


def check_footer(path: Path, schema: pa.Schema) -> str | None:
    """What is wrong with a part at a first look, or None: missing, no Parquet file, or one with other columns."""
    try:
        _conformed(path, pq.read_schema(path).empty_table(), schema)
    except FileNotFoundError:
        return f"{path}: missing, though the manifest names it. {_RESTORE}"
    except (OSError, pa.ArrowException) as error:
        return f"{path}: torn or damaged: {error}. Restore it from a backup."
    except LakeError as error:
        return str(error)
    return None


def check_part(path: Path, part: Part, schema: pa.Schema) -> str | None:
    """What is wrong with a part's file, or None. Reads all of it: size, sha256, page checksums, columns, rows."""
    try:
        rows = sum(batch.num_rows for batch in read_batches(path, schema, schema.names))
    except LakeError as error:
        return str(error)
    if rows != part.rows:
        return f"{path}: {rows} rows, the manifest says {part.rows}"
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != part.sha256:
            return f"{path}: sha256 differs from the manifest: the file was changed after it was committed"
    return None


def is_inside(path: Path, root: Path) -> bool:
    """False where a link on the way leads out of the lake."""
    return path.resolve().is_relative_to(root.resolve())


def check_schema_file(path: Path, table: StoredTable, *, is_of_today: bool = False) -> str | None:
    """What is wrong with a table's file without rows, or None. With `is_of_today`, to be missing or to have the columns
    of another version of this program is wrong too: harmless, and the next commit writes the file anew."""
    try:
        stored = pq.read_schema(path)
    except FileNotFoundError:
        return f"{path}: missing" if is_of_today else None
    except (OSError, pa.ArrowException) as error:
        return f"{path}: torn or damaged: {error}. Delete it; the next run writes it anew."
    if is_of_today and not stored.equals(_as_read_back(table.schema), check_metadata=True):
        return f"{path}: has the columns of another version of this program"
    if (stored.metadata or {}).get(b"table") != table.name.encode():
        return f"{path}: not the schema of table {table.name}. Delete it; the next run writes it anew."
    return None


def _as_read_back(schema: pa.Schema) -> pa.Schema:
    """A declared schema as Parquet gives it back: it names the items of a list `element`, where Arrow says `item`."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    return pq.read_schema(pa.BufferReader(sink.getvalue()))
