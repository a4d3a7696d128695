"""What a lane holds in memory: calls that wait, and jobs that are open, with one slot for each of their lines."""

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from r2.call import Attempt, Call, Completion
from r2.ledger import Usage
from r2.pool.batch.ports import Claim, JobEnd, JobStore, JobTotals, StoredJob
from r2.pool.batch.protocol import BatchJob, BatchLine, BatchRow
from r2.pool.client.ports import CallJournal

ID_DIGITS = 16
"""Of a job's id, at the head of each custom_id."""


class Clock(Protocol):
    """Time as the lanes need it: tests give another."""

    def time(self) -> float:
        """Seconds of the epoch, which may jump: for what is told to others."""

    def monotonic(self) -> float:
        """Seconds that only go forward: for every decision."""

    async def sleep(self, seconds: float) -> None:
        """Waits."""


class SystemClock:
    """The machine's."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class LaneTimes:
    """How long a lane waits for what, in seconds. Pauses grow from `_first_` by half, to `_most_`, a tenth of them
    drawn at random."""

    gather_s: float = 0.5
    """A job is cut when so long no call has come and no call of the run is on its way live."""
    gather_most_s: float = 30.0
    """Or when so long calls wait, whatever is on its way."""
    poll_first_s: float = 15.0
    poll_most_s: float = 300.0
    retry_first_s: float = 5.0
    """After an answer that decides nothing."""
    retry_most_s: float = 300.0
    queue_first_s: float = 60.0
    """After a refusal for the size of the queue."""
    queue_most_s: float = 900.0
    cancel_most_s: float = 600.0
    """So long a cancelled job is waited for; then it is given up, and what it may have cost is counted."""


@dataclass(slots=True)
class Outcome:
    """What the lane says to a call that waits: `again` and `live` tell it where to be asked next. `stopped`: the run is
    ending, and the job is read by the next session. `budget`: the money does not reach. `job` None: it was in none."""

    next: Literal["answered", "failed", "again", "live", "stopped", "budget"]
    completion: Completion | None = None
    job: "OpenJob | None" = None
    cost_usd: float = 0.0
    live_usd: float = 0.0


class Wave:
    """Calls that are waited for together. `done` is set when all have a completion, or with the error that broke it."""

    __slots__ = ("done", "n_open", "results", "tasks")

    def __init__(self, n_calls: int, done: "asyncio.Future[None]") -> None:
        self.results: list[Completion | None] = [None] * n_calls
        self.n_open = n_calls
        self.done = done
        self.tasks: list[asyncio.Task[None]] = []

    def settle(self, index: int, completion: Completion) -> None:
        """One of its calls has its completion."""
        self.results[index] = completion
        self.n_open -= 1
        if self.n_open == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: BaseException) -> None:
        """None of it can be used: a full disk, a bug."""
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(slots=True, eq=False)
class Waiting:
    """A call that waits for its row, the `index`-th of its wave. `worst` bounds what it may cost, `worst_usd` at batch
    price."""

    call: Call
    key: str
    wave: Wave
    index: int
    journal: CallJournal
    place: tuple[str, int]
    """Problem and rollout, for where it is asked live."""
    worst: Usage
    worst_usd: float
    queued_at: float
    attempts: Sequence[Attempt] = ()
    n_tries: int = 0
    is_told: bool = False


@dataclass(slots=True, eq=False)
class OpenJob:
    """A job that is not settled. `slots` has its lines without a row that was used: who waits for it; None where nobody
    does yet (it is of an earlier session); the row itself where it came before somebody asked. `done` has the lines
    whose rows came in this session, `before` those that had an outcome without it.

    `sent_at` is of our clock, `sent_monotonic` None before it was sent in this session. Where an earlier session
    sent it (`is_recovered`), `block_usd` is set aside for all lines at once; else each line has its own reserve.
    """

    facts: BatchJob
    lines: Collection[BatchLine]
    store: JobStore
    slots: dict[str, Waiting | BatchRow | None]
    totals: JobTotals = field(default_factory=JobTotals)
    before: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    provider_id: str | None = None
    sent_at: float = 0.0
    sent_monotonic: float | None = None
    state: str = "intended"
    n_provider_done: int | None = None
    n_ran: int = 0
    """Rows of lines that ran. A provider that counts more has billed what it does not show."""
    end: JobEnd = field(default_factory=lambda: JobEnd("running"))
    is_over: bool = False
    is_settled: bool = False
    n_unclaimed: int = 0
    is_recovered: bool = False
    block_usd: float | None = None
    block_spent_usd: float = 0.0

    @classmethod
    def stored(cls, stored: StoredJob, lines: Collection[BatchLine], store: JobStore) -> "OpenJob":
        """As an earlier session left it."""
        slots: dict[str, Waiting | BatchRow | None] = {key: None for key in stored.keys if key not in stored.claimed}
        job = cls(stored.job, lines, store, slots, stored.totals, set(stored.claimed), provider_id=stored.provider_id)
        job.n_unclaimed, job.is_recovered = len(slots), True
        job.sent_at = stored.job.created_at
        return job

    def claim(self, key: str, claim: Claim, cost_usd: float, live_usd: float) -> None:
        """A line has an outcome that is durable elsewhere."""
        self.store.claim(self.facts.id, key, claim, cost_usd, live_usd)
        self.totals.add(claim, cost_usd, live_usd)
        self.n_unclaimed -= 1
        self.settle_if_done()

    def settle_if_done(self) -> None:
        """Once it is over and every line has an outcome."""
        if self.is_over and self.n_unclaimed == 0 and not self.is_settled:
            self.is_settled = True
            self.store.settled(self.facts.id)


@dataclass(frozen=True, slots=True)
class LaneGauge:
    """One entry's lane at a glance. `why_closed` is "" while it takes calls."""

    name: str
    n_waiting: int
    n_in_jobs: int
    n_jobs: int
    n_done: int
    oldest_s: float
    why_closed: str
