"""The rows of a JSONL, CSV or Parquet file as they are written, one at a time, in bounded memory.

A line that is no row comes as the `RowError` that says why, and the lines after it are read. What makes the whole file
unreadable (a header that names a column twice) raises InputFileError.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from r2.errors import InputFileError
from storage.sources.lines import MAX_LINE_BYTES, LongLine, read_lines
from storage.sources.parquet_rows import parquet_rows
from storage.sources.values import RowError

RawRow = tuple[int, dict[str, Any] | RowError]


def json_rows(path: Path) -> Iterator[RawRow]:
    """One object per line; blank lines are no rows."""
    for line, raw in read_lines(path):
        if isinstance(raw, LongLine):
            yield line, RowError("line_too_long", str(raw))
            continue
        if not raw.strip():
            continue
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            yield line, RowError("bad_encoding", f"not valid UTF-8 at byte {error.start} of the line")
            continue
        if b"\x00" in raw:
            yield line, RowError("nul_character", "the line holds a NUL byte")
            continue
        try:
            row = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            kind = "bad_encoding" if "surrogate" in str(error) else "bad_json"
            yield line, RowError(kind, f"not valid JSON: {error}")
            continue
        yield (
            line,
            row if isinstance(row, dict) else RowError("bad_json", f"expected a JSON object, got {type(row).__name__}"),
        )


def check_is_lines(path: Path) -> None:
    """InputFileError, with the command that helps, for one JSON array: what most data sets call .json."""
    lines = (raw for _, raw in read_lines(path) if isinstance(raw, LongLine) or raw.strip())
    first = next(lines, b"")
    if isinstance(first, LongLine) or not first.lstrip().startswith(b"["):
        return
    try:
        orjson.loads(first)
        is_array = next(lines, None) is None
    except orjson.JSONDecodeError:
        is_array = True
    if is_array:
        raise InputFileError(
            f"{path}: one JSON array, not an object per line. Write it as lines: "
            f"jq -c '.[]' {path.name} > {path.stem}.lines.jsonl"
        )


def csv_rows(path: Path) -> Iterator[RawRow]:
    """Rows of a CSV or TSV file by the names of its header. Blanks around a name are no part of it."""
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _CsvLines(path)
    reader = csv.reader(lines, delimiter="\t" if ".tsv" in path.suffixes else ",", strict=True)
    header: list[str] | None = None
    while True:
        lines.n_bytes = 0
        try:
            fields = next(reader, None)
        except (csv.Error, RowError) as error:
            yield reader.line_num, error if isinstance(error, RowError) else RowError("bad_csv", str(error))
            continue
        line = reader.line_num
        if lines.too_long is not None:
            yield line, lines.too_long
            lines.too_long = None
        elif fields is None:
            return
        elif header is None:
            header = _header(path, line, fields)
        elif not fields:
            continue
        elif len(fields) != len(header):
            yield line, RowError("bad_csv", f"{len(fields)} fields where the header has {len(header)}")
        else:
            yield line, dict(zip(header, fields, strict=True))


def _header(path: Path, line: int, fields: list[str]) -> list[str]:
    """InputFileError for a name that stands twice: nobody could say which of the two columns is meant."""
    names = [name.strip() for name in fields]
    for name, n_times in Counter(names).items():
        if n_times > 1:
            raise InputFileError(
                f"{path}, line {line}: the header names {name!r} {n_times} times. Give every column a name of its own."
            )
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputFileError(
                f"{path}, line {line}: a column's name is not valid UTF-8. Convert the file: "
                f"iconv -f CP1252 -t UTF-8 {path.name} > {path.stem}.utf8{path.suffix}"
            ) from None
    return names


class _CsvLines:
    """The lines of a CSV file as text. Quoted line ends may spread a row over any number of lines: past the limit of a
    row it is bad, and the next line begins another."""

    def __init__(self, path: Path) -> None:
        self._lines = read_lines(path)
        self.n_bytes = 0
        """Of the lines given since this was set to 0."""
        self.too_long: RowError | None = None

    def __iter__(self) -> "_CsvLines":
        return self

    def __next__(self) -> str:
        _, raw = next(self._lines)
        if isinstance(raw, LongLine):
            self.too_long = RowError("line_too_long", str(raw))
            return ""
        self.n_bytes += len(raw) + 1
        if self.n_bytes > MAX_LINE_BYTES + 1:
            raise RowError(
                "line_too_long", f"a row of several lines, over {MAX_LINE_BYTES} bytes. Is a quote left open?"
            )
        # Escaped bytes come out as lone surrogates, which are named per row; one bad byte spoils one row.
        return raw.decode("utf-8", "surrogateescape") + "\n"


def parquet_file_rows(path: Path) -> Iterator[RawRow]:
    """Rows of a Parquet file, numbered from 1."""
    for row_number, row in enumerate(parquet_rows(path, MAX_LINE_BYTES), start=1):
        yield row_number, RowError("line_too_long", str(LongLine(row))) if isinstance(row, int) else row
