"""Writing a file whole: a reader sees the old one or the new one, never half of one, and no link leads astray.

Everything is written to a new file beside the target, synced, and moved over the target in one step. The new file has a
name nobody can guess, is created exclusively, never through a link, and only its owner can read it before it is
finished: it may hold prompts. Then it gets the rights of the file it replaces, or those that the umask leaves.
"""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from r2.errors import ConfigError

_HERE, _NO_REPLACE = -100, 1
"""AT_FDCWD and RENAME_NOREPLACE of Linux."""
_NO_HARD_LINKS = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_SUCH_RENAME = {errno.ENOSYS, errno.EINVAL}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_UMASK = os.umask(0o077)
os.umask(_UMASK)  # there is no other way to read it


def write_atomically(path: Path, content: bytes) -> None:
    """The file with this content, in one step."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends. Where the block raises, `path` is as it
    was and nothing else is left.

    The file has a `name`, its present path, for writers that must open it themselves.
    """
    temporary = beside(path)
    with naming(path, temporary), ExitStack() as stack:
        file = stack.enter_context(create_exclusively(temporary))
        stack.callback(temporary.unlink, missing_ok=True)
        yield file
        move_into_place(file, path)


def create_atomically(path: Path, content: bytes) -> bool:
    """The file with this content, in one step, where nothing has its name. False, and nothing changed, where something
    does."""
    temporary = beside(path)
    with naming(path, temporary), ExitStack() as stack:
        file = stack.enter_context(create_exclusively(temporary))
        stack.callback(temporary.unlink, missing_ok=True)
        file.write(content)
        _finish(file, path)
        return _named(temporary, path)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder that is not there yet: a new one to fill, which becomes `path` when the block ends. OSError
    if `path` holds something by then."""
    temporary = beside(path)
    temporary.mkdir(mode=0o700)
    try:
        yield temporary
        temporary.chmod(0o777 & ~_UMASK)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Errors of the system that name no file, a full disk for one, or only the temporary one, name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_file(path: Path, flag: str) -> None:
    """Before anything is paid: ConfigError, naming the flag, where a file that is written at the end could not be."""
    if path.is_dir():
        raise ConfigError(f"{flag} {path}: this is a folder; the name of a file was expected.")
    check_folder(path.parent, flag)


def check_folder(folder: Path, flag: str) -> None:
    """The same for a folder that files will be written into; it is created if it is missing. A full disk is an OSError:
    the flag is not to blame."""
    refuse_address(folder, flag)
    probe = beside(folder / "probe")
    try:
        with naming(folder, probe), ExitStack() as stack:
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(probe.unlink, missing_ok=True)
            with create_exclusively(probe) as file:
                file.write(b"\0")
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise ConfigError(
            f"{flag} {folder}: nothing can be written there: {error.strerror or error}. Name another place, or make "
            "this one writable; nothing was paid."
        ) from error


def refuse_address(path: Path, flag: str) -> None:
    """ConfigError for an address of an object store where only a place on this machine will do."""
    if re.match(r"(s3|gs|az):/", str(path)):
        raise ConfigError(
            f"{flag} {path}: expected a place on this machine. Only --lake may be an address in an object store: write "
            "here, and copy it there with the store's own tools."
        )


def create_exclusively(path: Path) -> BinaryIO:
    """A new file that only its owner can read and write. FileExistsError if anything has the name, a link too."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_EXCL | os.O_NOFOLLOW, 0o600)

    return open(path, "w+b", opener=opener)


def move_into_place(file: BinaryIO, path: Path) -> None:
    """Ends what `create_exclusively` began: the file, whole and synced, takes the name and the rights of `path`."""
    _finish(file, path)
    Path(file.name).replace(path)


def beside(path: Path) -> Path:
    """A name in the folder of `path` that nothing has and nobody can guess. It begins with a dot, so that no reader of
    the folder takes it."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")


def _named(temporary: Path, path: Path) -> bool:
    """Gives the file its name, in one step, unless something has it. File systems without hard links (FAT, some network
    and FUSE ones) rename it instead, and refuse to replace; where they cannot refuse, a lock stands in for that."""
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    try:
        _rename_to_free_name(temporary, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_SUCH_RENAME:
            raise
    lock = os.open(path.with_name(".names.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.lexists(path):
            return False
        temporary.rename(path)
        return True
    finally:
        os.close(lock)


def _rename_to_free_name(temporary: Path, path: Path) -> None:
    """Linux's renameat2 with RENAME_NOREPLACE. FileExistsError if the name is taken, OSError with ENOSYS where the
    system has no such call."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(path))
    if rename(_HERE, os.fsencode(temporary), _HERE, os.fsencode(path), _NO_REPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def _finish(file: BinaryIO, path: Path) -> None:
    """Everything on disk, with the rights of the file that `path` is now, or of a new one."""
    file.flush()
    try:
        rights = path.stat().st_mode & 0o777
    except FileNotFoundError:
        rights = 0o666 & ~_UMASK
    os.fchmod(file.fileno(), rights)
    os.fsync(file.fileno())
