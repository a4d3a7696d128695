"""The child of `storage/sources/parquet_rows.py`: unpacks a Parquet file within a memory limit. Never imported by
anything.

    python parquet_child.py FILE BATCH_ROWS FIRST_ROW MEMORY_BYTES ROW_BYTES

Writes the rows from FIRST_ROW on as an Arrow stream of small batches. A batch without rows stands for one row that is
larger than ROW_BYTES; its metadata says how large. Exit code 3 with a message on stderr: the file cannot be read; 4:
not within the limit.
"""

import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PIECE_BYTES = 8 * 1024 * 1024


def main(path: str, batch_rows: int, first_row: int, memory_bytes: int, row_bytes: int) -> int:
    """The exit code."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        limit = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        _write(path, batch_rows, first_row, row_bytes)
    except MemoryError:
        return 4
    except BrokenPipeError:  # the reader has seen enough
        return 0
    except (pa.ArrowException, OSError) as error:
        sys.stderr.write(str(error)[:1000])
        return 3
    return 0


def _write(path: str, batch_rows: int, first_row: int, row_bytes: int) -> None:
    left = first_row
    sink: Any = None
    with pq.ParquetFile(path, pre_buffer=False) as file, pa.PythonFile(sys.stdout.buffer, "w") as out:
        schema = pa.schema([field.with_type(_plain(field.type)) for field in file.schema_arrow])
        sink = pa.ipc.new_stream(out, schema)
        for batch in file.iter_batches(batch_rows, use_threads=False):
            skipped = min(left, batch.num_rows)
            left -= skipped
            rows = batch.slice(skipped)
            for piece in _pieces(rows if batch.schema.equals(schema) else rows.cast(schema)):
                if piece.num_rows == 1 and piece.nbytes > row_bytes:
                    sink.write_batch(piece.slice(0, 0), custom_metadata={"row_bytes": str(piece.nbytes)})
                else:
                    sink.write_batch(piece)
        sink.close()


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in pieces that are small, or one row."""
    if batch.num_rows == 0:
        return
    if batch.num_rows == 1 or batch.nbytes <= PIECE_BYTES:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _pieces(batch.slice(0, half))
    yield from _pieces(batch.slice(half))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without dictionaries, in which one text may stand for any number of rows and still look small."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        field = kind.value_field.with_type(_plain(kind.value_type))
        return pa.list_(field) if pa.types.is_list(kind) else pa.large_list(field)
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([field.with_type(_plain(field.type)) for field in fields])
    return kind


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
