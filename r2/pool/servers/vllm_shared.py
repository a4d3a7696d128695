"""A vLLM server that outlives a command: `r2 pool serve` keeps it and says here where it is, and runs find it.

A server belongs to a key, made of all that it was started with. Its holder keeps `KEY.lock` locked for as long as it
lives, so that a file that a kill left behind says nothing. In `KEY.json` is the address, in `KEY.adapters` what was
loaded since (r2/pool/servers/keeper.py).
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from r2.atomic import write_atomically
from r2.errors import EndpointError
from r2.pool.servers.vllm_command import Start


@dataclass(frozen=True, slots=True)
class Place:
    """Where the server of a key is said to be."""

    folder: Path
    key: str

    @classmethod
    def of(cls, state_dir: Path, start: Start) -> "Place":
        made_of = orjson.dumps([start.command, sorted(start.env.items())])
        return cls(state_dir / "vllm", hashlib.sha256(made_of).hexdigest()[:16])

    @property
    def adapters(self) -> Path:
        return self.folder / f"{self.key}.adapters"

    def address(self) -> str | None:
        """Where a live holder's server answers; None if nobody holds one."""
        if self.is_free():
            return None
        try:
            return str(orjson.loads((self.folder / f"{self.key}.json").read_bytes())["address"])
        except (FileNotFoundError, orjson.JSONDecodeError):
            return None  # its holder is still starting it

    def is_free(self) -> bool:
        """Nobody holds the server, or whoever did is dead."""
        try:
            descriptor = os.open(self.folder / f"{self.key}.lock", os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    @contextmanager
    def held(self, what: str) -> Iterator[None]:
        """Holds the place. EndpointError if another process does."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.folder / f"{self.key}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _locked(descriptor):
                raise EndpointError(f"{what}: another process serves it already, with the same options.")
            self._forget()
            yield
        finally:
            self._forget()
            os.close(descriptor)

    def publish(self, address: str) -> None:
        """Says where it is; within `held`."""
        write_atomically(self.folder / f"{self.key}.json", orjson.dumps({"address": address}))

    def _forget(self) -> None:
        for path in (self.folder / f"{self.key}.json", self.adapters):
            path.unlink(missing_ok=True)


def _locked(descriptor: int) -> bool:
    """More than one try, for whoever asks `is_free` holds the lock for a moment, too."""
    for _ in range(10):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False
