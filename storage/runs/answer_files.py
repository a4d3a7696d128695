"""Rows of answers as a file. Its ending says the form: JSON lines, CSV, TSV or Parquet, all but Parquet also with .gz.

A row is a dictionary: the user's columns and ours (`answers.py`).
"""

import csv
import gzip
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from r2.atomic import replacing
from r2.errors import ConfigError

Field = tuple[str, pa.DataType]
JSON_LINES: Final = (".jsonl", ".ndjson", ".json")
_FORMS: Final = (*JSON_LINES, ".csv", ".tsv", ".parquet")
_BATCH_CHARACTERS = 16 * 1024 * 1024
"""Of a Parquet row group that is held until it is written."""
_LOOK_AHEAD = 100
"""Rows of a CSV file that are read before its header is written."""


def form_of(path: Path) -> str:
    """The ending that says the form, in lower case, without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def check_form(path: Path, flag: str, *, is_batch: bool) -> None:
    """ConfigError, before anything is paid, for an ending that no file is written with."""
    form, is_zipped = form_of(path), path.name.lower().endswith(".gz")
    if form not in _FORMS or (form == ".parquet" and is_zipped):
        raise ConfigError(
            f"{flag} {path}: no answers are written in this form. Expected an ending of {', '.join(_FORMS)}; all but "
            "Parquet also with .gz."
        )
    if is_batch and form not in JSON_LINES:
        raise ConfigError(f"{flag} {path}: the answers to an OpenAI Batch file are JSON lines. Name a .jsonl file.")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` at the end; zipped where its name ends in .gz."""
    with replacing(path) as file:
        if not path.name.lower().endswith(".gz"):
            yield file
            return
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped:
            yield cast("BinaryIO", zipped)


def write_rows(
    path: Path, rows: Iterable[dict[str, Any]], further: Sequence[Field], shown: Mapping[str, str] | None = None
) -> None:
    """Writes the rows, in one step. `further` are our columns beside those of every file, `shown` their names in the
    rows where they are not called so."""
    form = form_of(path)
    with opened(path) as file:
        if form in (".csv", ".tsv"):
            _write_csv(file, rows, "\t" if form == ".tsv" else ",")
        elif form == ".parquet":
            _write_parquet(file, rows, further, shown or {})
        else:
            has_values = "value" in [name for name, _ in further]
            _write_jsonl(file, rows, (shown or {}).get("value", "value") if has_values else None)


def _write_jsonl(file: BinaryIO, rows: Iterable[dict[str, Any]], value: str | None = None) -> None:
    """`value`: the name of our column that is written as the JSON value it holds, if there is one."""
    for row in rows:
        if value is not None and row[value] is not None:
            row[value] = orjson.Fragment(row[value].encode())
        file.write(orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE))


def _write_csv(file: BinaryIO, rows: Iterable[dict[str, Any]], delimiter: str) -> None:
    """Columns are those of the first rows: a CSV input has the same ones throughout, but for rows that could not be
    read. Lists and objects go in as JSON text."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, delimiter=delimiter)
    rows = iter(rows)
    first = list(islice(rows, _LOOK_AHEAD))
    longest_first: list[dict[str, Any]] = sorted(first, key=len, reverse=True)
    columns = list(dict.fromkeys(chain.from_iterable(longest_first)))
    if first:
        writer.writerow(columns)
    for row in chain(first, rows):
        writer.writerow([_cell(row.get(column)) for column in columns])
    text.detach()  # flushes, and leaves the file open


def _cell(value: object) -> object:
    """A number as decimals, 0.000012 and never 1.2e-05; a list or an object as JSON."""
    if isinstance(value, float) and 0 < abs(value) < 1e15:
        return format(Decimal(repr(value)), "f")
    return value if isinstance(value, (str, int, float, type(None))) else _json(value)


def _write_parquet(
    file: BinaryIO, rows: Iterable[dict[str, Any]], further: Sequence[Field], shown: Mapping[str, str]
) -> None:
    """Fixed columns, under our own names; the user's columns under theirs, together as JSON text in `extra`."""
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("question", pa.string()),
            ("status", pa.string()),
            ("answer", pa.string()),
            ("finish", pa.string()),
            ("target", pa.string()),
            ("is_correct", pa.bool_()),
            ("cost_usd", pa.float64()),
            ("saved_usd", pa.float64()),
            ("n_calls", pa.int32()),
            ("error_type", pa.string()),
            ("error_message", pa.string()),
            *further,
            ("extra", pa.string()),
        ]
    )
    names = [name for name in schema.names if name != "extra"]  # which may be a column of the user's
    ours = {name: shown.get(name, name) for name in names}
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        n_characters = 0
        for row in rows:
            fixed = {name: row.get(ours[name]) for name in names}
            fixed |= {
                name: _json(fixed[name]) for name in ("answers", "logprobs", "models") if fixed.get(name) is not None
            }
            fixed["extra"] = _json({key: value for key, value in row.items() if key not in ours.values()})
            batch.append(fixed)
            n_characters += sum(len(value) for value in fixed.values() if isinstance(value, str))
            if len(batch) == 4096 or n_characters >= _BATCH_CHARACTERS:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                batch.clear()
                n_characters = 0
        writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def _json(value: object) -> str:
    return orjson.dumps(value, default=str).decode()
