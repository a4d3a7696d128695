"""The lines of somebody's text file, gzipped or not, in bounded memory and bounded work.

A line that is too long is skipped without being held. What could only be meant to keep a reader busy, a gzip file that
unpacks to hundreds of times its size or a million blank lines in a row, ends the reading with a message.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from r2.errors import InputFileError

MAX_LINE_BYTES = 4 * 1024 * 1024
"""A longer line is a bad row: no model of the pools we know reads 4 MiB, and one such line must not fill the memory."""
MAX_BLANK_LINES = 1_000_000
"""In a row."""
MAX_RATIO, FREE_BYTES = 250, 256 * 1024 * 1024
"""A gzip file may unpack to so many times its size, and to so many bytes in any case. Question files that repeat their
instructions in every row reach about 50 times; a bomb, 1,000."""
_PIECE_BYTES = 1024 * 1024
_UNREADABLE = (OSError, EOFError, zlib.error)


@dataclass(frozen=True, slots=True)
class LongLine:
    """A line over the limit, of which nothing else is known."""

    n_bytes: int

    def __str__(self) -> str:
        return f"{self.n_bytes} bytes; a row may have {MAX_LINE_BYTES}"


def read_lines(path: Path) -> Iterator[tuple[int, bytes | LongLine]]:
    """(1-based number, line without its end). InputFileError for a file that cannot be read as a whole."""
    try:
        with closing(_open(path)) as file:
            yield from _lines(path, file)
    except _UNREADABLE as error:
        raise InputFileError(f"{path}: cannot be read: {error}. {_advice(path, error)}") from error


def read_pieces(path: Path) -> Iterator[bytes]:
    """The file's bytes in pieces of a megabyte, whatever its lines are. Errors as `read_lines`."""
    try:
        with closing(_open(path)) as file:
            n_bytes, most = 0, _most(path)
            while piece := file.read(_PIECE_BYTES):
                if not n_bytes:
                    piece = _without_mark(path, piece)
                n_bytes += len(piece)
                _check_size(path, n_bytes, most)
                yield piece
    except _UNREADABLE as error:
        raise InputFileError(f"{path}: cannot be read: {error}. {_advice(path, error)}") from error


def in_utf8(path: Path, encoding: str = "CP1252") -> str:
    """The command that writes the file in UTF-8."""
    if path.suffix == ".gz":
        inside = Path(path.stem)
        return f"gunzip -c {path.name} | iconv -f {encoding} -t UTF-8 > {inside.stem}.utf8{inside.suffix}"
    return f"iconv -f {encoding} -t UTF-8 {path.name} > {path.stem}.utf8{path.suffix}"


def _advice(path: Path, error: BaseException) -> str:
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return f"The file is cut or damaged; `gunzip -t {path.name}` says so too. Get it anew."
    return "Check the path and its permissions."


def _most(path: Path) -> int | None:
    return max(FREE_BYTES, MAX_RATIO * path.stat().st_size) if path.suffix == ".gz" else None


def _lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, bytes | LongLine]]:
    number = n_blank = n_bytes = 0
    most = _most(path)
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        size = len(raw)
        is_long = size > MAX_LINE_BYTES and not raw.endswith(b"\n")
        while is_long and (rest := file.readline(MAX_LINE_BYTES)):
            size += len(rest)
            _check_size(path, n_bytes + size, most)
            if rest.endswith(b"\n"):
                break
        n_bytes += size
        _check_size(path, n_bytes, most)
        if number == 1:
            raw = _without_mark(path, raw)
        if is_long:
            yield number, LongLine(size)
            continue
        line = raw.rstrip(b"\r\n")
        n_blank = 0 if line else n_blank + 1
        if n_blank > MAX_BLANK_LINES:
            raise InputFileError(
                f"{path}: {MAX_BLANK_LINES} blank lines in a row before line {number}. That is no question file; take "
                "the blank lines out."
            )
        yield number, line


def _check_size(path: Path, n_bytes: int, most: int | None) -> None:
    if most is not None and n_bytes > most:
        raise InputFileError(
            f"{path}: unpacks to more than {most >> 20} MB, over {MAX_RATIO} times its size. Where you trust it, "
            f"unpack it first: gunzip -k {path.name}"
        )


def _without_mark(path: Path, first: bytes) -> bytes:
    """The first line without its byte order mark. InputFileError for UTF-16."""
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputFileError(f"{path}: the file is UTF-16. Convert it first: {in_utf8(path, 'UTF-16')}")
    return first.removeprefix(b"\xef\xbb\xbf")


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")
