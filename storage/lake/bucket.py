"""A lake that lies in a bucket, worked on through a folder of this machine.

A file of the lake is the object of its path. Parts are put there under names that nobody else gives, then the entry of
the manifest is created where there is none: that is the commit, as on disk. What was read stays here, by its name, for
DuckDB to read: neither parts nor entries ever change. `storage/lake/part_cache.py` keeps the copies within a size.

Nothing depends on a listing being complete: an entry that is not listed yet is met when it is created again, and before
a part is deleted its entry is asked for by name. Journals and locks are of this machine alone and never go there.
"""

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import orjson

from r2.atomic import write_atomically
from r2.errors import LakeError
from storage.lake.objects import Found, Objects, in_parallel
from storage.lake.part_cache import make_room, used
from storage.lake.store import Store

MARK: Final = "_lake.json"
"""The object that says that a lake is there, and which: one that was deleted and begun anew is another lake."""
_ETAGS: Final = "_etags"
"""Folder of this machine: of each file beside the tables, what the object was when it was last equal to the file."""
_LISTED_S: Final = 1.0
_LISTED_TIMES: Final = 20.0
"""A listing of entries serves a second, or this many times as long as it took. A store may be late with them anyway,
and what this machine commits is known here at once."""


class Bucket(Store):
    """A lake at an address."""

    is_remote = True

    def __init__(self, root: Path, address: str) -> None:
        super().__init__(root)
        self.address = address
        self.objects = Objects(address)
        self._is_open = False
        self._is_met = False
        self._turn = threading.Lock()
        self._list_again_at: dict[Path, float] = {}
        self._modified_at: dict[Path, float] = {}

    def open(self) -> None:
        with self._turn:
            if self._is_open:
                return
            self.objects.check_promise()
            self._meet(is_to_begin=True)
            self._is_open = True

    def is_there(self) -> bool:
        with self._turn:
            return self._meet()

    def _meet(self, *, is_to_begin: bool = False) -> bool:
        """Whether there is a lake, and the one that this machine knows."""
        if self._is_met:
            return True
        mark = self.root / MARK
        here = mark.read_bytes() if mark.is_file() else None
        there = self.objects.get(MARK)
        if here is not None and there != here:
            raise LakeError(
                f"{self.address}: {'is gone' if there is None else 'is another lake than it was'}: it was deleted, and "
                f"perhaps begun anew, since this machine used it. What this machine knows of it, calls that were paid "
                f"and not committed among them, is in {self.root}: move that folder away and run the same command "
                "again."
            )
        if there is None and is_to_begin:
            self.objects.create(MARK, orjson.dumps({"lake": secrets.token_hex(16)}))
            there = self.objects.get(MARK)
        if there is not None and here is None:
            write_atomically(mark, there)
        self._is_met = there is not None
        return self._is_met

    def create(self, path: Path, content: bytes) -> bool:
        key = self._key(path)
        is_ours = self.objects.create(key, content)
        if is_ours:
            write_atomically(path, content)
        else:
            self.objects.fetch(key, path)
        return is_ours

    def names(self, folder: Path) -> list[str]:
        began = time.monotonic()
        if began >= self._list_again_at.get(folder, 0.0) and self.is_there():
            here = set(self.names_here(folder))
            there = [found for found in self.objects.under(self._key(folder)) if _name(found) not in here]
            if there:
                folder.mkdir(parents=True, exist_ok=True)
                in_parallel(lambda found: self.objects.fetch(found.key, self.root / found.key), there)
                newest = max(found.modified_at for found in there)
                os.utime(folder, (newest, newest))
            took_s = time.monotonic() - began
            self._list_again_at[folder] = time.monotonic() + max(_LISTED_S, _LISTED_TIMES * took_s)
        return self.names_here(folder)

    def look_again(self) -> None:
        self._list_again_at.clear()

    def folders(self, folder: Path) -> list[str]:
        there = self.objects.folders(self._key(folder)) if self.is_there() else []
        return sorted({*there, *super().folders(folder)})

    def changed_at(self, folder: Path) -> dict[str, float]:
        found: dict[str, float] = {}
        prefix = self._key(folder)
        for one in self.objects.under(prefix) if self.is_there() else ():
            name = one.key.removeprefix(f"{prefix}/").partition("/")[0]
            found[name] = max(one.modified_at, found.get(name, 0.0))
        return found

    def has(self, path: Path) -> bool:
        return self.objects.about(self._key(path)) is not None

    def keep(self, paths: Sequence[Path]) -> None:
        in_parallel(lambda path: self.objects.put(self._key(path), path), paths)
        make_room(self.root, sum(path.stat().st_size for path in paths))

    def drop(self, paths: Iterable[Path]) -> None:
        self.objects.delete(map(self._key, paths))

    def listed(self, folders: Sequence[str]) -> list[Path]:
        found = [one for name in folders for one in self.objects.under(name)] if self.is_there() else []
        self._modified_at = {self.root / one.key: one.modified_at for one in found}
        return list(self._modified_at)

    def modified_at(self, path: Path) -> float:
        return self._modified_at[path]

    def now(self) -> float:
        return self.objects.now()

    def remove(self, path: Path) -> None:
        self.objects.delete([self._key(path)])
        if not self.objects.can_delete:
            raise LakeError(
                f"{self.address}: this store does not delete objects (DeleteObjects of S3's API). Nothing is wrong "
                "with the lake; delete what is replaced with the store's own tools."
            )
        path.unlink(missing_ok=True)

    def move(self, path: Path, to: Path) -> None:
        self.objects.move(self._key(path), self._key(to))

    def bring(self, places: Sequence[Path], *, sha256: str = "") -> Path | None:
        here = next((path for path in places if path.is_file()), None)
        if here is not None:
            used(here)
            return here
        if not self.is_there():
            return None
        for path in places:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.objects.fetch(self._key(path), path):
                if sha256 and _sha256(path) != sha256:
                    path.unlink()
                    raise LakeError(
                        f"{self.address}/{self._key(path)}: sha256 differs from the manifest: the object was changed "
                        "after it was committed. Restore it from a backup."
                    )
                make_room(self.root, path.stat().st_size)
                return path
        return None

    def renew(self, places: Iterable[Path]) -> None:
        for path in places:
            path.unlink(missing_ok=True)

    def share(self, path: Path, key: str = "") -> None:
        if key:
            self.objects.put(key, path)
            return
        paths = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file() and _is_shared(one)]
        in_parallel(self._share, paths)

    def _share(self, path: Path) -> None:
        stamp = _stamp(path)
        if self._noted(path).get("stamp") != stamp:
            self.objects.put(self._key(path), path)
            found = self.objects.about(self._key(path))
            self._note(path, found, stamp)

    def receive_once(self, path: Path, key: str = "") -> None:
        if not path.is_file() and self.is_there():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.objects.fetch(key or self._key(path), path)

    def receive(self, path: Path) -> None:
        if not self.is_there():
            return
        key = self._key(path)
        if path.suffix:
            found = self.objects.about(key)
            there = [] if found is None else [found]
        else:
            there = list(self.objects.under(key))
        in_parallel(self._receive, there)

    def _receive(self, found: Found) -> None:
        path = self.root / found.key
        if path.is_file() and self._noted(path).get("e_tag") == found.e_tag:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.objects.fetch(found.key, path):
            os.utime(path, (found.modified_at, found.modified_at))
            self._note(path, found, _stamp(path))

    def _noted(self, path: Path) -> dict[str, object]:
        try:
            noted: dict[str, object] = orjson.loads(self._note_of(path).read_bytes())
            return noted
        except (FileNotFoundError, ValueError):
            return {}

    def _note(self, path: Path, found: Found | None, stamp: str) -> None:
        note = self._note_of(path)
        note.parent.mkdir(exist_ok=True)
        write_atomically(note, orjson.dumps({"e_tag": found.e_tag if found else "", "stamp": stamp}))

    def _note_of(self, path: Path) -> Path:
        return self.root / _ETAGS / f"{hashlib.sha256(self._key(path).encode()).hexdigest()[:32]}.json"

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _is_shared(path: Path) -> bool:
    """Journals hold what this machine has under way; a name with a dot at its beginning is not finished."""
    return not path.name.startswith(".") and ".journal" not in path.name


def _stamp(path: Path) -> str:
    about = path.stat()
    return f"{about.st_mtime_ns} {about.st_size}"


def _name(found: Found) -> str:
    return found.key.rpartition("/")[2]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
