"""The call journal: every completion is on disk before it is used, so that a killed run pays for no call twice.

One append-only file. A call is noted with what it may cost before it is sent (`begin`, and `hold` where it is sent
again; written at once, not synced: a killed process has written them) and stored when it was answered (`commit`,
returns after fsync; concurrent commits share one write and one sync). Opening replays the file: answered calls can be
found again, and calls that were begun and never stored are known, with what they may have cost. Bodies stay on disk;
memory holds a key and an offset per call.

A record is `MAGIC, crc32, kind, key length, body length, durable, key, body`, with `durable` the length of the file
known to be synced when the record was written. It settles the one hard question after a crash: a bad record beyond
every `durable` that follows it was never acknowledged and is cut off with what comes after; a bad record before one
was, and that is corruption.
"""

import asyncio
import fcntl
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from r2.atomic import beside
from r2.errors import LakeError, RunLockedError
from storage.lake.manifest import make_folder, sync_folder
from storage.runs.journal_mark import JournalMark, Known, read_mark, replace_mark

MAGIC = b"R2J\x01"
_HEAD = struct.Struct("<4sIBIIQ")
_CHECKED_FROM = 8
"""Offset in a record of the first byte that its CRC covers: all after the CRC itself."""
_BEGUN, _COMMITTED, _HELD = 1, 2, 3
GATHER_S = 0.001
"""How long a sync waits for more commits to share it: nothing beside a model's answer, and a fraction of the syncs."""
_ESTIMATE = struct.Struct("<d")


class LostCall(NamedTuple):
    """A call that an earlier session began and never stored: `usd` is the most that it may have cost.

    `payer` is what the session wrote with the note: b"" but in a journal that several pay into.
    """

    key: str
    usd: float
    payer: bytes


class _Record(NamedTuple):
    kind: int
    key: str
    body: bytes
    durable: int
    size: int


