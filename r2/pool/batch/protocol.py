"""What a provider's batch endpoint is to the rest of the project: jobs of lines in, rows out. No I/O.

One `BatchProvider` per pool entry: it knows address, key and served model. The lane decides what is sent when, keeps
the money, and makes everything durable; a provider translates, and keeps nothing that is needed after a kill. In order,
for one job:

    lane: job and lines on disk (intent)  ->  submit  ->  lane: the provider's id on disk  ->  status ... status
    ->  results (also of a failed, expired or cancelled job: what is done is paid)  ->  lane: each row in the journal

After a kill between intent and id the lane asks `find` and submits again only when `find` has returned None.

Errors (r2/errors.py) are raised as below and as nothing else; cancellation goes through.

    BatchRefusedError     the provider read it and will not take it: nothing of it exists there, nothing is billed
    BatchQueueFullError   too much of ours is waiting there: nothing of it exists there, later it will be taken
    BatchLaneDownError    key, money, model or endpoint are refused or absent: no job of this entry can be taken
    BatchUnclearError     no answer, 5xx, a rate limit: ask again later; `may_exist` says what else it means
    BatchGoneError        the provider does not know this job, or no longer has its results
"""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Final, Literal, Protocol

State = Literal["submitted", "running", "ended", "failed", "expired", "cancelled"]
"""submitted: taken, being checked or waiting. running: also while it finalizes or a cancel is on its way. ended: every
line has a result, good or bad. failed: refused as a whole after it was taken; nothing ran. expired, cancelled: what was
done until then has results and is billed, the rest has not run and is not."""

OVER: Final[frozenset[State]] = frozenset({"ended", "failed", "expired", "cancelled"})
"""States that do not change any more."""


@dataclass(frozen=True, slots=True)
class BatchJob:
    """One job as we know it before it is sent. `id` is ours: 32 hexadecimal digits, never used twice.

    A provider that has a metadata field, a display name or a name puts `id` and `run_id` there. `worst_usd` is the most
    that all lines may cost at batch price; `created_at` is in epoch seconds by our clock, which may be wrong;
    `n_tokens` is the upper estimate of its prompt tokens, `n_bytes` the sum of the bodies.
    """

    id: str
    run_id: str
    entry: str
    n_rows: int
    n_bytes: int
    n_tokens: int
    worst_usd: float
    created_at: float


