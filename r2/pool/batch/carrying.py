"""One job carried to its end: sent, looked for where it may be lost, followed, cancelled near the deadline, read.

What comes of it is told to its lane (`r2/pool/batch/lane.py`), which knows the calls and the money.
"""

import random
from collections.abc import Collection, Iterator
from typing import Final, Protocol

from r2.errors import (
    BatchGoneError,
    BatchLaneDownError,
    BatchQueueFullError,
    BatchRefusedError,
    BatchUnclearError,
)
from r2.pool.batch.jobs import ID_DIGITS, Clock, LaneTimes, OpenJob, Waiting
from r2.pool.batch.ports import JobEnd, JobStore
from r2.pool.batch.protocol import BatchProvider, BatchRow, BatchStatus

MOST_CUT: Final = 5
"""Times that results are read which break off after some rows; then what did not come is taken as lost."""
TURN: Final = 256
"""Calls handled in one go before others get the loop."""


class JobOwner(Protocol):
    """What a job's lane does with what comes of it."""

    def rescue_at(self, n_rows: int) -> float:
        """The monotonic time at which a job of so many open rows must be given up for the deadline."""

    def deliver(self, job: OpenJob, waiting: Waiting, row: BatchRow) -> None:
        """A row came for a call that waits."""

    def over(self, job: OpenJob, end: JobEnd, *, is_lost: bool = False) -> None:
        """It is over: lines without a row did not run or, if `is_lost`, may have run."""

    def refused(self, job: OpenJob, why: str, line: int | None) -> None:
        """Refused whole; `line` is blamed."""

    def queue_full(self, job: OpenJob, why: str) -> None:
        """Refused for the size of the provider's queue."""

    def took(self, seconds: float) -> None:
        """A job that was sent in this session has ended by itself."""

    async def ease(self) -> None:
        """Lets others have the loop, and waits until what was delivered is nearly all on disk."""

    def close_for(self, why: str) -> None:
        """No further job of this entry."""


