"""What an exception comes down to: its cause in one message, for the person who must act.

Work in parallel ends in groups of exceptions, groups of groups where a shard failed inside a run, and libraries wrap
what the system said. One of all these is what happened; the others follow from it.
"""

import asyncio
import errno
import os
import sqlite3
from typing import Final

from r2.errors import ConfigError, R2Error

GO_ON: Final = "Nothing is lost: the same command goes on where it stopped."
_ADVICE: Final = {
    errno.ENOSPC: f"Make room on the disk. {GO_ON}",
    errno.EDQUOT: f"Make room within the quota. {GO_ON}",
    errno.EROFS: "Name a place that can be written, or make this one so.",
    errno.EACCES: "Give this user the right to it, or name another place.",
    errno.EPERM: "Give this user the right to it, or name another place.",
    errno.ENOENT: "It was moved or deleted while this command needed it. Put it back and run the command again.",
    errno.EMFILE: f"Raise the limit (`ulimit -n`), or lower --max-in-flight. {GO_ON}",
    errno.EIO: "The disk or the connection to it is failing: check it, and then the lake with `r2 lake verify`.",
}
"""Error number of the system -> what to do."""
_OF_PREFECTS_CLIENT: Final = ("prefect", "httpx", "httpcore", "websockets")
_BUG: Final = "This is a bug, here or in a package: please report it with what --debug adds to the same command."


def cause(error: BaseException) -> BaseException:
    """The one exception to tell of: out of groups the first of ours, else the first that is no mere cancellation; and
    what it was raised from where that is an error of ours or of the system."""
    leaves = list(_leaves(error))
    ours = [leaf for leaf in leaves if isinstance(leaf, R2Error)]
    real = [leaf for leaf in leaves if not isinstance(leaf, asyncio.CancelledError)]
    found = (ours or real or leaves)[0]
    while not isinstance(found, R2Error | OSError) and isinstance(found.__cause__, R2Error | OSError):
        found = found.__cause__
    return found


def message(error: BaseException) -> str:
    """One message: the thing, the place, what happened, the next move."""
    found = cause(error)
    if isinstance(found, R2Error):
        return str(found)
    if isinstance(found, MemoryError):
        return f"memory is used up. Lower --max-in-flight, or end other programs. {GO_ON}"
    if isinstance(found, OSError) and found.errno is not None:
        what = f"{_place(found)}{os.strerror(found.errno).lower()}."
        return f"{what} {_ADVICE.get(found.errno, GO_ON)}"
    package = type(found).__module__.partition(".")[0]
    if package in _OF_PREFECTS_CLIENT:
        return f"Prefect's API was lost: {_sentence(found)} What was done is kept: the same command goes on from there."
    if isinstance(found, OSError | sqlite3.Error) or package in ("duckdb", "_duckdb"):
        return f"{_sentence(found)} {GO_ON}"
    return f"{_sentence(found)} {_BUG}"


def exit_code(error: BaseException) -> int:
    """2 where the command, a file or a flag is wrong, 1 for everything else."""
    return 2 if isinstance(cause(error), ConfigError) else 1


def is_transient(error: object) -> bool:
    """True where the same work may succeed if it is simply done again: what the tree in `r2/errors.py` calls so."""
    found = cause(error) if isinstance(error, BaseException) else None
    return isinstance(found, R2Error) and found.transient


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


def _place(error: OSError) -> str:
    """The file it was about, or, where a library names none, what the library said."""
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: "
    said = (error.strerror or "").partition(" Detail: ")[0].rstrip(".")  # pyarrow adds the system's own words
    return f"{said}: " if said and said != os.strerror(error.errno or 0) else ""


def _sentence(error: BaseException) -> str:
    """Type and first line of an exception that is not ours."""
    text = str(error).strip()
    first = text.splitlines()[0].rstrip(".") if text else "no message"
    return f"{type(error).__name__}: {first}."
