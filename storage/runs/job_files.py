"""The batch jobs of a run on disk: what is sent, under which id the provider has it, and what became of each line.

Three files a job, in `<run folder>/jobs/`:

    ID.lines    custom_id, tab, body: one request a line; written and synced before the job exists, gone when it is
                settled
    ID.job      its events, one JSON line each behind its CRC: intent, sent, over, settled, stored. Synced
    ID.claims   37 bytes for each line with a durable outcome: key, what became of it, USD at batch and at live price,
                CRC. Written at once, not synced: after a loss of power a result is read from the provider once more

A torn last event or claim was never acknowledged and is cut off.
"""

import os
import struct
import time
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from r2.errors import LakeError
from r2.pool.batch.ports import Claim, JobEnd, JobTotals, StoredJob
from r2.pool.batch.protocol import BatchJob, BatchLine
from r2.records.tables import JobRow
from storage.lake.lake import Lake
from storage.lake.manifest import make_folder, sync_folder

_CLAIM = struct.Struct("<16sBdd")
_CRC = struct.Struct("<I")
_CLAIM_BYTES = _CLAIM.size + _CRC.size
_CLAIMS: tuple[Claim, ...] = ("answered", "failed", "again", "live", "unused")
_CODE = {claim: code for code, claim in enumerate(_CLAIMS)}
JOB_ID_DIGITS = 16
"""Of a job's id, at the head of each custom_id."""


class StoredLines(Collection[BatchLine]):
    """The lines of a job, read from its file each time anew."""

    def __init__(self, path: Path, n_lines: int) -> None:
        self._path = path
        self._n_lines = n_lines

    def __len__(self) -> int:
        return self._n_lines

    def __iter__(self) -> Iterator[BatchLine]:
        with self._path.open("rb") as file:
            for line in file:
                custom_id, _, body = line.partition(b"\t")
                yield BatchLine(custom_id.decode(), body[:-1])

    def __contains__(self, line: object) -> bool:
        return any(line == one for one in self)


class _Writer:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("xb", buffering=1 << 18)
        self._n_lines = 0

    def add(self, custom_id: str, body: bytes) -> None:
        if b"\n" in body:
            raise LakeError(
                f"{self._path}: the body of {custom_id} has a line break, which JSON as we write it has not."
            )
        self._file.write(b"%b\t%b\n" % (custom_id.encode(), body))
        self._n_lines += 1

    def finish(self) -> StoredLines:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return StoredLines(self._path, self._n_lines)

    def drop(self) -> None:
        self._file.close()
        self._path.unlink()


@dataclass(slots=True)
class JobRecord:
    """All that is on disk about one job. `provider_id` None: not known to have reached the provider."""

    job: BatchJob
    provider_id: str | None = None
    sent_at: float | None = None
    end: JobEnd | None = None
    is_settled: bool = False
    is_stored: bool = False
    """Its row is in the lake."""
    totals: JobTotals = field(default_factory=JobTotals)
    claimed: set[str] = field(default_factory=set)


