"""Every error this project raises, in one tree, and what follows a failed call, in one table.

    R2Error
    ├── ConfigError            the user's file or flag is wrong; nothing was called yet
    │   ├── PoolFileError      a pool file: unknown key, missing price, unset key variable
    │   └── InputFileError     the question file as a whole cannot be read
    ├── PlanParseError         a decomposer's text holds no plan
    ├── AllocationParseError   an allocator's text holds no allocation
    ├── ModelFetchError        weights cannot be fetched, or do not match their sha256
    ├── SupportError           logged trajectories cannot tell what a candidate allocator would reach
    ├── TrainingError          a training cannot continue: nothing to learn from, or a frozen policy changed
    ├── StoppedError           the user stopped the command while this work was going on
    ├── EndpointError          a model's endpoint is unreachable or refuses us, before any paid call
    ├── CoordinationError      the PostgreSQL that machines share is away (r2/pool/coordination/)
    ├── ClaimLostError         another machine has taken over the shard that this one worked on
    ├── BatchError             a provider's batch endpoint did not do what it was asked (r2/pool/batch/protocol.py)
    │   ├── BatchRefusedError    it will not take this job
    │   ├── BatchQueueFullError  it will take it when less of ours waits there
    │   ├── BatchLaneDownError   it will take no job of this entry
    │   ├── BatchUnclearError    no answer that decides
    │   └── BatchGoneError       it does not know the job, or no longer has its results
    └── LakeError              stored data is torn, foreign or of another schema
        ├── RunLockedError     another process works on the same run
        └── StoreError         the object store of a lake cannot be reached, or fails

A failed *call* is not an exception: it is a `Completion` with `error_type` set, because one bad call must not lose the
calls beside it. What follows such a failure stands in one table, `CALL_FAILURES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Sign = Literal["refused", "failed", "slow", "bad_key", "used_up", "understood"]
"""What a failed call says about the endpoint: too many requests; down or broken; too much at once, or down; key or
balance refused; the quota of the day used up; alive, and it understood us."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One way a call can fail, and what follows. The columns of `CALL_FAILURES`.

    Final means: the question is stored as failed, and this run does not ask it again. A question is deferred where the
    failure says nothing about it: it is not stored, and the same command asks it again.
    """

    meaning: str
    retry: Literal["never", "counted", "uncounted"]
    """Whether the client sends the call again to the same pool entry: as one of its attempts that count, or once the
    pause is over, up to the call's deadline."""
    next_entry: bool
    """The client sends the call to the next entry of the pool, which may not have this failure."""
    stronger_model: bool
    """A step of a question that fails so is asked again of a stronger model, where the method has one. False: the
    question ends."""
    defers: bool
    """A question that ends so is deferred. False: the failure is final."""
    is_outage: bool
    """A model could not be reached or used, whatever was asked of it."""
    counts: bool
    """The failure says something about method or question, so comparisons count it: an evaluation as a wrong answer, a
    reward as 0. False: the question, or the rollout, is left out."""
    sign: Sign | None
    """What the limits of the endpoint learn from it; None for a call that was not sent."""


def _outage(meaning: str, retry: Literal["never", "counted", "uncounted"], sign: Sign) -> Failure:
    """The model was asked, and could not be used."""
    return Failure(
        meaning,
        retry,
        next_entry=retry != "uncounted",
        stronger_model=True,
        defers=True,
        is_outage=True,
        counts=False,
        sign=sign,
    )


def _final(meaning: str) -> Failure:
    """The model understood the request and will not answer it."""
    return Failure(
        meaning,
        "never",
        next_entry=False,
        stronger_model=True,
        defers=False,
        is_outage=False,
        counts=True,
        sign="understood",
    )


def _unsent(meaning: str, *, next_entry: bool = False, is_outage: bool = False) -> Failure:
    """The call was not sent at all."""
    return Failure(
        meaning,
        "never",
        next_entry,
        stronger_model=False,
        defers=True,
        is_outage=is_outage,
        counts=False,
        sign=None,
    )


