"""A provider's batch endpoint in memory: what it was sent, what it billed, and whatever a test wants to go wrong."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field

import orjson

from r2.errors import BatchError, BatchGoneError, BatchQueueFullError, BatchRefusedError, BatchUnclearError
from r2.pool.batch.protocol import BatchJob, BatchLimits, BatchLine, BatchRow, BatchStatus, State

Reply = Callable[[str, bytes], BatchRow]
"""(custom_id, body) -> the row."""


def says(text: str = "4", n_input: int = 20, n_output: int = 5) -> Reply:
    """Every line is answered so."""
    body = orjson.dumps(
        {
            "id": "x",
            "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": n_input, "completion_tokens": n_output, "total_tokens": n_input + n_output},
        }
    )
    return lambda custom_id, sent: BatchRow(custom_id, 200, body)


@dataclass(slots=True, eq=False)
class FakeJob:
    """One job there. `n_polls` are left until it is over; `n_done` rows are done when it is cancelled or expires."""

    id: str
    facts: BatchJob
    lines: list[BatchLine]
    n_polls: int
    state: State = "running"
    n_done: int | None = None
    error: str = ""
    is_gone: bool = False


@dataclass(slots=True, eq=False)
class FakeBatches:
    """Implements `BatchProvider`. A job is over after `n_polls` polls; `n_polls` -1: never. Results come shuffled.

    `wrong` has errors to raise, by method, first come first served; `change` rewrites the rows of a result;
    `loses_answers`: submit creates the job and then breaks. `ran` counts how often each custom_id was run and billed.
    """

    limits: BatchLimits = field(default_factory=lambda: BatchLimits(50_000, 200_000_000, listing_lag_s=0.0))
    reply: Reply = field(default_factory=says)
    n_polls: int = 1
    wrong: dict[str, list[BatchError]] = field(default_factory=dict)
    change: Callable[[FakeJob, list[BatchRow]], list[BatchRow]] = lambda job, rows: rows
    loses_answers: bool = False
    ends_as: list[State] = field(default_factory=list)
    ends_when_cancelled: bool = True
    queue_tokens: int | None = None
    share_done: float = 0.5
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    ran: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    is_sent: asyncio.Event = field(default_factory=asyncio.Event)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def _break(self, method: str) -> None:
        self.asked[method] += 1
        if self.wrong.get(method):
            raise self.wrong[method].pop(0)

    async def submit(self, job: BatchJob, lines: Collection[BatchLine]) -> str:
        self._break("submit")
        await asyncio.sleep(0)
        sent = list(lines)
        assert len(sent) == job.n_rows == len({line.custom_id for line in sent})
        assert all(line.custom_id.startswith(job.id[:16]) and len(line.custom_id) == 48 for line in sent)
        assert len(sent) <= self.limits.max_rows
        n_bytes = sum(len(line.body) + self.limits.line_overhead_bytes for line in sent)
        assert n_bytes + self.limits.job_overhead_bytes <= self.limits.max_bytes
        if any(one.facts.id == job.id for one in self.jobs.values()):
            raise AssertionError(f"job {job.id} was submitted twice")
        if self.queue_tokens is not None:
            there = sum(one.facts.n_tokens for one in self.jobs.values() if one.state == "running")
            if there + job.n_tokens > self.queue_tokens:
                raise BatchQueueFullError(f"{there} tokens wait, {job.n_tokens} more do not fit")
        made = FakeJob(f"batch_{next(self._numbers)}", job, sent, self.n_polls)
        self.jobs[made.id] = made
        self.is_sent.set()
        if self.loses_answers:
            raise BatchUnclearError("cut", may_exist=True)
        return made.id

    async def status(self, provider_id: str) -> BatchStatus:
        self._break("status")
        await asyncio.sleep(0)
        job = self._job(provider_id)
        if job.state == "running" and job.n_polls == 0:
            self._end(job, self.ends_as.pop(0) if self.ends_as else "ended")
        job.n_polls -= job.n_polls > 0
        return BatchStatus(provider_id, job.state, len(job.lines), job.n_done, error_code=job.error)

    def _end(self, job: FakeJob, state: State) -> None:
        job.state = state
        if state == "failed":
            job.error = job.error or "bad_line"
            return
        job.n_done = len(job.lines) if state == "ended" else round(self.share_done * len(job.lines))
        for line in job.lines[: job.n_done]:
            self.ran[line.custom_id] += 1

    async def results(self, provider_id: str) -> AsyncIterator[BatchRow]:
        self._break("results")
        job = self._job(provider_id)
        assert job.state not in ("running", "submitted")
        rows = [self.reply(line.custom_id, line.body) for line in job.lines[: job.n_done or 0]]
        random.Random(provider_id).shuffle(rows)
        rows += [BatchRow(line.custom_id, 0, b"", job.state) for line in job.lines[job.n_done or 0 :]]
        for row in self.change(job, rows):
            if isinstance(row, BatchError):
                raise row
            yield row

    async def cancel(self, provider_id: str) -> None:
        self._break("cancel")
        job = self._job(provider_id)
        if job.state == "running" and self.ends_when_cancelled:
            self._end(job, "cancelled")

    async def find(self, job: BatchJob, custom_ids: Collection[str]) -> str | None:
        self._break("find")
        found = [one for one in self.jobs.values() if one.facts.id == job.id]
        if found:
            assert set(custom_ids) == {line.custom_id for line in found[0].lines}
        return found[0].id if found else None

    def _job(self, provider_id: str) -> FakeJob:
        job = self.jobs.get(provider_id)
        if job is None or job.is_gone:
            raise BatchGoneError(f"no job {provider_id}")
        return job


def refuses(text: str, line: int | None = None) -> BatchRefusedError:
    """A job refused whole."""
    return BatchRefusedError(text, "invalid", line)
