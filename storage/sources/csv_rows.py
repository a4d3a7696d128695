"""The rows of a CSV or TSV file by the names of its header, one at a time, in bounded memory.

The delimiter is found by the header and by the rows that fit it. A row that cannot be read comes as the `RowError` that
says why, under the line on which it begins, and the lines after that one are read. A header that is no set of names
raises InputFileError.
"""

import csv
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from r2.errors import InputFileError
from storage.sources.lines import MAX_LINE_BYTES, LongLine, in_utf8, read_lines
from storage.sources.values import RawRow, RowError

DELIMITERS: Final = (",", ";", "\t", "|")
LOOK_AHEAD: Final = 50
"""Lines by which the delimiter is told."""
MAX_AGAIN_BYTES: Final = 64 * 1024 * 1024
"""What is read a second time in one file, behind quotes that are never closed."""
_SURE, _LIKELY = 0.9, 0.5
"""Shares of the rows that have as many fields as the header."""


def csv_rows(path: Path) -> Iterator[RawRow]:
    """(line, row). A good row has the number of its last line, a bad one that of its first. Blanks around a name are no
    part of it."""
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _CsvLines(path)
    reader = csv.reader(lines, delimiter=delimiter_of(path), strict=True)
    header: list[str] | None = None
    while True:
        lines.begin_row()
        try:
            fields = next(reader, None)
        except (csv.Error, RowError) as error:
            yield lines.first, _unreadable(lines, error)
            continue
        if lines.too_long is not None:
            yield lines.first, lines.too_long
        elif fields is None:
            return
        elif not fields:
            continue
        elif header is None:
            header = _header(path, lines.last, fields)
        elif len(fields) != len(header):
            said = f"{len(fields)} fields where the header has {len(header)}"
            yield lines.first, RowError("bad_csv", said, _as_far_as_it_goes(header, fields))
        else:
            yield lines.last, dict(zip(header, fields, strict=True))


def delimiter_of(path: Path) -> str:
    """The delimiter of the file's ending, unless the header has more than one name by another one alone, and the rows
    fit that header."""
    own = "\t" if ".tsv" in path.name.lower() else ","
    head = [
        raw.decode("utf-8", "surrogateescape")
        for _, raw in islice(read_lines(path), LOOK_AHEAD)
        if isinstance(raw, bytes) and raw.strip()
    ]
    fits = {delimiter: _fit(head, delimiter) for delimiter in (own, *DELIMITERS)}
    n_names, share = fits[own]
    if n_names > 1 and share >= _SURE:
        return own
    enough = _SURE if n_names > 1 else _LIKELY
    others = [(*fits[delimiter], delimiter) for delimiter in DELIMITERS if delimiter != own]
    return max(((n, fit, one) for n, fit, one in others if n > 1 and fit >= enough), default=(0, 0.0, own))[2]


def _fit(head: Sequence[str], delimiter: str) -> tuple[int, float]:
    """(names in the header, share of the rows after it that have as many fields)."""
    rows = csv.reader(iter(head), delimiter=delimiter)
    try:
        first, *others = [len(row) for row in rows]
    except (csv.Error, ValueError):
        return 0, 0.0
    return first, others.count(first) / len(others) if others else 1.0


def _header(path: Path, line: int, fields: list[str]) -> list[str]:
    """InputFileError unless every column has a name of its own: nobody could say which of two is meant.

    The first one may have none: it is the index that pandas writes.
    """
    names = [name.strip() for name in fields]
    for place, name in enumerate(names, start=1):
        if not name and place > 1:
            raise InputFileError(
                f"{path}, line {line}: column {place} of the header has no name. Give every column a name of its own."
            )
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputFileError(
                f"{path}, line {line}: a column's name is not valid UTF-8. Convert the file: {in_utf8(path)}"
            ) from None
    for name, n_times in Counter(names).items():
        if n_times > 1:
            raise InputFileError(
                f"{path}, line {line}: the header names {name!r} {n_times} times. Give every column a name of its own."
            )
    return names


def _as_far_as_it_goes(header: Sequence[str], fields: Sequence[str]) -> dict[str, object]:
    """The fields by the names of the header; those that it has no name for as `column <n>`."""
    more = [f"column {place}" for place in range(len(header) + 1, len(fields) + 1)]
    return dict(zip([*header, *more], fields, strict=False))


def _unreadable(lines: "_CsvLines", error: Exception) -> RowError:
    """Why the row cannot be read. The lines after its first are rows of their own again."""
    why = "the file ends" if "end of data" in str(error) else str(error)
    if lines.last == lines.first:
        return RowError("bad_csv", why.replace("the file ends", "a quote is opened and never closed"))
    last = lines.last
    passed_over = "" if lines.read_again() else f". Lines {lines.first + 1} to {last} are passed over"
    return RowError(
        getattr(error, "error_type", "bad_csv"),
        f"a quote that this row opens is not closed (line {last}: {why}). A quote within a quoted text is written twice"
        f"{passed_over}",
    )


class _CsvLines:
    """The lines of a CSV file as text, those of the present row kept.

    Quoted line ends may spread a row over any number of lines: past the limit of a row it is bad.
    """

    def __init__(self, path: Path) -> None:
        self._lines = read_lines(path)
        self._row: list[tuple[int, str | LongLine]] = []
        self._again: deque[tuple[int, str | LongLine]] = deque()
        self._n_bytes = self._n_again = 0
        self.too_long: RowError | None = None
        """The present row has a line over the limit."""

    @property
    def first(self) -> int:
        """Line on which the present row begins."""
        return self._row[0][0]

    @property
    def last(self) -> int:
        return self._row[-1][0]

    def begin_row(self) -> None:
        self._row = []
        self._n_bytes = 0
        self.too_long = None

    def read_again(self) -> bool:
        """The lines of the present row, but for its first, are given once more. False where that was done too often."""
        self._n_again += self._n_bytes
        if self._n_again > MAX_AGAIN_BYTES:
            return False
        self._again.extendleft(reversed(self._row[1:]))
        return True

    def __iter__(self) -> "_CsvLines":
        return self

    def __next__(self) -> str:
        if self._again:
            number, line = self._again.popleft()
        else:
            number, raw = next(self._lines)
            # Escaped bytes come out as lone surrogates, which are named per row; one bad byte spoils one row.
            line = raw if isinstance(raw, LongLine) else raw.decode("utf-8", "surrogateescape")
        self._row.append((number, line))
        if isinstance(line, LongLine):
            self.too_long = RowError("line_too_long", str(line))
            return ""
        self._n_bytes += len(line.encode("utf-8", "surrogateescape")) + 1
        if self._n_bytes > MAX_LINE_BYTES + 1:
            raise RowError("line_too_long", f"over {MAX_LINE_BYTES} bytes")
        return line + "\n"
