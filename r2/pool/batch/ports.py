"""What the lanes meet at their edge to the disk: the store that makes jobs durable. `storage/runs/job_files.py`
implements it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from r2.pool.batch.protocol import BatchJob, BatchLine

Claim = Literal["answered", "failed", "again", "live", "unused"]
"""What became of one line of a job: it has a durable answer; a durable failure that stands; it is asked again in
another job; it is asked live; its answer was paid and nobody asks for it any more."""


@dataclass(slots=True)
class JobTotals:
    """What became of a job's lines so far, over all sessions. `cost_usd` at batch price, `live_usd` at the live one."""

    n_answered: int = 0
    n_failed: int = 0
    n_again: int = 0
    n_live: int = 0
    n_unused: int = 0
    cost_usd: float = 0.0
    live_usd: float = 0.0
    unused_usd: float = 0.0
    """Of `cost_usd`: what was paid for answers that no call of the run has."""

    def add(self, claim: Claim, cost_usd: float, live_usd: float) -> None:
        """Counts one line."""
        name = f"n_{claim}"
        setattr(self, name, getattr(self, name) + 1)
        self.cost_usd += cost_usd
        self.live_usd += live_usd
        if claim == "unused":
            self.unused_usd += cost_usd


@dataclass(slots=True)
class JobEnd:
    """How a job ended, as far as the provider and its results told. `why` is "" for one that simply ended; `rescued`
    says that it was given up for the deadline. Counts are of result rows that were not one per line."""

    state: str
    why: str = ""
    ended_at: float = 0.0
    n_twice: int = 0
    n_foreign: int = 0
    n_absent: int = 0
    rescued: bool = False


@dataclass(slots=True)
class StoredJob:
    """A job that is not settled: some of its lines have no durable outcome. `provider_id` None: it may never have
    reached the provider. `keys` are those of its lines, in order; `claimed` those with an outcome."""

    job: BatchJob
    provider_id: str | None
    keys: Sequence[str]
    claimed: set[str] = field(default_factory=set)
    totals: JobTotals = field(default_factory=JobTotals)
    end: JobEnd | None = None


class LinesWriter(Protocol):
    """The lines of a job that is being gathered, on their way to the disk."""

    def add(self, custom_id: str, body: bytes) -> None:
        """One more."""

    def finish(self) -> Collection[BatchLine]:
        """On disk (fsync); they can be read again and again, and are not held in memory."""

    def drop(self) -> None:
        """There will be no such job."""


class JobStore(Protocol):
    """Every method returns when what it says would survive a kill of the process; `intend` and `sent` also a loss of
    power. Errors of the disk are LakeError: then nothing further must be sent."""

    def writer(self, job_id: str) -> LinesWriter:
        """For the lines of a new job."""

    def intend(self, job: BatchJob) -> None:
        """The job is about to be sent; its lines are finished."""

    def sent(self, job_id: str, provider_id: str) -> None:
        """The provider has it under this id."""

    def claim(self, job_id: str, key: str, claim: Claim, cost_usd: float, live_usd: float) -> None:
        """One of its lines has an outcome, which is durable elsewhere. Written by the next `flush`."""

    def flush(self) -> None:
        """Writes the claims that wait."""

    def over(self, job_id: str, end: JobEnd) -> None:
        """It is over at the provider, or was given up."""

    def settled(self, job_id: str) -> None:
        """Every line has an outcome: its lines are no longer needed."""

    def open_jobs(self) -> list[StoredJob]:
        """Those that earlier sessions left, oldest first."""

    def lines(self, job: BatchJob) -> Collection[BatchLine]:
        """The lines of a job that is not settled, read from the disk each time."""

    def was_answered(self, entry: str) -> bool:
        """Whether an earlier job of this entry gave answers."""
