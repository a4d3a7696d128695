"""The call journal: every completion is on disk before it is used, so that a killed run pays for no call twice.

One append-only file. A call is noted when it is about to be sent (`begin`, not synced) and stored when it was answered
(`commit`, returns after fsync; concurrent commits share one). Opening replays the file: answered calls can be found again,
and calls that were begun and never stored are known. Bodies stay on disk; memory holds a key and an offset per call.

A record is `MAGIC, crc32, kind, key length, body length, durable, key, body`, with `durable` the length of the file known to
be synced when the record was written. It settles the one hard question after a crash: a bad record beyond every `durable` that
follows it was never acknowledged and is cut off with what comes after; a bad record before one was, and that is corruption.
"""

import asyncio
import fcntl
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from r2.errors import LakeError, RunLockedError
from storage.manifest import make_folder, sync_folder

MAGIC = b"R2J\x01"
_HEAD = struct.Struct("<4sIBIIQ")
_CHECKED_FROM = 8
"""Offset in a record of the first byte that its CRC covers: all after the CRC itself."""
_BEGUN, _COMMITTED = 1, 2
GATHER_S = 0.001
"""How long a sync waits for more commits to share it: nothing beside a model's answer, and a fraction of the syncs."""
_ESTIMATE = struct.Struct("<d")


class _Record(NamedTuple):
    kind: int
    key: str
    body: bytes
    durable: int
    size: int