class Journal:
    """Implements `r2.pool.client.ports.CallJournal`. For one process, and within it for one event loop at a time."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._end = 0
        self._durable = 0
        self._unwritten: list[bytes] = []
        self._lost_usd: dict[tuple[str, bytes], float] = {}
        self._offsets: dict[str, int] = {}
        self._waiting: list[tuple[asyncio.Future[None], str, int]] = []
        self._in_sync: list[tuple[asyncio.Future[None], str, int]] = []
        self._is_sync_due = False
        self._reading: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._syncer = _Syncer(descriptor)
        self._mark = JournalMark(path)
        self._broken: LakeError | None = None
        self.lost_at_open: list[LostCall] = []
        """Calls that earlier sessions began and never stored, one by one: a call lost twice and then stored is here
        twice."""
        self.n_missing_at_open = 0
        """Stored calls that the file had once and has no longer: it was cut, emptied or taken away. They were paid."""

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Opens or creates the journal and replays it; a torn end is cut off.

        Raises LakeError, naming the offset, for a record that was acknowledged and is damaged, and for a file that is
        no journal; RunLockedError while another process has it open.
        """
        path = Path(path)
        make_folder(path.parent)
        is_new = not path.exists()
        if path.is_symlink():
            raise LakeError(f"{path}: a link, where the journal of a run is expected. Move it away.")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
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

    @classmethod
    def glance(cls, path: Path) -> Self:
        """The journal as it is now, for reading alone; also where another process has it open and writes on."""
        journal = cls(path, os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
        try:
            journal._replay(cut_off=False)
        except BaseException:
            journal.close()
            raise
        return journal

    @classmethod
    def problem(cls, path: Path) -> str | None:
        """What is wrong with a journal, or None; also where a run has it open. Changes nothing: a torn end is not
        wrong, and is not cut off."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            n_calls = read_mark(path).n_calls
            return f"{path}: missing, with {n_calls} answers that were safely in it" if n_calls else None
        except OSError as error:
            return f"{path}: cannot be read: {error.strerror}"
        journal = cls(path, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            journal._replay(cut_off=False)
            return journal.loss() if journal.n_missing_at_open else None
        except BlockingIOError:
            return None
        except LakeError as error:
            return str(error)
        finally:
            journal.close()

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
                f"{self.path}: the record at byte {offset} changed since it was written. The disk or another program "
                "is at fault."
            )
        return record.body

    def lost_usd(self, key: str, payer: bytes = b"") -> float:
        """The most that earlier sessions of `payer` may have paid for this call and never stored."""
        return self._lost_usd.get((key, payer), 0.0) if self._lost_usd else 0.0

    def begin(self, key: str, worst_usd: float, payer: bytes = b"") -> None:
        """Notes that the call is about to be sent, and the most that it may cost. LakeError if the disk refuses: then
        it must not be sent."""
        self._note(_BEGUN, key, _ESTIMATE.pack(worst_usd) + payer)

    def hold(self, key: str, worst_usd: float) -> None:
        """Notes that a call of this session is about to be sent again, and the most that it may cost in all."""
        self._note(_HELD, key, _ESTIMATE.pack(worst_usd))

    def _note(self, kind: int, key: str, body: bytes) -> None:
        """Written before it returns: what a kill finds on the wire is in the file."""
        self._append(kind, key, body)
        refusal = self._write()
        if refusal is not None:
            raise refusal

    async def commit(self, key: str, record: bytes) -> None:
        """Returns once the record is on disk. Callers that come while a sync is running share the next one.

        Raises LakeError if the disk refuses; after a failed sync the journal takes nothing more, because what the
        kernel still holds of it is not known.
        """
        await self.commit_all([(key, record)])

    async def commit_all(self, records: Sequence[tuple[str, bytes]]) -> None:
        """As `commit`, for many at once."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        for key, record in records:
            self._waiting.append((written, key, self._append(_COMMITTED, key, record)))
        if not self._is_sync_due:
            self._is_sync_due = True
            loop.call_later(GATHER_S, self._begin_sync, loop)
        await written

    def records(self) -> Iterator[tuple[str, bytes]]:
        """(key, record) of every stored call, in the order they were stored."""
        for key, _ in sorted(self._offsets.items(), key=lambda item: item[1]):
            body = self.find(key)
            assert body is not None, f"{key} has an offset"
            yield key, body

    def places(self) -> Iterator[tuple[int, bytes]]:
        """(offset in the file, record) of every stored call, in the order they were stored; `stored_at` reads one."""
        for key, offset in sorted(self._offsets.items(), key=lambda item: item[1]):
            body = self.find(key)
            assert body is not None, f"{key} has an offset {offset}"
            yield offset, body

    def loss(self) -> str:
        """What to say where `n_missing_at_open` is not 0."""
        n, n_left = self.n_missing_at_open, len(self._offsets)
        return (
            f"{self.path}: cut or taken away: {n} of the {n + n_left} answers that were safely in it are missing. They "
            f"were paid for and are asked again, so up to {n} calls are paid twice. Where you have a backup of it, "
            "stop now (Ctrl-C) and restore it."
        )

    def __len__(self) -> int:
        return len(self._offsets)

    def close(self) -> None:
        """Ends the sync thread, writes what is left, and lets the file go. Commits that nobody waits for any more are
        written and not synced."""
        self._is_closed = True
        if self._reading is not None:
            self._reading.remove_reader(self._syncer.answers)
        self._syncer.close()
        self._write()
        self._mark.close()
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, kind: int, key: str, body: bytes) -> int:
        """Adds a record to what is to be written, and returns the offset it will have."""
        if self._broken is not None:
            raise self._broken
        encoded = key.encode("utf-8", "surrogatepass")
        checked = _HEAD.pack(MAGIC, 0, kind, len(encoded), len(body), self._durable)[_CHECKED_FROM:] + encoded + body
        frame = MAGIC + zlib.crc32(checked).to_bytes(4, "little") + checked
        self._unwritten.append(frame)
        offset = self._end
        self._end = offset + len(frame)
        return offset

    def _write(self) -> LakeError | None:
        """Writes what waits, in one call. If the disk refuses, nothing of it stays, and everybody who waits for it is
        told."""
        if not self._unwritten:
            return None
        frames = b"".join(self._unwritten)
        self._unwritten.clear()
        try:
            written = os.write(self._descriptor, frames)
            if written != len(frames):
                raise OSError(f"{written} of {len(frames)} bytes written")
        except OSError as error:
            self._end -= len(frames)
            os.ftruncate(self._descriptor, self._end)
            return self._refuse(f"cannot be written ({error}). Make room on the disk and run the same command again.")
        return None

    def _refuse(self, what: str) -> LakeError:
        """Tells those who wait for the next sync that there will be none."""
        refusal = LakeError(f"{self.path}: {what}")
        waiting, self._waiting = self._waiting, []
        for written, _, _ in waiting:
            if not written.done():
                written.set_exception(refusal)
        return refusal

    def _begin_sync(self, loop: asyncio.AbstractEventLoop) -> None:
        """Writes what waits and has it synced. From here until `_end_sync` is called, commits
        gather for the next one."""
        if self._is_closed:
            return
        self._write()
        self._in_sync, self._waiting = self._waiting, []
        if not self._in_sync:
            self._is_sync_due = False
            return
        self._reading = loop
        loop.add_reader(self._syncer.answers, self._end_sync, loop, self._end)
        self._syncer.ask()

    def _end_sync(self, loop: asyncio.AbstractEventLoop, end: int) -> None:
        """Answers those whose records are on disk now, and begins anew if others wait."""
        loop.remove_reader(self._syncer.answers)
        self._reading = None
        error = self._syncer.answer()
        if error is not None:
            self._waiting = self._in_sync + self._waiting
            self._broken = self._refuse(f"cannot be synced ({error}). Check the disk and run the same command again.")
            return
        self._durable = end
        for written, key, offset in self._in_sync:
            self._offsets[key] = offset  # here, not in `commit`: a caller that was cancelled has paid too
            if not written.done():
                written.set_result(None)
        self._mark.write(Known(end, len(self._offsets)))
        self._is_sync_due = bool(self._waiting)
        if self._waiting:
            loop.call_later(GATHER_S, self._begin_sync, loop)

    def _replay(self, *, cut_off: bool = True) -> None:
        """Reads the file once: offsets of stored calls, calls left open, and where the next record goes."""
        size = os.fstat(self._descriptor).st_size
        known = read_mark(self.path)
        begun: dict[str, LostCall] = {}
        if size:
            with mmap.mmap(self._descriptor, size, prot=mmap.PROT_READ) as stored, memoryview(stored) as view:
                while self._end < size:
                    record = _parse(view[self._end :])
                    if record is None:
                        self._refuse_corruption(stored, view)
                        if self._end < known.end <= size:
                            raise self._damaged()
                        break
                    if record.kind == _COMMITTED:
                        begun.pop(record.key, None)
                        self._offsets[record.key] = self._end
                    else:
                        self._replay_note(record, begun)
                    self._end += record.size
            if cut_off:
                os.ftruncate(self._descriptor, self._end)
        if self._end < known.end:
            self.n_missing_at_open = max(0, known.n_calls - len(self._offsets))
        self.lost_at_open += begun.values()
        for call in self.lost_at_open:
            place = (call.key, call.payer)
            self._lost_usd[place] = self._lost_usd.get(place, 0.0) + call.usd

    def _replay_note(self, record: _Record, begun: dict[str, LostCall]) -> None:
        """A call begun anew was lost by the session before; one sent again is the same call at a higher price."""
        usd = _ESTIMATE.unpack_from(record.body)[0]
        earlier = begun.get(record.key)
        if record.kind == _HELD and earlier is not None:
            begun[record.key] = earlier._replace(usd=usd)
            return
        if earlier is not None:
            self.lost_at_open.append(earlier)
        begun[record.key] = LostCall(record.key, usd, bytes(record.body[_ESTIMATE.size :]))

    def _refuse_corruption(self, stored: mmap.mmap, view: memoryview) -> None:
        """Raises LakeError if a later record shows that the bad one at `_end` had been synced."""
        start = stored[: len(MAGIC)]
        if self._end == 0 and start != MAGIC[: len(stored)] and start.strip(b"\0"):
            raise LakeError(f"{self.path}: not a call journal. Move the file away; it is in the way of one.")
        at = stored.find(MAGIC, self._end + 1)
        while at >= 0:
            later = _parse(view[at:])
            if later is not None and later.durable > self._end:
                raise self._damaged()
            at = stored.find(MAGIC, at + 1)

    def _damaged(self) -> LakeError:
        return LakeError(
            f"{self.path}: the record at byte {self._end} is damaged, though it was safely on disk before. Calls after "
            "it were paid for, so nothing is cut off. Restore the file from a backup, or move it away and pay for them "
            "again."
        )


