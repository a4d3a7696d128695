"""At most one process works on a run, or several that have joined it: an advisory lock that the kernel lets go when its
holder dies, however it dies."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import orjson

from r2.errors import LakeError, RunLockedError
from storage.lake.manifest import checked_name, make_folder


@contextlib.contextmanager
def run_lock(root: Path, run_id: str, *, is_joined: bool = False) -> Iterator[None]:
    """Holds the run until the block ends; `is_joined`: beside others of this host who have joined it, and against those
    who have not. Raises RunLockedError, naming the holder's pid, if it is held.

    The lock is `flock` on `<root>/_locks/<run_id>.lock`; pid, boot id and start time inside are for the message and for
    people. The file stays: deleting it would let two processes hold two files of one name.
    """
    path = root / "_locks" / f"{checked_name('run_id', run_id)}.lock"
    make_folder(path.parent)
    if path.is_symlink():
        raise LakeError(f"{path}: a link, where the lock of a run is expected. Move it away.")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if is_joined else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 4096, 0).decode("utf-8", "replace").strip() or "one that has joined it"
            raise RunLockedError(
                f"run {run_id} in {root} is being worked on by another process: {holder}. "
                "Wait for it, or end that process; its lock goes with it."
            ) from None
        if is_joined:
            yield
            return
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, orjson.dumps(_this_process()), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _this_process() -> dict[str, str | int]:
    """Pid with what tells it from a later process of the same number: boot id, and start in clock ticks since boot."""
    who: dict[str, str | int] = {"pid": os.getpid()}
    with contextlib.suppress(OSError):  # no /proc: the pid alone has to do
        who["boot_id"] = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        who["started_ticks"] = int(Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()[19])
    return who