class Journal:
    """Implements `r2.pool.ports.CallJournal`. For one process, and within it for one event loop at a time."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._end = 0
        self._durable = 0
        self._offsets: dict[str, int] = {}
        self._waiting: list[tuple[asyncio.Future[None], str, int]] = []
        self._syncing: asyncio.Task[None] | None = None
        self._syncer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._broken: LakeError | None = None
        self.in_flight_at_open: list[tuple[str, float]] = []
        """(key, cost estimate in USD) of calls that earlier sessions began and never stored: they may have been paid."""
        self.n_lost_at_open = 0
        """How often a call was begun by earlier sessions and its answer lost; a call lost twice and then stored counts twice."""

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Opens or creates the journal and replays it; a torn end is cut off.

        Raises LakeError, naming the offset, for a record that was acknowledged and is damaged, and for a file that is no
        journal; RunLockedError while another process has it open.
        """
        path = Path(path)
        make_folder(path.parent)
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        journal = cls(path, descriptor)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunLockedError(
                    f"{path}: open in another process, which works on the same run. Wait for it or end it."
                ) from None
            journal._replay()
            os.fsync(descriptor)
            if is_new:
                sync_folder(path.parent)
        except BaseException:
            journal.close()
            raise
        journal._durable = journal._end
        return journal

    def find(self, key: str) -> bytes | None:
        """The stored record of `key`, the newest if there are several; None if there is none."""
        offset = self._offsets.get(key)
        if offset is None:
            return None
        head = os.pread(self._descriptor, 4096, offset)
        size = _size(head)
        if size > len(head):
            head += os.pread(self._descriptor, size - len(head), offset + len(head))
        record = _parse(memoryview(head)[:size])
        if record is None:
            raise LakeError(
                f"{self.path}: the record at byte {offset} changed since it was written. The disk or another program is at fault."
            )
        return record.body

    def begin(self, key: str, cost_estimate_usd: float) -> None:
        """Notes that the call is about to be sent. Not synced: a lost note costs a line in a report, no money."""
        self._append(_BEGUN, key, _ESTIMATE.pack(cost_estimate_usd))

    async def commit(self, key: str, record: bytes) -> None:
        """Returns once the record is on disk. Callers that come while a sync is running share the next one.

        Raises LakeError if the disk refuses; after a failed sync the journal takes nothing more, because what the kernel
        still holds of it is not known.
        """
        offset = self._append(_COMMITTED, key, record)
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        self._waiting.append((written, key, offset))
        if self._syncing is None or self._syncing.done():
            self._syncing = loop.create_task(self._sync())
        await written

    def records(self) -> Iterator[tuple[str, bytes]]:
        """(key, record) of every stored call, in the order they were stored."""
        for key, offset in sorted(self._offsets.items(), key=lambda item: item[1]):
            body = self.find(key)
            assert body is not None, f"{key} has an offset {offset}"
            yield key, body

    def __len__(self) -> int:
        return len(self._offsets)

    def close(self) -> None:
        """Ends the sync thread and lets the file go."""
        self._syncer.shutdown(wait=True)
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, kind: int, key: str, body: bytes) -> int:
        """Writes a record at the end, in one call, and returns its offset."""
        if self._broken is not None:
            raise self._broken
        encoded = key.encode("utf-8", "surrogatepass")
        checked = _HEAD.pack(MAGIC, 0, kind, len(encoded), len(body), self._durable)[_CHECKED_FROM:] + encoded + body
        frame = MAGIC + zlib.crc32(checked).to_bytes(4, "little") + checked
        offset = self._end
        try:
            written = os.write(self._descriptor, frame)
            if written != len(frame):
                raise OSError(f"{written} of {len(frame)} bytes written")
        except OSError as error:
            os.ftruncate(self._descriptor, offset)
            raise LakeError(
                f"{self.path}: cannot be written ({error}). Make room on the disk and run the same command again."
            ) from error
        self._end = offset + len(frame)
        return offset

    async def _sync(self) -> None:
        """Syncs until nobody waits; only then are the waiters answered."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            await asyncio.sleep(GATHER_S)
            waiting, self._waiting = self._waiting, []
            end = self._end
            try:
                await loop.run_in_executor(self._syncer, os.fsync, self._descriptor)
            except OSError as error:
                self._broken = LakeError(
                    f"{self.path}: cannot be synced ({error}). Check the disk and run the same command again."
                )
                for written, _, _ in waiting + self._waiting:
                    if not written.done():
                        written.set_exception(self._broken)
                self._waiting = []
                return
            self._durable = end
            for written, key, offset in waiting:
                self._offsets[key] = offset  # here, not in `commit`: a caller that was cancelled has paid too
                if not written.done():
                    written.set_result(None)

    def _replay(self) -> None:
        """Reads the file once: offsets of stored calls, calls left open, and where the next record goes."""
        size = os.fstat(self._descriptor).st_size
        begun: dict[str, float] = {}
        n_open: dict[str, int] = {}
        if size:
            with mmap.mmap(self._descriptor, size, prot=mmap.PROT_READ) as stored, memoryview(stored) as view:
                while self._end < size:
                    record = _parse(view[self._end :])
                    if record is None:
                        self._refuse_corruption(stored, view)
                        break
                    if record.kind == _BEGUN:
                        begun[record.key] = _ESTIMATE.unpack(record.body)[0]
                        n_open[record.key] = n_open.get(record.key, 0) + 1
                    else:
                        n_open[record.key] = n_open.get(record.key, 1) - 1
                        begun.pop(record.key, None)
                        self._offsets[record.key] = self._end
                    self._end += record.size
            os.ftruncate(self._descriptor, self._end)
        self.in_flight_at_open = list(begun.items())
        self.n_lost_at_open = sum(n_open.values())

    def _refuse_corruption(self, stored: mmap.mmap, view: memoryview) -> None:
        """Raises LakeError if a later record shows that the bad one at `_end` had been synced."""
        start = stored[: len(MAGIC)]
        if self._end == 0 and start != MAGIC[: len(stored)] and start.strip(b"\0"):
            raise LakeError(f"{self.path}: not a call journal. Move the file away; it is in the way of one.")
        at = stored.find(MAGIC, self._end + 1)
        while at >= 0:
            later = _parse(view[at:])
            if later is not None and later.durable > self._end:
                raise LakeError(
                    f"{self.path}: the record at byte {self._end} is damaged, though it was safely on disk before. Calls after it "
                    "were paid for, so nothing is cut off. Restore the file from a backup, or move it away and pay for them again."
                )
            at = stored.find(MAGIC, at + 1)


def keep_only(path: Path, keys: Set[str]) -> None:
    """Rewrites a closed journal with the stored calls of `keys` alone, atomically: what a run that ended cleanly still needs.

    No call was lost in a clean end, so notes of begun calls are dropped.
    """
    shorter = path.with_name(f".{path.name}.{os.getpid()}")
    with Journal.open(path) as old, Journal.open(shorter) as new:
        for key, record in old.records():
            if key in keys:
                new._append(_COMMITTED, key, record)
        os.fsync(new._descriptor)
    shorter.replace(path)
    sync_folder(path.parent)


def _size(head: bytes) -> int:
    """Length of the record that starts with `head`."""
    _, _, _, key_length, body_length, _ = _HEAD.unpack_from(head)
    return _HEAD.size + int(key_length) + int(body_length)


def _parse(view: memoryview) -> _Record | None:
    """The record at the start of `view`, None if there is no whole and undamaged one."""
    if len(view) < _HEAD.size:
        return None
    magic, crc, kind, key_length, body_length, durable = _HEAD.unpack_from(view)
    size = _HEAD.size + key_length + body_length
    if (
        magic != MAGIC
        or len(view) < size
        or zlib.crc32(view[_CHECKED_FROM:size]) != crc
        or kind not in (_BEGUN, _COMMITTED)
    ):
        return None
    key_end = _HEAD.size + key_length
    key = bytes(view[_HEAD.size : key_end]).decode("utf-8", "surrogatepass")
    return _Record(kind, key, bytes(view[key_end:size]), durable, size)