class _Syncer:
    """A thread that syncs one file when asked. Question and answer are bytes in pipes: an executor's hand-over, with
    its futures and callbacks under the interpreter's lock, took a sixth of the client's time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._asked, self._asking = os.pipe()
        self.answers, self._answering = os.pipe()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Asks for one sync; `answers` becomes readable when it is done."""
        os.write(self._asking, b".")

    def answer(self) -> OSError | None:
        """Takes the answer to `ask`: what went wrong, or None. Waits for it if need be."""
        os.read(self.answers, 1)
        return self._error

    def close(self) -> None:
        """Ends the thread after the sync it is at."""
        os.close(self._asking)
        self._thread.join()
        for end in (self._asked, self.answers, self._answering):
            os.close(end)

    def _work(self) -> None:
        while os.read(self._asked, 1):
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                self._error = error
            os.write(self._answering, b".")


def drop_settled(path: Path, keys: Set[str]) -> None:
    """Rewrites a closed journal without the calls of `keys`, atomically: what a run that ended cleanly no longer needs.

    The other calls stay, stored or lost: their questions are still to be answered, and what was paid for them counts.
    """
    with Journal.open(path) as old:
        stored = ((key, record) for key, record in old.records() if key not in keys)
        lost = (call for call in old.lost_at_open if call.key not in keys)
        _rewrite(path, stored, lost)