class Carrier:
    """Carries the jobs of one entry; several at a time."""

    def __init__(
        self, lane: JobOwner, provider: BatchProvider, store: JobStore, times: LaneTimes, clock: Clock
    ) -> None:
        self._lane = lane
        self._provider = provider
        self._store = store
        self._times = times
        self._clock = clock

    async def resume(self, job: OpenJob) -> None:
        """A job of an earlier session: looked for where its id is not known, followed where it is."""
        job.sent_monotonic = self._clock.monotonic()
        if job.end.state != "running" and job.provider_id is None:
            self._lane.over(job, job.end)
            return
        if job.provider_id is None:
            try:
                found = await self._found(job)
            except _TooLateError as late:
                self._give_up(job, str(late))
                return
            if found is None:
                self._lane.over(job, JobEnd("never_sent", "the provider has no such job", self._clock.time()))
                return
            self._store.sent(job.facts.id, found)
            job.provider_id = found
        await self._follow(job)

    async def carry(self, job: OpenJob) -> None:
        """Sent, and followed."""
        provider_id = await self._submitted(job)
        if provider_id is None:
            return
        self._store.sent(job.facts.id, provider_id)
        job.provider_id, job.state = provider_id, "submitted"
        await self._follow(job)

    async def _submitted(self, job: OpenJob) -> str | None:
        """The provider's id; None where it was refused, which has been dealt with."""
        pause = self._times.retry_first_s
        while True:
            try:
                return await self._provider.submit(job.facts, job.lines)
            except BatchUnclearError as unclear:
                wait_s = max(pause, unclear.retry_after_s or 0.0)
                may_exist, why = unclear.may_exist, str(unclear)
            except BatchQueueFullError as full:
                self._lane.queue_full(job, str(full))
                return None
            except BatchRefusedError as refused:
                self._lane.refused(job, str(refused), refused.line)
                return None
            except BatchLaneDownError as down:
                self._lane.close_for(str(down))
                self._lane.over(job, JobEnd("refused", str(down), self._clock.time()))
                return None
            try:
                if may_exist and (found := await self._found(job)) is not None:
                    return found
            except _TooLateError as late:
                self._give_up(job, str(late))
                return None
            if self._is_late(job):
                self._lane.close_for(f"the provider took no job before the deadline: {why}")
                self._lane.over(job, JobEnd("refused", why, self._clock.time(), rescued=True))
                return None
            await self._pause(wait_s)
            pause = min(pause * 1.5, self._times.retry_most_s)

    def _give_up(self, job: OpenJob, why: str) -> None:
        """The provider may have the job, and may bill it."""
        self._lane.close_for(f"job {job.facts.id[:8]} of {job.facts.n_rows} calls is given up for the deadline: {why}")
        self._lane.over(job, JobEnd("abandoned", why, self._clock.time(), rescued=True), is_lost=True)

    async def _found(self, job: OpenJob) -> str | None:
        """The provider's id of a job that it may have; asked until it says, and not before its list can have it.
        _TooLateError where it does not say before the deadline."""
        await self._pause(self._provider.limits.listing_lag_s)
        ids = _Ids(job)
        pause = self._times.retry_first_s
        while True:
            try:
                return await self._provider.find(job.facts, ids)
            except BatchUnclearError as unclear:
                if self._is_late(job):
                    raise _TooLateError(f"nobody knows whether the provider has it: {unclear}") from unclear
                await self._pause(max(pause, unclear.retry_after_s or 0.0))
                pause = min(pause * 1.5, self._times.retry_most_s)

    async def _follow(self, job: OpenJob) -> None:
        """Polled until it is over, read, and every line dealt with."""
        assert job.provider_id is not None
        pause, cancelled_at = self._times.poll_first_s, None
        while True:
            try:
                status = await self._provider.status(job.provider_id)
            except BatchUnclearError as unclear:
                pause = max(pause, unclear.retry_after_s or 0.0)
            except BatchGoneError as gone:
                self._lane.over(job, JobEnd("gone", str(gone), self._clock.time()), is_lost=True)
                return
            else:
                job.state, job.n_provider_done = status.state, status.n_done
                if status.is_over:
                    await self._read(job, status)
                    return
            if cancelled_at is None and self._is_late(job) and await self._cancelled(job):
                cancelled_at = self._clock.monotonic()
                pause = self._times.poll_first_s
            if self._is_given_up(job, cancelled_at):
                why = "given up for the deadline, and it did not end when it was cancelled"
                self._lane.over(job, JobEnd("abandoned", why, self._clock.time(), rescued=True), is_lost=True)
                return
            await self._pause(pause)
            pause = min(pause * 1.5, self._times.poll_most_s)

    def _is_late(self, job: OpenJob) -> bool:
        """Whether the job must be given up for the deadline: its last moment has come, or its pace says that it will
        not make it, after half of the time that it had."""
        now, last = self._clock.monotonic(), self._lane.rescue_at(len(job.slots))
        if now >= last:
            return True
        began, n_done = job.sent_monotonic, job.n_provider_done
        if began is None or not n_done or last == float("inf") or now - began < (last - began) / 2:
            return False
        return began + (now - began) * job.facts.n_rows / n_done > last

    async def _cancelled(self, job: OpenJob) -> bool:
        """Whether the provider took the request to end the job."""
        assert job.provider_id is not None
        self._lane.close_for(f"job {job.facts.id[:8]} of {job.facts.n_rows} calls is given up for the deadline")
        job.end.rescued = True
        try:
            await self._provider.cancel(job.provider_id)
        except BatchUnclearError:
            return False
        except BatchGoneError:
            return True  # the status will say so
        return True

    def _is_given_up(self, job: OpenJob, cancelled_at: float | None) -> bool:
        if not job.end.rescued:
            return False
        now, last = self._clock.monotonic(), self._lane.rescue_at(len(job.slots))
        since = last if cancelled_at is None else cancelled_at
        return now >= since + self._times.cancel_most_s

    async def _read(self, job: OpenJob, status: BatchStatus) -> None:
        """All rows of a job that is over; then the lines that have none."""
        end = job.end
        end.state, end.ended_at = status.state, status.ended_at or self._clock.time()
        if end.rescued:
            end.why = "given up for the deadline"
        if status.state == "failed":
            end.why = f"{status.error_code}: {status.error_text}".strip(": ")
            if status.error_code == "queue_full":
                self._lane.queue_full(job, end.why)
            else:
                self._lane.refused(job, end.why, None)
            return
        if status.state == "ended" and job.sent_monotonic is not None and not job.is_recovered:
            self._lane.took(self._clock.monotonic() - job.sent_monotonic)
        is_lost = await self._rows(job)
        ran_unseen = status.n_done is None or status.n_done > job.n_ran
        self._lane.over(job, end, is_lost=is_lost or status.state == "ended" or ran_unseen)

    async def _rows(self, job: OpenJob) -> bool:
        """Reads the results until they are whole. True where they are no longer kept, never came whole, or did not come
        by the deadline though there was time to ask often: what is absent may have run."""
        assert job.provider_id is not None
        pause, n_cut, n_taken = self._times.retry_first_s, 0, 0
        patient_until = self._clock.monotonic() + self._times.cancel_most_s
        while True:
            n_before = len(job.done)
            try:
                async for row in self._provider.results(job.provider_id):
                    self._take(job, row, is_first_reading=n_cut == 0)
                    n_taken += 1
                    if n_taken % TURN == 0:
                        await self._lane.ease()
                return False
            except BatchUnclearError as unclear:
                n_cut += len(job.done) > n_before or n_cut > 0
                if n_cut >= MOST_CUT:
                    job.end.why = f"its results never came whole: {unclear}"
                    return True
                if self._clock.monotonic() >= max(patient_until, self._lane.rescue_at(len(job.slots))):
                    self._lane.close_for(f"the results of job {job.facts.id[:8]} cannot be read: {unclear}")
                    job.end.rescued, job.end.why = True, f"its results did not come before the deadline: {unclear}"
                    return True
                await self._pause(max(pause, unclear.retry_after_s or 0.0))
                pause = min(pause * 1.5, self._times.retry_most_s)
            except BatchGoneError as gone:
                job.end.why = str(gone)
                return True

    def _take(self, job: OpenJob, row: BatchRow, *, is_first_reading: bool) -> None:
        """One row: to the call that waits for it, or kept until it is asked for."""
        prefix, key = row.custom_id[:ID_DIGITS], row.custom_id[ID_DIGITS:]
        if key in job.before and prefix == job.facts.id[:ID_DIGITS]:
            job.n_ran += is_first_reading and row.status != 0
            return
        if prefix != job.facts.id[:ID_DIGITS] or (key not in job.slots and key not in job.done):
            job.end.n_foreign += is_first_reading
            return
        if key in job.done:
            job.end.n_twice += is_first_reading
            return
        job.done.add(key)
        job.n_ran += row.status != 0
        slot = job.slots[key]
        if isinstance(slot, Waiting):
            self._lane.deliver(job, slot, row)
        else:
            job.slots[key] = row

    async def _pause(self, seconds: float) -> None:
        await self._clock.sleep(seconds * random.uniform(0.9, 1.1))


class _TooLateError(Exception):
    """The deadline came before the provider said whether it has a job."""


class _Ids(Collection[str]):
    """The custom_ids of a job, read from its lines when they are needed."""

    def __init__(self, job: OpenJob) -> None:
        self._job = job

    def __len__(self) -> int:
        return self._job.facts.n_rows

    def __iter__(self) -> Iterator[str]:
        return (line.custom_id for line in self._job.lines)

    def __contains__(self, custom_id: object) -> bool:
        return any(custom_id == one for one in self)