@dataclass(slots=True)  # not frozen: one is made per line
class BatchLine:
    """One request. `custom_id` is 48 hexadecimal digits: the first 16 of `BatchJob.id`, then 32 that name the call, so
    that a row says which job it belongs to. `body` is the JSON body of the live request, as bytes, in the entry's
    dialect (`r2.pool.client.wire.request_body`); a provider wraps it and does not change it, but for fields that its
    batch form keeps elsewhere (the model of Gemini and Mistral) or does not take (`stream`)."""

    custom_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one job, and all of an entry's jobs together, may have.

    `max_bytes` bounds the file or request as sent: bodies plus `line_overhead_bytes` (the most that wrapping adds to a
    line, the newline and the 48 digits included) per line plus `job_overhead_bytes`. `max_queued_tokens` bounds the
    prompt tokens of all jobs that are not over; None: no such limit, or unknown. `has_metadata`: `find` goes by a field
    that holds our id, and may be believed at once; else by listing. `window_s`: seconds within which the provider
    promises the results. `listing_lag_s`: a job that was just created may be missing from the list for so long.
    """

    max_rows: int
    max_bytes: int
    line_overhead_bytes: int = 256
    job_overhead_bytes: int = 1024
    max_queued_tokens: int | None = None
    has_metadata: bool = True
    window_s: float = 86_400.0
    listing_lag_s: float = 30.0


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """A job as the provider sees it now. Counts are None where it does not say (Anthropic: until the end).

    `error_code` and `error_text` say why a job `failed`. Of the codes one is ours: "queue_full", where the provider
    takes a job first and refuses it for the size of the queue afterwards (OpenAI's `token_limit_exceeded`); the others
    are the provider's words. `expected_end` is when it will end at the latest as the provider says it now (OpenAI's and
    Anthropic's `expires_at`); `created_at`, `started_at`, `ended_at` are the provider's times. All in epoch seconds by
    the provider's clock, None where it does not say.
    """

    provider_id: str
    state: State
    n_rows: int | None = None
    n_done: int | None = None
    n_failed: int | None = None
    error_code: str = ""
    error_text: str = ""
    expected_end: float | None = None
    created_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def is_over(self) -> bool:
        return self.state in OVER


@dataclass(slots=True)  # not frozen: one is made per row
class BatchRow:
    """One line of a result, as it came: in any order, perhaps twice, perhaps of another job.

    `status` and `body` are those of the live exchange: 200 and the reply's JSON, or 4xx/5xx and the provider's error
    object, so that the dialect reads them as it reads live ones. Providers that give no HTTP status have it made from
    the error's type or code. `status` 0 says that the line did not run, and `error` why: "expired", "cancelled", or the
    provider's word. A whole line that cannot be read has `custom_id` "" and the line as `body`. A line without a
    `custom_id` that is text has "" as well.
    """

    custom_id: str
    status: int
    body: bytes
    error: str = ""


class BatchProvider(Protocol):
    """One entry's batch endpoint. Safe to be used by several jobs at a time. Every method makes its own requests, each
    with a time limit, and repeats none: the lane does that, with pauses that it chooses.

    Made by `open_provider(dialect, base_url, served_model, api_key_env, *, session, environ)` of the module `providers`
    beside this one, which is None for a dialect that has no batch endpoint we know. `dialect` is the entry's `Dialect`,
    `base_url` the pool file's address, `session` an `aiohttp.ClientSession` that the caller closes. The key is read
    from `environ` when a request is sent, and struck from everything that comes back.
    """

    @property
    def limits(self) -> BatchLimits:
        """As known for this provider; constant."""

    async def submit(self, job: BatchJob, lines: Collection[BatchLine]) -> str:
        """Uploads and creates; returns the provider's id, which is all that `status`, `results` and `cancel` need.

        `lines` can be iterated more than once and is not held as a list by the caller: it should not be made one where
        that can be avoided. They are within `limits`, distinct, and of one model.

        BatchRefusedError: refused whole (a bad line, too large, a model that has no batch); BatchQueueFullError;
        BatchLaneDownError. BatchUnclearError(may_exist=False): it broke before anything was created that would run (the
        upload, say), and may be sent again. BatchUnclearError(may_exist=True): it broke while the job was being
        created, and it may run: `find` comes before any further `submit`. Where in doubt, may_exist is True.
        """

    async def status(self, provider_id: str) -> BatchStatus:
        """BatchUnclearError: ask again. BatchGoneError: the provider does not know the id (any more)."""

    def results(self, provider_id: str) -> AsyncIterator[BatchRow]:
        """All rows that the job has, from every file that it has (output, errors); none where it has no file.

        Asked only when the status is over. Rows are given as they are read, not held. The order is the provider's;
        nothing is removed. Where the body is cut, in the middle of a line or between two, the whole lines are given and
        then BatchUnclearError is raised; the lane asks again from the start. BatchGoneError: the results are no longer
        kept (retention), before or after some rows were given.
        """

    async def cancel(self, provider_id: str) -> None:
        """Asks the provider to end the job; what is done is kept and billed. Returns when the request was taken: the
        status says when it is over. A job that is over already is no error. BatchUnclearError, BatchGoneError."""

    async def find(self, job: BatchJob, custom_ids: Collection[str]) -> str | None:
        """The provider's id of a job that may have been created before a kill; None only where there surely is none.

        With a metadata field: by our id in it, through the whole list back to a day before `job.created_at`. Without:
        jobs created between an hour before `job.created_at` and a day after it, whose count of lines is `job.n_rows`
        where it is told; of those that are over, the results are looked at, and the first row decides: every custom_id
        of ours begins with `job.id[:16]`. `custom_ids` is there for a provider that cannot go by the prefix. A
        candidate that is not over yet and cannot be told from a stranger's raises BatchUnclearError, and the lane
        asks again later. The lane asks no sooner than `limits.listing_lag_s` after it sent the job.
        """
