"""The rows of somebody's Parquet file, in bounded memory whatever the file says of itself.

A file of 3 KiB can hold one text of 16 MB a thousand times, or a page that unpacks to 2 GB, and its reader finds out by
unpacking it. So the unpacking is done in a child process with a limit on its memory (`parquet_child.py`), which hands
the rows over in small pieces. Where a thousand rows at a time are too many, fewer are tried, down to one.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from r2.errors import InputFileError
from storage.sources.lines import MAX_LINE_BYTES, LongLine
from storage.sources.values import RawRow, RowError

MEMORY_BYTES = 512 * 1024 * 1024
"""Of the child, beside what it needs to start."""
BATCH_ROWS = (1024, 64, 8, 1)
_CHILD = Path(__file__).with_name("parquet_child.py")
_REFUSED, _TOO_LARGE = 3, 4
"""Exit codes of the child."""


def parquet_file_rows(path: Path) -> Iterator[RawRow]:
    """(number from 1, row) of a Parquet file."""
    for row_number, row in enumerate(parquet_rows(path, MAX_LINE_BYTES), start=1):
        yield row_number, RowError("line_too_long", str(LongLine(row))) if isinstance(row, int) else row


def parquet_rows(path: Path, row_bytes: int) -> Iterator[dict[str, Any] | int]:
    """Each row in order; the size in bytes of one that is larger than `row_bytes`, which is not held.

    Raises InputFileError where the file is no Parquet, or where a single row of it cannot be unpacked within the limit.
    """
    n_read = 0
    for batch_rows in BATCH_ROWS:
        with _child(path, batch_rows, n_read, row_bytes) as child:
            for row in _rows_from(child):
                n_read += 1
                yield row
            said, code = _said(child), child.wait()
        if code == 0:
            return
        if code == _REFUSED:
            raise InputFileError(f"{path}: not a readable Parquet file: {said}")
    raise InputFileError(
        f"{path}: row {n_read + 1} cannot be unpacked within {MEMORY_BYTES >> 20} MB of memory. Write the file anew "
        "with smaller pages, or leave that row out."
    )


@contextmanager
def _child(path: Path, batch_rows: int, first_row: int, row_bytes: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Ended with the block: a reader may have seen enough."""
    arguments = [path.resolve(), batch_rows, first_row, MEMORY_BYTES, row_bytes]
    child = subprocess.Popen(
        [sys.executable, "-I", str(_CHILD), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Memory is what is asked for, not what an allocator sets aside for later.
        env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"},
        start_new_session=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()


def _rows_from(child: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any] | int]:
    """What the child hands over until it ends, well or not: its exit code tells."""
    assert child.stdout is not None
    with contextlib.suppress(pa.ArrowException, OSError), pa.ipc.open_stream(child.stdout) as stream:
        while True:
            try:
                batch, about = stream.read_next_batch_with_custom_metadata()
            except StopIteration:
                return
            if about is not None:
                yield int(about[b"row_bytes"])
            else:
                yield from batch.to_pylist()


def _said(child: "subprocess.Popen[bytes]") -> str:
    assert child.stderr is not None
    return child.stderr.read(1000).decode("utf-8", "replace")
