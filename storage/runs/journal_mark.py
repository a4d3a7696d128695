"""The mark beside a call journal: how much of it is known to be on disk, so that a journal which was cut says so.

`00042.journal.mark` holds the length of `00042.journal` and the number of its stored calls as of a sync. It is written
after the sync and never synced itself: it may be behind the journal, never ahead of it. A journal that is shorter than
its mark has lost calls that were safely stored, and paid for.
"""

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from r2.atomic import write_atomically

_MARK = struct.Struct("<4sQQ")
_MAGIC = b"R2M\x01"


class Known(NamedTuple):
    """`end` is the length in bytes that was synced, `n_calls` the calls that were stored in it."""

    end: int
    n_calls: int


class JournalMark:
    """The mark of one open journal."""

    def __init__(self, journal: Path) -> None:
        self._path = mark_of(journal)
        self._descriptor: int | None = None

    def write(self, known: Known) -> None:
        """Notes what a sync has just made durable. A disk that refuses is the journal's to tell of."""
        with contextlib.suppress(OSError):
            if self._descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o600)
            os.pwrite(self._descriptor, _packed(known), 0)

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
        magic, end, n_calls = _MARK.unpack_from(stored)
    except (OSError, struct.error):
        return Known(0, 0)
    known = Known(end, n_calls)
    return known if magic == _MAGIC and stored == _packed(known) else Known(0, 0)


def replace_mark(journal: Path, known: Known) -> None:
    """The mark of a journal that is about to be replaced by a shorter one."""
    write_atomically(mark_of(journal), _packed(known))


def remove_journal(journal: Path) -> None:
    """Removes a journal that nobody needs any more, its mark first: a mark alone would say that calls were lost."""
    mark_of(journal).unlink(missing_ok=True)
    journal.unlink(missing_ok=True)


def _packed(known: Known) -> bytes:
    packed = _MARK.pack(_MAGIC, *known)
    return packed + zlib.crc32(packed).to_bytes(4, "little")
