"""The command on a machine that fails it, as a program: `python -m benchmarks.torture.failing HOW N FOLDER WORDS...`

    full        from the N-th sync of a file below FOLDER on, the disk is full
    read_only   from the N-th file or folder that is opened to be written, made or renamed below FOLDER on, it is
                read-only
    short       no file may grow beyond N bytes: writes end in the middle, then fail
    clock       the clock that Python programs read jumps by up to a day, forwards and backwards, every 0.2 s

FOLDER.writes gets a byte for each such write.
"""

import builtins
import errno
import io
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

JUMPS_S = (0.0, 86_400.0, -3_600.0, -86_400.0, 7.0, -0.5)


class Writes:
    """Counts what would change the folder, and refuses it from the N-th on."""

    def __init__(self, number: int, last: int, folder: Path) -> None:
        self._number = number
        self.aim(last, folder)
        self._told = os.open(f"{folder}.writes", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def aim(self, last: int, folder: Path) -> None:
        """Counts anew, in this folder."""
        self._last, self._folder, self.n = last, str(folder), 0

    def meets(self, path: object) -> None:
        """OSError for a path below the folder once it is time."""
        try:
            place = os.path.realpath(os.fsdecode(path))  # type: ignore[call-overload]
        except (TypeError, ValueError):
            return
        if place.startswith(f"{self._folder}/") or place == self._folder:
            self.n += 1
            os.write(self._told, b".")
            if self.n >= self._last:
                raise OSError(self._number, os.strerror(self._number), place)


def fill_disk(writes: Writes) -> None:
    """Where Linux says of a file in its cache that there is no room for it: at its sync."""
    sync = os.fsync

    def full(descriptor: int) -> None:
        writes.meets(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    os.fsync = full


def forbid_writes(writes: Writes) -> None:
    real_os_open, real_open = os.open, io.open

    def os_open(path: Any, flags: int, *further: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            writes.meets(path)
        return real_os_open(path, flags, *further, **named)

    def opened(file: Any, mode: str = "r", *further: Any, **named: Any) -> Any:
        if set(mode) & set("wax+") and not isinstance(file, int):
            writes.meets(file)
        return real_open(file, mode, *further, **named)

    os.open, io.open, builtins.open = os_open, opened, opened  # type: ignore[assignment]
    for name in ("mkdir", "replace", "rename", "link", "unlink", "symlink"):
        setattr(os, name, _refusing(writes, getattr(os, name)))


def _refusing(writes: Writes, real: Callable[..., Any]) -> Callable[..., Any]:
    def changed(path: Any, *further: Any, **named: Any) -> Any:
        writes.meets(path)
        return real(path, *further, **named)

    return changed


def let_the_clock_jump() -> None:
    real = time.time

    def jumping() -> float:
        return real() + JUMPS_S[int(time.monotonic() / 0.2) % len(JUMPS_S)]

    time.time = jumping
    time.time_ns = lambda: int(jumping() * 1e9)


ARRANGED: dict[str, tuple[int, str, Callable[[Writes], None]]] = {
    "full": (errno.ENOSPC, "no space left", fill_disk),
    "read_only": (errno.EROFS, "read-only file system", forbid_writes),
}
"""How a disk fails -> the number of its error, what is said of it, and what arranges it."""


def main() -> None:
    how, n, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]).absolute()
    sys.argv = ["r2", *sys.argv[4:]]
    if how in ARRANGED:
        number, _, arrange = ARRANGED[how]
        arrange(Writes(number, n, folder))
    elif how == "short":
        resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))
    elif how == "clock":
        let_the_clock_jump()
    else:
        raise SystemExit(f"no such failure: {how}")
    from flows.cli import main as command

    command()


if __name__ == "__main__":
    main()
