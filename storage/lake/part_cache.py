"""Copies of a bucket's parts on this machine: the least recently used go when they pass a size.

Parts never change and no two have a name in common, so a copy is right for ever. What was used within the last hour
stays whatever the size, for a query may have it open: a query that needs more than the size gets it.
"""

import os
import time
from pathlib import Path
from typing import Final

from r2.errors import ConfigError

SIZE: Final = "R2_LAKE_CACHE_GB"
"""The variable that sets the size, for each lake."""
DEFAULT_GB: Final = 20.0
_IN_USE_S: Final = 3600.0
_LOOKS: Final = 20
"""Times that the folder is looked through while a size of copies comes."""

_new_bytes: dict[Path, int] = {}
"""Since the folder was last looked through; the first time counts as full."""


def used(path: Path) -> None:
    """Notes that a copy is wanted now."""
    os.utime(path)


def size_bytes() -> int:
    """How much may stay. ConfigError for a variable that is no size."""
    text = os.environ.get(SIZE, "") or str(DEFAULT_GB)
    try:
        size = float(text)
        if not 0 <= size < float("inf"):
            raise ValueError
    except ValueError:
        raise ConfigError(f"{SIZE}={text}: expected gigabytes, as 20.") from None
    return int(size * 1e9)


def make_room(root: Path, n_bytes: int) -> None:
    """Called after some bytes came: removes what is too much, the least recently used first."""
    limit = size_bytes()
    _new_bytes[root] = _new_bytes.get(root, limit) + n_bytes
    if _new_bytes[root] < limit / _LOOKS:
        return
    _new_bytes[root] = 0
    found = []
    for path in [*root.glob("_parts/*/*/*.parquet"), *root.glob("*/*.compact-*.parquet")]:
        try:
            about = path.stat()
        except FileNotFoundError:  # another process was faster
            continue
        found.append((about.st_mtime, about.st_size, path))
    total, now = sum(size for _, size, _ in found), time.time()
    for used_at, size, path in sorted(found):
        if total <= limit or now - used_at < _IN_USE_S:
            return
        path.unlink(missing_ok=True)
        total -= size
