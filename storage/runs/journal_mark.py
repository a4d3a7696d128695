"""The mark beside a call journal: what is known to be in it, so that a journal which was cut says what it lost.

`00042.journal.mark` holds the length of `00042.journal` and the number of its stored calls as of a sync, and how many
calls were open and what all of them may have cost. It is written after a sync, and where more calls are on their way
than it says; never synced itself: it may be behind the journal, never ahead of it. A journal that is shorter than its
mark has lost calls that were paid for.
"""

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from r2.atomic import write_atomically

_MARK = struct.Struct("<4sQQQQd")
_MAGIC = b"R2M\x02"
_OLD_MARK = struct.Struct("<4sQQ")
_OLD_MAGIC = b"R2M\x01"
"""Of marks with the first two numbers alone."""


class Known(NamedTuple):
    """`end` is the length in bytes that was synced, `n_calls` the calls that were stored in it.

    `written` is the length with what was not synced yet, `n_open` the most calls that were begun in it and not stored,
    `most_usd` what was paid for all of them, open ones at the most that they may have cost.
    """

    end: int
    n_calls: int
    written: int = 0
    n_open: int = 0
    most_usd: float = 0.0


class JournalMark:
    """The mark of one open journal."""

    def __init__(self, journal: Path) -> None:
        self._path = mark_of(journal)
        self._descriptor: int | None = None

    def write(self, known: Known) -> None:
        """A disk that refuses is the journal's to tell of."""
        with contextlib.suppress(OSError):
            if self._descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o600)
            os.pwrite(self._descriptor, _packed(known), 0)

    @property
    def is_written(self) -> bool:
        """By this session."""
        return self._descriptor is not None

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def mark_of(journal: Path) -> Path:
    """Where a journal's mark is."""
    return journal.with_name(f"{journal.name}.mark")


def read_mark(journal: Path) -> Known:
    """What is known of a journal; nothing (0, 0) for one without a mark, or with one that is torn."""
    try:
        stored = mark_of(journal).read_bytes()
        packed = stored[:-4]
        is_whole = stored[-4:] == _crc(packed)
        if is_whole and stored.startswith(_MAGIC):
            return Known(*_MARK.unpack(packed)[1:])
        if is_whole and stored.startswith(_OLD_MAGIC):
            _, end, n_calls = _OLD_MARK.unpack(packed)
            return Known(end, n_calls, written=end)
    except (OSError, struct.error):
        return Known(0, 0)
    return Known(0, 0)


def replace_mark(journal: Path, known: Known) -> None:
    """The mark of a journal that is about to be replaced by a shorter one."""
    write_atomically(mark_of(journal), _packed(known))


def remove_journal(journal: Path) -> None:
    """Removes a journal that nobody needs any more, its mark first: a mark alone would say that calls were lost."""
    mark_of(journal).unlink(missing_ok=True)
    journal.unlink(missing_ok=True)


def _packed(known: Known) -> bytes:
    packed = _MARK.pack(_MAGIC, *known)
    return packed + _crc(packed)


def _crc(packed: bytes) -> bytes:
    return zlib.crc32(packed).to_bytes(4, "little")
