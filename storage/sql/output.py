"""A query's result as text for people (table), spreadsheets (csv), programs (json) or other engines (parquet),
streamed.

Rows hold what models and question files wrote. A terminal is shown what would steer it as escapes (`visible`), and a
spreadsheet gets what it would take for a formula as text. Files of json and parquet hold every value as it is stored.
"""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, BinaryIO

import duckdb
import orjson
import pyarrow.parquet as pq

from r2.errors import ConfigError
from storage.sql.columns import laid_out
from storage.sql.visible import visible, visible_json

_CHUNK = 10_000
TABLE_ROWS = 200
"""Rows that a terminal is shown; the other formats have no limit."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Who the output is for. `is_terminal`: what would steer a terminal is shown, in every format. `width`: columns of
    the terminal that a table is to fit; None for any."""

    is_terminal: bool = False
    width: int | None = None
    keep_formulas: bool = False
    """Texts in csv that a spreadsheet would compute stay as they are."""


FILE = Reader()


def write_table(connection: duckdb.DuckDBPyConnection, sql: str, out: BinaryIO, reader: Reader) -> int:
    """Aligned columns, numbers to the right, or the rows one below the other where these do not fit the reader's width;
    at most `TABLE_ROWS` rows and a line that says so. Returns the rows shown."""
    result, names = _run(connection, sql)
    rows = result.fetchmany(TABLE_ROWS + 1)
    shown = rows[:TABLE_ROWS]
    is_number = [all(isinstance(row[i], int | float | Decimal | None) for row in shown) for i in range(len(names))]
    cells = [[_cell(value) for value in row] for row in shown]
    out.write(laid_out([_one_line(name) for name in names], cells, is_number, reader.width).encode("utf-8", "replace"))
    if len(rows) > TABLE_ROWS:
        out.write(
            (
                f"... the first {TABLE_ROWS} rows; add a LIMIT, or take them all with --format csv, json or parquet\n"
            ).encode()
        )
    return len(shown)


def write_csv(connection: duckdb.DuckDBPyConnection, sql: str, out: BinaryIO, reader: Reader) -> int:
    """RFC 4180 with a header; null is empty, times are ISO 8601, lists and structs are JSON.

    Texts that a spreadsheet would compute (they begin with =, +, -, @, a tab or a line end, and are no numbers) get an
    apostrophe before them, unless the reader keeps formulas.
    """
    result, names = _run(connection, sql)
    text = io.TextIOWrapper(out, "utf-8", newline="", write_through=True)

    def field(value: Any) -> Any:
        flat = _flat(value)
        if isinstance(flat, str):
            flat = flat if reader.keep_formulas else _without_formula(flat)
            flat = visible(flat) if reader.is_terminal else flat
        return flat

    n = 0
    try:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(map(field, names))
        for rows in _chunks(result):
            writer.writerows(map(field, row) for row in rows)
            n += len(rows)
    finally:
        text.detach()  # or the wrapper would close `out`, which is the caller's
    return n


def write_json(connection: duckdb.DuckDBPyConnection, sql: str, out: BinaryIO, reader: Reader) -> int:
    """One JSON array with one object a line; times are ISO 8601, bytes are text, NaN is null."""
    result, names = _run(connection, sql)
    n = 0
    for rows in _chunks(result):
        for row in rows:
            out.write(b",\n" if n else b"[\n")
            line = orjson.dumps(dict(zip(names, row, strict=True)), default=_plain)
            out.write(visible_json(line.decode()).encode() if reader.is_terminal else line)
            n += 1
    out.write(b"\n]\n" if n else b"[]\n")
    return n


def write_parquet(connection: duckdb.DuckDBPyConnection, sql: str, out: BinaryIO, reader: Reader) -> int:
    """One Parquet file, zstd, with DuckDB's types. ConfigError for a terminal."""
    if reader.is_terminal:
        raise ConfigError("--format parquet is not for a terminal. Give a file: --out FILE.")
    rows = connection.sql(sql).to_arrow_reader(_CHUNK)
    n = 0
    with pq.ParquetWriter(out, rows.schema, compression="zstd") as writer:
        for batch in rows:
            writer.write_batch(batch)
            n += batch.num_rows
    return n


FORMATS: dict[str, Callable[[duckdb.DuckDBPyConnection, str, BinaryIO, Reader], int]] = {
    "table": write_table,
    "csv": write_csv,
    "json": write_json,
    "parquet": write_parquet,
}


def _run(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[duckdb.DuckDBPyConnection, list[str]]:
    """The running query and its column names."""
    result = connection.execute(sql)
    return result, [column[0] for column in result.description or ()]


def _chunks(result: duckdb.DuckDBPyConnection) -> Iterator[list[Any]]:
    while rows := result.fetchmany(_CHUNK):
        yield rows


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.6g}"
    return _one_line(str(_flat(value)))


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))


def _without_formula(text: str) -> str:
    if not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def _flat(value: Any) -> Any:
    if isinstance(value, list | dict | tuple):
        return orjson.dumps(value, default=_plain).decode()
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return _plain(value)
    return value


def _plain(value: Any) -> Any:
    """What JSON has no name for: bytes as text, other numbers as numbers, the rest as written."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return float(value) if isinstance(value, Decimal | int) else str(value)