CALL_FAILURES: Final[Mapping[str, Failure]] = {
    "rate_limited": _outage("429 or 503 until the call's deadline", "uncounted", "refused"),
    "server_error": _outage("5xx on every attempt", "counted", "failed"),
    "timeout": _outage("no complete answer within the attempt's time limit", "counted", "slow"),
    "disconnected": _outage("connection refused, reset, or cut in the middle of a body", "counted", "failed"),
    "bad_body": _outage("HTTP 200 whose body is not a chat completion", "counted", "understood"),
    "not_run": _outage("a batch job ended without an answer to the call, or was given up", "counted", "failed"),
    "auth": _outage("401, 403 or 402: wrong key or no balance", "never", "bad_key"),
    "quota_used_up": _outage("the provider's quota of the day is used up", "never", "used_up"),
    "moderated": _final("the provider's moderation refused this one input"),
    "content_filter": _final("the provider's filter, or the model itself, broke off the answer"),
    "bad_end": _final("the generation ended in a way that leaves no answer: tool calls, or an end we do not know"),
    "context_length": _final("the prompt is longer than the model's context"),
    "bad_request": _final("any other 4xx: the same request will fail again"),
    "circuit_open": _unsent("the model's breaker is open and no fallback was left", next_entry=True, is_outage=True),
    "overbilled": _unsent("the entry billed more than was asked for, and is closed", next_entry=True, is_outage=True),
    "misconfigured": _outage("the endpoint refuses every request of this form, and is closed", "never", "understood"),
    "unknown_model": _outage("the endpoint does not know the model, or redirects", "never", "understood"),
    "question_budget": Failure(
        "a further attempt could pass the question's money budget",
        "never",
        next_entry=True,
        stronger_model=False,
        defers=False,
        is_outage=False,
        counts=True,
        sign=None,
    ),
    "budget_exhausted": _unsent("the reserve for this call would pass a money budget"),
    "stopped": _unsent("the run was asked to stop before the call was sent"),
    "no_program": _final("the model was to write a program, and wrote no Python"),
    "program_crashed": _final("the program that the model wrote ended with an error"),
    "program_timeout": _final("the program that the model wrote computed for too long"),
    "program_silent": _final("the program that the model wrote printed nothing"),
    "not_recorded": Failure(
        "a recording holds no answer to this request",
        "never",
        next_entry=False,
        stronger_model=True,
        defers=False,
        is_outage=False,
        counts=False,
        sign=None,
    ),
}
"""Type of a failed call (`Completion.error_type`, column `error_type`) -> what it means and what follows."""

_FINAL: Final = Failure("no failure of a call", "never", False, True, False, False, True, None)


def failure(error_type: str | None) -> Failure:
    """The row of `CALL_FAILURES`; for what is no failure of a call (`empty`, `plan_parse`, None, ...) a row that is
    final and counts."""
    return CALL_FAILURES.get(error_type or "", _FINAL)


def is_asked_again(error_type: str | None) -> bool:
    """Whether a call that is stored with this error is asked again when it comes up again: the error says nothing about
    the call, or goes by a cap that may have been raised since."""
    return failure(error_type).defers or error_type == "question_budget"


class R2Error(Exception):
    """Root of the tree. The message names the thing, the place, what was expected, and the next move."""

    transient = False
    """True where the same call may succeed if it is simply made again."""


class ConfigError(R2Error):
    """The user's file or flag is wrong; nothing was called yet."""


class PoolFileError(ConfigError):
    """A pool file cannot be used as it stands."""


class InputFileError(ConfigError):
    """The question file as a whole cannot be read (a single bad row is a failed row, never this)."""


class PlanParseError(R2Error):
    """A decomposer's text holds no plan."""


class AllocationParseError(R2Error):
    """An allocator's text holds no allocation."""


class ModelFetchError(R2Error):
    """Weights cannot be fetched, or do not match their sha256."""

    transient = True


class SupportError(R2Error):
    """Logged trajectories cannot tell what a candidate allocator would reach: too few of them do what it does."""


class TrainingError(R2Error):
    """A training cannot continue: there is nothing to learn from, or something changed that must not."""


class StoppedError(R2Error):
    """The user stopped the command while this work was going on."""


class EndpointError(R2Error):
    """A model's endpoint is unreachable or refuses us."""

    transient = True


class CoordinationError(R2Error):
    """The PostgreSQL that several machines share is away."""

    transient = True


class ClaimLostError(R2Error):
    """The shard is another machine's by now: what this one has of it is dropped."""


class BatchError(R2Error):
    """Root of what a provider raises."""


class BatchRefusedError(BatchError):
    """A job was refused whole, and does not exist there. `code` is the provider's word; `line` the 1-based number of
    the line that it blames, None where it blames none."""

    def __init__(self, message: str, code: str = "", line: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.line = line


class BatchQueueFullError(BatchError):
    """Too many tokens, rows or jobs of this key are waiting there already."""

    transient = True


class BatchLaneDownError(BatchError):
    """No job of this entry can be taken: `error_type` is one of `r2.errors.CALL_FAILURES` ("auth", "unknown_model",
    "misconfigured", "quota_used_up")."""

    def __init__(self, message: str, error_type: str) -> None:
        super().__init__(message)
        self.error_type = error_type


class BatchUnclearError(BatchError):
    """The provider gave no answer that decides: a time-out, a broken connection, 5xx, 408, 409, 429 by rate.

    `may_exist` is for `submit` alone. `retry_after_s`: what the provider asks us to wait, None where it does not say.
    """

    transient = True

    def __init__(self, message: str, *, may_exist: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.may_exist = may_exist
        self.retry_after_s = retry_after_s


class BatchGoneError(BatchError):
    """The provider does not know the job, or no longer has its results."""


class LakeError(R2Error):
    """Stored data is torn, foreign or of another schema."""


class RunLockedError(LakeError):
    """Another live process works on the same run."""

    transient = True


class StoreError(LakeError):
    """The object store that a lake lies in cannot be reached, or fails again and again."""

    transient = True
