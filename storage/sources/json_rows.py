"""The rows of a JSON file: one object per line, or one array of objects, which most data sets call .json.

Both are read one row at a time, in bounded memory. What is no row comes as the `RowError` that says why, and the rows
after it are read.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from r2.errors import InputFileError
from storage.sources.lines import MAX_LINE_BYTES, LongLine, in_utf8, read_lines, read_pieces
from storage.sources.values import RawRow, RowError, as_cp1252

_MARK: Final = re.compile(rb'["\[\]{},]')
_IN_TEXT: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""The inside of a quoted text, as far as there is some."""


def json_rows(path: Path) -> Iterator[RawRow]:
    """(line, row), or (place in the array, row). InputFileError for an array that is broken off: nobody could say where
    its next row begins."""
    return _array_rows(path) if _is_array(path) else _line_rows(path)


def _line_rows(path: Path) -> Iterator[RawRow]:
    for line, raw in read_lines(path):
        if isinstance(raw, LongLine) or raw.strip():
            yield line, _row_of(path, raw, "line")


def _array_rows(path: Path) -> Iterator[RawRow]:
    try:
        for place, raw in enumerate(_elements(read_pieces(path)), start=1):
            yield place, _row_of(path, raw, "row")
    except ValueError as error:
        raise InputFileError(
            f"{path}: no whole JSON array: {error}. Expected [{{...}}, ...], or one object per line. "
            f"This says where it breaks: jq empty {path.name}"
        ) from None


def _row_of(path: Path, raw: bytes | LongLine, what: str) -> dict[str, Any] | RowError:
    if isinstance(raw, LongLine):
        return RowError("line_too_long", str(raw))
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        where = f"not valid UTF-8 at byte {error.start} of the {what}{as_cp1252(raw[error.start])}"
        return RowError("bad_encoding", f"{where}. Convert the file: {in_utf8(path)}")
    if b"\x00" in raw:
        return RowError("nul_character", f"the {what} holds a NUL byte")
    try:
        row = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        kind = "bad_encoding" if "surrogate" in str(error) else "bad_json"
        return RowError(kind, f"not valid JSON: {error}")
    return row if isinstance(row, dict) else RowError("bad_json", f"expected a JSON object, got {type(row).__name__}")


def _is_array(path: Path) -> bool:
    """The file begins with a bracket, and its first line is not a whole value with others after it."""
    if not next(read_pieces(path), b"").lstrip().startswith(b"["):
        return False
    lines = (raw for _, raw in read_lines(path) if isinstance(raw, LongLine) or raw.strip())
    first = next(lines, b"")
    if isinstance(first, LongLine):
        return True
    try:
        orjson.loads(first)
    except orjson.JSONDecodeError:
        return True
    return next(lines, None) is None


def _elements(pieces: Iterable[bytes]) -> Iterator[bytes | LongLine]:
    """The texts between the commas of the outer array. ValueError, in words for people, where it is not whole."""
    held = bytearray()
    begin = at = depth = n_left_out = 0  # the present element begins at `begin`, and is looked at from `at` on
    is_in_text = is_over = has_any = False

    def element(end: int) -> bytes | LongLine:
        n_bytes = n_left_out + end - begin
        return LongLine(n_bytes) if n_bytes > MAX_LINE_BYTES else bytes(held[begin:end]).strip()

    for piece in pieces:
        held += piece
        while at < len(held) and not is_over:
            if is_in_text:
                at = _end_of_text(held, at)
                if at == len(held) or held[at : at + 1] == b"\\":  # goes on in the next piece
                    break
                at, is_in_text = at + 1, False
                continue
            found = _MARK.search(held, at)
            if found is None:
                at = len(held)
                break
            mark, at = found.group(), found.end()
            if mark == b'"':
                is_in_text = True
            elif mark in (b"[", b"{"):
                depth += 1
                begin = at if depth == 1 else begin
            elif mark != b",":
                depth -= 1
                if is_over := depth == 0:
                    last = element(found.start())
                    if last or has_any:
                        yield last
                    begin = at
            elif depth == 1:
                yield element(found.start())
                begin, n_left_out, has_any = at, 0, True
        if at - begin > MAX_LINE_BYTES:  # too long, and never held whole
            n_left_out += at - begin
            begin = at
        del held[:begin]
        at, begin = at - begin, 0
        if is_over and held.strip():
            raise ValueError("something stands after its end")
    if not is_over:
        raise ValueError("it has no end")


def _end_of_text(held: bytearray, at: int) -> int:
    found = _IN_TEXT.match(held, at)
    return at if found is None else found.end()
