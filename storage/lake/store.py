"""What keeps a lake: the folder itself, or a bucket that the folder stands for.

`Lake` and `Manifest` write files into the lake's folder and read them there, in either case. A store is told of what
has to last, and asked for what may not be here: for a folder there is nothing to do. `storage/lake/bucket.py` is the
other one.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from r2.atomic import create_atomically


class Store:
    """A lake that lies in its folder."""

    is_remote = False

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self) -> None:
        """Before the first write: reachable, and one that keeps its promises. ConfigError else."""

    def is_there(self) -> bool:
        """Whether there is a lake."""
        return self.root.is_dir()

    def create(self, path: Path, content: bytes) -> bool:
        """The file, in one step, where there is none. False, and nothing changed, where there is one."""
        return create_atomically(path, content)

    def names(self, folder: Path) -> list[str]:
        """Names of files in a folder whose content never changes; they are here then."""
        return self.names_here(folder)

    def look_again(self) -> None:
        """What was found before may have changed since."""

    def names_here(self, folder: Path) -> list[str]:
        """Those of them that are here already."""
        try:
            return [path.name for path in folder.iterdir()]
        except FileNotFoundError:
            return []

    def folders(self, folder: Path) -> list[str]:
        """Names of the folders in a folder."""
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

    def changed_at(self, folder: Path) -> dict[str, float]:
        """Name of each folder in a folder -> epoch seconds of the newest file in it."""
        return (
            {path.name: path.stat().st_mtime for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else {}
        )

    def has(self, path: Path) -> bool:
        """Whether there is such a file, here or not."""
        return path.is_file()

    def keep(self, paths: Sequence[Path]) -> None:
        """Finished files: they last from now on."""

    def drop(self, paths: Iterable[Path]) -> None:
        """Files that were kept and turned out to be none of the lake's."""

    def listed(self, folders: Sequence[str]) -> list[Path]:
        """Every file in some folders of the lake, and in the folders within."""
        return [path for name in folders for path in (self.root / name).rglob("*") if not path.is_dir()]

    def modified_at(self, path: Path) -> float:
        """Epoch seconds, by the clock of `now`, of a file that is there."""
        return path.stat().st_mtime

    def now(self) -> float:
        return time.time()

    def remove(self, path: Path) -> None:
        """A file that nobody needs any more."""
        path.unlink()

    def move(self, path: Path, to: Path) -> None:
        """To another name. Nothing happens where `path` is not there: another process was faster."""
        try:
            path.rename(to)
        except FileNotFoundError:
            return

    def bring(self, places: Sequence[Path], *, sha256: str = "") -> Path | None:
        """Where a file is that is kept in one of these places; None where it is in none. LakeError where its content is
        another one. Of files of the lake's own folder it is known already."""
        return None

    def renew(self, places: Iterable[Path]) -> None:
        """What is read next of these files is what is kept, and no copy of it."""

    def share(self, path: Path, key: str = "") -> None:
        """A file beside the tables was written, or all files of a folder: others can have it from now on. `key`: under
        another name than its own, relative to the lake."""

    def receive(self, path: Path) -> None:
        """A file beside the tables, or all files of a folder, is here as it was last shared."""

    def receive_once(self, path: Path, key: str = "") -> None:
        """The same of a file that never changes: nothing is asked where it is here."""