def note_instead(path: Path, paid: Callable[[bytes], tuple[float, bytes] | None], more: Sequence[LostCall] = ()) -> int:
    """Rewrites a closed journal, atomically, with a mere note in the place of each record for which `paid` gives (USD,
    payer), as of a call that was lost: what was paid stays, and not a word of what was said. Returns how many.

    `more`: notes to be in it as well, each once however often this is done.
    """
    with Journal.open(path) as old:
        notes, stored = list(old.lost_at_open), []
        for key, record in old.records():
            found = paid(record)
            if found is None:
                stored.append(key)
            else:
                notes.append(LostCall(blake2b(key.encode(), digest_size=16).hexdigest(), *found))
        known = {call.key for call in notes}
        missing = [call for call in more if call.key not in known]
        n_noted = len(notes) - len(old.lost_at_open)
        if n_noted or missing:
            kept = set(stored)
            records = ((key, record) for key, record in old.records() if key in kept)
            _rewrite(path, records, [*notes, *missing])
    return n_noted


def _rewrite(path: Path, stored: Iterable[tuple[str, bytes]], lost: Iterable[LostCall]) -> None:
    """Puts a journal with these calls in the place of one that this process has open."""
    shorter = beside(path)
    n_kept = 0
    with Journal.open(shorter) as new:
        for key, record in stored:
            n_kept += 1
            new._append(_COMMITTED, key, record)
            refusal = new._write()
            if refusal is not None:
                raise refusal
        for call in lost:  # after the stored ones: a record ends the note before it
            new.begin(call.key, call.usd, call.payer)
        os.fsync(new._descriptor)
        replace_mark(path, Known(new._end, n_kept))
    shorter.replace(path)
    sync_folder(path.parent)


def stored_at(path: Path, offset: int) -> bytes | None:
    """The record of the call stored at this offset; None where the file is gone, or holds something else there by
    now: a run that goes on writes its journal anew."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            head = file.read(4096)
            if len(head) < _HEAD.size or head[: len(MAGIC)] != MAGIC:
                return None
            record = _parse(memoryview(head + file.read(max(0, _size(head) - len(head)))))
    except OSError:
        return None
    return None if record is None or record.kind != _COMMITTED else record.body


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
        or kind not in (_BEGUN, _COMMITTED, _HELD)
    ):
        return None
    key_end = _HEAD.size + key_length
    key = bytes(view[_HEAD.size : key_end]).decode("utf-8", "surrogatepass")
    return _Record(kind, key, bytes(view[key_end:size]), durable, size)
