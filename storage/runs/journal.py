"""The call journal: every completion is on disk before it is used, so that a killed run pays for no call twice.

One append-only file. A call is noted with what it may cost before it is sent (`begin`, and `hold` where it is sent
again; written at once, not synced: a killed process has written them) and stored when it was answered (`commit`,
returns after fsync; concurrent commits share one write and one sync). Opening replays the file: answered calls can be
found again, and calls that were begun and never stored are known, with what they may have cost. Bodies stay on disk;
memory holds a key and an offset per call. Where the file was cut or taken away, its mark (`journal_mark.py`) tells how
many calls went with it and what they may have cost: they are noted anew as lost calls, and stay counted as paid.

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
from collections.abc import Callable, Iterator, Sequence, Set
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
_BEGUN, _COMMITTED, _HELD, _PRICED = 1, 2, 3, 4
"""A call noted; stored, as earlier versions did; sent again; stored behind what was paid for it, in USD."""
MISSING = "missing"
"""Key of the notes of calls that went with a part of the file."""
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
        self._n_written = 0
        self._unwritten: list[bytes] = []
        self._lost_usd: dict[tuple[str, bytes], float] = {}
        self._offsets: dict[str, int] = {}
        self._paid_usd = 0.0
        self._lost_total_usd = 0.0
        self._open_usd: dict[str, float] = {}
        self._open_total_usd = 0.0
        self._most_open = 0
        self._most_open_usd = 0.0
        self._waiting: list[tuple[asyncio.Future[None], str, int, float]] = []
        self._in_sync: list[tuple[asyncio.Future[None], str, int, float]] = []
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
        """Stored calls that the file had once and has no longer: it was cut, emptied or taken away. They were paid, and
        are among `lost_at_open`."""
        self._n_paid_twice = 0

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
            is_whole = journal._replay()
            os.fsync(descriptor)
            if is_new:
                sync_folder(path.parent)
            journal._durable = journal._end
            if not is_whole:  # what is missing is noted in the journal by now
                journal._write_mark()
        except BaseException:
            journal.close()
            raise
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
        return None if offset is None else _answer_in(self._record_at(offset))

    def _record_at(self, offset: int) -> _Record:
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
        return record

    def lost_usd(self, key: str, payer: bytes = b"") -> float:
        """The most that earlier sessions of `payer` may have paid for this call and never stored."""
        return self._lost_usd.get((key, payer), 0.0) if self._lost_usd else 0.0

    def begin(self, key: str, worst_usd: float, payer: bytes = b"") -> None:
        """Notes that the call is about to be sent, and the most that it may cost. LakeError if the disk refuses: then
        it must not be sent."""
        self._note(_BEGUN, key, _ESTIMATE.pack(worst_usd) + payer)
        self._is_sent(key, worst_usd)

    def hold(self, key: str, worst_usd: float) -> None:
        """Notes that a call of this session is about to be sent again, and the most that it may cost in all."""
        self._note(_HELD, key, _ESTIMATE.pack(worst_usd))
        self._is_sent(key, worst_usd)

    def _is_sent(self, key: str, worst_usd: float) -> None:
        """Has the mark know of the most that was on its way at once in this session: seldom more than before."""
        self._open_total_usd += worst_usd - self._open_usd.get(key, 0.0)
        self._open_usd[key] = worst_usd
        if len(self._open_usd) > self._most_open or self._open_total_usd > self._most_open_usd:
            self._most_open = max(self._most_open, len(self._open_usd))
            self._most_open_usd = max(self._most_open_usd, self._open_total_usd)
            self._write_mark()

    def _write_mark(self) -> None:
        n_open = len(self.lost_at_open) + self._most_open
        most_usd = self._paid_usd + self._lost_total_usd + self._most_open_usd
        self._mark.write(Known(self._durable, len(self._offsets), self._n_written, n_open, most_usd))

    def _note(self, kind: int, key: str, body: bytes) -> None:
        """Written before it returns: what a kill finds on the wire is in the file."""
        self._append(kind, key, body)
        refusal = self._write()
        if refusal is not None:
            raise refusal

    async def commit(self, key: str, record: bytes, usd: float = 0.0) -> None:
        """Returns once the record is on disk. Callers that come while a sync is running share the next one. `usd` is
        what was paid for it.

        Raises LakeError if the disk refuses; after a failed sync the journal takes nothing more, because what the
        kernel still holds of it is not known.
        """
        await self.commit_all([(key, record, usd)])

    async def commit_all(self, records: Sequence[tuple[str, bytes, float]]) -> None:
        """As `commit`, for many at once."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        for key, record, usd in records:
            self._waiting.append((written, key, self._append(_PRICED, key, _ESTIMATE.pack(usd) + record), usd))
        if not self._is_sync_due:
            self._is_sync_due = True
            loop.call_later(GATHER_S, self._begin_sync, loop)
        await written

    def records(self) -> Iterator[tuple[str, bytes]]:
        """(key, record) of every stored call, in the order they were stored."""
        for key, offset in self._in_order():
            yield key, _answer_in(self._record_at(offset))

    def places(self) -> Iterator[tuple[int, bytes]]:
        """(offset in the file, record) of every stored call, in the order they were stored; `stored_at` reads one."""
        for _, offset in self._in_order():
            yield offset, _answer_in(self._record_at(offset))

    def _in_order(self) -> list[tuple[str, int]]:
        return sorted(self._offsets.items(), key=lambda item: item[1])

    def loss(self) -> str:
        """What to say where `n_missing_at_open` is not 0."""
        n, n_left = self.n_missing_at_open, len(self._offsets)
        return (
            f"{self.path}: cut or taken away: {n} of the {n + n_left} answers that were safely in it are missing. They "
            f"were paid for and are asked again, so with those that were on their way up to {self._n_paid_twice} calls "
            "are paid twice; what they may have cost counts as spent. Where you have a backup of it, stop now (Ctrl-C) "
            "and restore it."
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
        if self._mark.is_written:
            self._most_open, self._most_open_usd = len(self._open_usd), self._open_total_usd
            self._write_mark()
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
        self._n_written = self._end
        return None

    def _refuse(self, what: str) -> LakeError:
        """Tells those who wait for the next sync that there will be none."""
        refusal = LakeError(f"{self.path}: {what}")
        waiting, self._waiting = self._waiting, []
        for written, _, _, _ in waiting:
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
        for written, key, offset, usd in self._in_sync:
            if (before := self._offsets.get(key)) is not None:
                self._paid_usd -= _paid_in(self._record_at(before))
            self._offsets[key] = offset  # here, not in `commit`: a caller that was cancelled has paid too
            self._paid_usd += usd
            self._open_total_usd -= self._open_usd.pop(key, 0.0)
            if not written.done():
                written.set_result(None)
        self._write_mark()
        self._is_sync_due = bool(self._waiting)
        if self._waiting:
            loop.call_later(GATHER_S, self._begin_sync, loop)

    def _replay(self, *, cut_off: bool = True) -> bool:
        """Reads the file once: offsets of stored calls, calls left open, and where the next record goes. False where
        something is missing; with `cut_off` that is noted in the file."""
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
                    if record.kind in (_COMMITTED, _PRICED):
                        begun.pop(record.key, None)
                        if (before := self._offsets.get(record.key)) is not None:
                            self._paid_usd -= _paid_in(_parse(view[before:]))
                        self._offsets[record.key] = self._end
                        self._paid_usd += _paid_in(record)
                    else:
                        self._replay_note(record, begun)
                    self._end += record.size
            if cut_off:
                os.ftruncate(self._descriptor, self._end)
        self._n_written = self._end
        self.lost_at_open += begun.values()
        is_whole = self._end >= known.written
        if not is_whole:
            self._note_missing(known, cut_off)
        for call in self.lost_at_open:
            place = (call.key, call.payer)
            self._lost_usd[place] = self._lost_usd.get(place, 0.0) + call.usd
            self._lost_total_usd += call.usd
        return is_whole

    def _note_missing(self, known: Known, is_written: bool) -> None:
        """The calls that went with a part of the file join those that were lost in kills. Nobody knows which they were,
        and stored ones may have been begun in what is left of it, so they fill up to what the mark knew of."""
        if self._end < known.end:
            self.n_missing_at_open = max(0, known.n_calls - len(self._offsets))
        self._n_paid_twice = self.n_missing_at_open + known.n_open
        n = max(0, self._n_paid_twice - len(self.lost_at_open))
        usd = known.most_usd - self._paid_usd - sum(call.usd for call in self.lost_at_open)
        if usd > 1e-9:
            n = max(n, 1)
        missing = [LostCall(MISSING, max(0.0, usd) / max(1, n), b"")] * n
        self.lost_at_open += missing
        if is_written:
            for call in missing:
                self._append(_BEGUN, call.key, _ESTIMATE.pack(call.usd))
            if (refusal := self._write()) is not None:
                raise refusal

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
        lost = [call for call in old.lost_at_open if call.key not in keys]
        _rewrite(old, lambda key: key not in keys, lost)


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
            _rewrite(old, set(stored).__contains__, [*notes, *missing])
    return n_noted


def _rewrite(old: Journal, keeps: Callable[[str], bool], lost: Sequence[LostCall]) -> None:
    """Puts a journal with the stored calls of these keys, and these lost ones, in the place of `old`."""
    shorter = beside(old.path)
    n_kept, paid_usd = 0, 0.0
    with Journal.open(shorter) as new:
        for key, offset in old._in_order():
            if keeps(key):
                record = old._record_at(offset)
                n_kept, paid_usd = n_kept + 1, paid_usd + _paid_in(record)
                new._note(record.kind, key, record.body)
        for call in lost:  # after the stored ones: a record ends the note before it
            new._note(_BEGUN, call.key, _ESTIMATE.pack(call.usd) + call.payer)
        os.fsync(new._descriptor)
        most_usd = paid_usd + sum(call.usd for call in lost)
        replace_mark(old.path, Known(new._end, n_kept, new._end, len(lost), most_usd))
    shorter.replace(old.path)
    sync_folder(old.path.parent)


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
    return None if record is None or record.kind not in (_COMMITTED, _PRICED) else _answer_in(record)


def _answer_in(record: _Record) -> bytes:
    """The completion of a stored call."""
    return record.body[_ESTIMATE.size :] if record.kind == _PRICED else record.body


def _paid_in(record: _Record | None) -> float:
    """What was paid for a stored call, in USD; 0 where an earlier version stored it."""
    if record is None or record.kind != _PRICED:
        return 0.0
    return float(_ESTIMATE.unpack_from(record.body)[0])


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
        or kind not in (_BEGUN, _COMMITTED, _HELD, _PRICED)
    ):
        return None
    key_end = _HEAD.size + key_length
    key = bytes(view[_HEAD.size : key_end]).decode("utf-8", "surrogatepass")
    return _Record(kind, key, bytes(view[key_end:size]), durable, size)