class JobFiles:
    """Implements `r2.pool.batch.ports.JobStore`. For the process that holds the run's lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._claims: dict[str, BinaryIO] = {}
        self._unwritten: set[BinaryIO] = set()
        self._answered: set[str] | None = None

    def close(self) -> None:
        """Lets the files go; everything is written already."""
        self.flush()
        for file in self._claims.values():
            file.close()
        self._claims.clear()

    def __enter__(self) -> "JobFiles":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def writer(self, job_id: str) -> _Writer:
        make_folder(self.folder)
        with _told(self.folder):
            return _Writer(self.folder / f"{job_id}.lines")

    def intend(self, job: BatchJob) -> None:
        self._event(job.id, {"event": "intent", "job": asdict(job)})
        sync_folder(self.folder)

    def sent(self, job_id: str, provider_id: str) -> None:
        self._event(job_id, {"event": "sent", "provider_id": provider_id})

    def over(self, job_id: str, end: JobEnd) -> None:
        self._event(job_id, {"event": "over", "end": asdict(end)})

    def claim(self, job_id: str, key: str, claim: Claim, cost_usd: float, live_usd: float) -> None:
        file = self._claims.get(job_id)
        if file is None:
            with _told(self.folder):
                file = self._claims[job_id] = (self.folder / f"{job_id}.claims").open("ab", buffering=1 << 16)
        packed = _CLAIM.pack(bytes.fromhex(key), _CODE[claim], cost_usd, live_usd)
        file.write(packed + _CRC.pack(zlib.crc32(packed)))
        self._unwritten.add(file)

    def flush(self) -> None:
        with _told(self.folder):
            for file in self._unwritten:
                file.flush()
        self._unwritten.clear()

    def settled(self, job_id: str) -> None:
        self.flush()
        self._event(job_id, {"event": "settled"})
        if (file := self._claims.pop(job_id, None)) is not None:
            file.close()
        with suppress(FileNotFoundError):
            (self.folder / f"{job_id}.lines").unlink()

    def stored(self, job_ids: Collection[str]) -> None:
        """Their rows are in the lake."""
        for job_id in job_ids:
            self._event(job_id, {"event": "stored"})

    def open_jobs(self) -> list[StoredJob]:
        self._drop_strays()
        found = []
        for one in self.records():
            if one.is_settled:
                continue
            keys = [line.custom_id[JOB_ID_DIGITS:] for line in self.lines(one.job)]
            found.append(StoredJob(one.job, one.provider_id, keys, one.claimed, one.totals, one.end))
        return found

    def lines(self, job: BatchJob) -> StoredLines:
        """Of a job that is not settled. LakeError where its file is gone or cut."""
        path = self.folder / f"{job.id}.lines"
        lines = StoredLines(path, job.n_rows)
        with _told(path):
            n_lines = sum(1 for _ in lines)
        if n_lines != job.n_rows:
            raise LakeError(
                f"{path}: {n_lines} lines, where the job has {job.n_rows}. They were synced before the job was sent: "
                "restore the file from a backup; without it the paid results of the job cannot be told apart."
            )
        return lines

    def was_answered(self, entry: str) -> bool:
        if self._answered is None:
            self._answered = {one.job.entry for one in self.records() if one.totals.n_answered}
        return entry in self._answered

    def records(self) -> list[JobRecord]:
        """Every job of the run, oldest first."""
        found = [one for path in self.folder.glob("*.job") if (one := self._read(path)) is not None]
        return sorted(found, key=lambda one: (one.job.created_at, one.job.id))

    def unused_usd(self) -> float:
        """What was paid for rows that no call of the run has."""
        return sum(one.totals.unused_usd for one in self.records())

    def _drop_strays(self) -> None:
        """Lines of a job that was never intended: nothing of it was sent."""
        for path in self.folder.glob("*.lines"):
            job = path.with_suffix(".job")
            if not job.exists() or self._read(job) is None:
                path.unlink()

    def _read(self, path: Path) -> JobRecord | None:
        """None for a job whose intent was cut off: it was not sent."""
        record: JobRecord | None = None
        for event in _events(path):
            kind = event["event"]
            if kind == "intent":
                record = JobRecord(BatchJob(**event["job"]))
            elif record is None:
                raise LakeError(
                    f"{path}: begins with {kind!r}, where the intent is expected. Restore it from a backup."
                )
            elif kind == "sent":
                record.provider_id, record.sent_at = event["provider_id"], event["at"]
            elif kind == "over":
                record.end = JobEnd(**event["end"])
            elif kind == "settled":
                record.is_settled = True
            elif kind == "stored":
                record.is_stored = True
        if record is not None:
            self._read_claims(record)
        return record

    def _read_claims(self, record: JobRecord) -> None:
        path = self.folder / f"{record.job.id}.claims"
        if not path.exists():
            return
        stored = memoryview(path.read_bytes())
        for at in range(0, len(stored), _CLAIM_BYTES):
            packed, crc = stored[at : at + _CLAIM.size], stored[at + _CLAIM.size : at + _CLAIM_BYTES]
            if len(crc) < _CRC.size or _CRC.unpack(crc)[0] != zlib.crc32(packed):
                if record.job.id not in self._claims:  # nobody writes it: what follows was lost with the power
                    os.truncate(path, at)
                return
            raw, code, cost_usd, live_usd = _CLAIM.unpack(packed)
            key = raw.hex()
            if key not in record.claimed:
                record.claimed.add(key)
                record.totals.add(_CLAIMS[code], cost_usd, live_usd)

    def _event(self, job_id: str, event: dict[str, Any]) -> None:
        body = orjson.dumps({**event, "at": time.time()})
        path = self.folder / f"{job_id}.job"
        with _told(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.write(descriptor, b"%08x %b\n" % (zlib.crc32(body), body))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@dataclass(frozen=True, slots=True)
class BatchReceipt:
    """What went by batch, over all sessions of a run. `n_open` jobs are still with their providers."""

    n_jobs: int = 0
    n_open: int = 0
    n_answered: int = 0
    n_rescued: int = 0
    n_live: int = 0
    cost_usd: float = 0.0
    live_usd: float = 0.0
    unused_usd: float = 0.0


def receipt_of(folder: Path) -> BatchReceipt:
    """Of the run whose jobs are in this folder."""
    records = JobFiles(folder).records()
    return BatchReceipt(
        len(records),
        sum(one.end is None for one in records),
        sum(one.totals.n_answered for one in records),
        sum(one.totals.n_live for one in records if one.end is not None and one.end.rescued),
        sum(one.totals.n_live for one in records),
        sum(one.totals.cost_usd for one in records),
        sum(one.totals.live_usd for one in records),
        sum(one.totals.unused_usd for one in records),
    )


def store_jobs(folder: Path, lake: Lake, run_id: str, *, is_complete: bool) -> None:
    """Puts the jobs that are settled into the table `jobs`, each once; where the run `is_complete`, all that there
    are."""
    files = JobFiles(folder)
    due = [one for one in files.records() if not one.is_stored and (one.is_settled or is_complete)]
    for one in due:
        lake.commit(run_id, f"jobs-{one.job.id}", {"jobs": [_job_row(run_id, one)]})
    files.stored([one.job.id for one in due])


def _job_row(run_id: str, one: JobRecord) -> JobRow:
    end, totals = one.end or JobEnd("running"), one.totals
    return JobRow(
        run_id=run_id,
        job_id=one.job.id,
        request_model=one.job.entry,
        provider_id=one.provider_id,
        state=end.state,
        reason=end.why or None,
        is_rescued=end.rescued,
        n_rows=one.job.n_rows,
        n_answered=totals.n_answered,
        n_failed=totals.n_failed,
        n_again=totals.n_again,
        n_live=totals.n_live,
        n_unused=totals.n_unused,
        n_absent=end.n_absent,
        n_twice=end.n_twice,
        n_foreign=end.n_foreign,
        worst_usd=one.job.worst_usd,
        cost_usd=totals.cost_usd,
        live_usd=totals.live_usd,
        submitted_at=one.sent_at or one.job.created_at,
        ended_at=end.ended_at or None,
    )


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a job, a torn last one cut off. LakeError for one that is damaged in the middle."""
    stored = path.read_bytes()
    at = 0
    while at < len(stored):
        end = stored.find(b"\n", at)
        crc, _, body = stored[at : end if end >= 0 else len(stored)].partition(b" ")
        if end < 0 or crc != b"%08x" % zlib.crc32(body):
            if b"\n" in stored[at:].rstrip(b"\n"):
                raise LakeError(
                    f"{path}: the event at byte {at} is damaged, though later ones are there. Restore the file from a "
                    "backup: it says which job was sent and paid."
                )
            os.truncate(path, at)
            return
        yield orjson.loads(body)
        at = end + 1


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of the disk as LakeError."""
    try:
        yield
    except OSError as error:
        raise LakeError(f"{path}: {error}. Make room or mend the disk, and run the same command again.") from error
