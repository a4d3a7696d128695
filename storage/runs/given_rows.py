"""Rows that a program gives as a list: kept in the lake as a question file named by its content, so that the same rows
are the same run; and an answers file as an Arrow table."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from r2.atomic import write_atomically
from storage.lake.manifest import make_folder

AnswersTable: TypeAlias = pa.Table


def keep_rows(rows: Iterable[Mapping[str, object]], lake: Path) -> Path:
    """The rows as a JSONL file in the lake. TypeError for a value that JSON does not have."""
    content = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    folder = lake / "_rows"
    make_folder(folder)
    path = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    if not path.exists():
        write_atomically(path, content)
    return path


def read_answers(path: Path) -> AnswersTable:
    """An answers file that was written as Parquet."""
    table: AnswersTable = pq.read_table(path)
    return table
