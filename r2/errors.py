"""Every error this project raises, in one tree.

    R2Error
    ├── ConfigError            the user's file or flag is wrong; nothing was called yet
    │   ├── PoolFileError      a pool file: unknown key, missing price, unset key variable
    │   └── InputFileError     the question file as a whole cannot be read
    ├── PlanParseError         a decomposer's text holds no plan
    ├── AllocationParseError   an allocator's text holds no allocation
    ├── ModelFetchError        weights could not be had, or do not match their sha256
    ├── SupportError           logged trajectories cannot tell what a candidate allocator would reach
    ├── TrainingError          a training cannot go on: nothing to learn from, or a frozen policy changed
    ├── EndpointError          a model's endpoint is unreachable or refuses us, before any paid call
    └── LakeError              stored data is torn, foreign or of another schema
        └── RunLockedError     another process works on the same run

A failed *call* is not an exception: it is a `Completion` with `error_type` set, because one bad call must not lose the
calls beside it. The error types a call can end with are `CALL_ERROR_TYPES`.
"""

from typing import Final

CALL_ERROR_TYPES: Final = {
    "rate_limited": "429 or 503 until the call's deadline",
    "server_error": "5xx on every attempt",
    "timeout": "no complete answer within the attempt's time limit",
    "disconnected": "connection refused, reset, or cut in the middle of a body",
    "bad_body": "HTTP 200 whose body is not a chat completion",
    "auth": "401, 403 or 402: wrong key or no balance",
    "context_length": "the prompt is longer than the model's context",
    "bad_request": "any other 4xx: the same request will fail again",
    "circuit_open": "the model's breaker is open and no fallback was left",
    "budget_exhausted": "the reserve for this call would pass a money budget",
    "stopped": "the run was asked to stop before the call was sent",
    "not_recorded": "a recording holds no answer to this request",
}
"""Type of a failed call (`Completion.error_type`, column `error_type`) -> what it means."""

DEFERRING_ERROR_TYPES: Final = frozenset({"budget_exhausted", "stopped", "circuit_open"})
"""Errors that say nothing about the question: it is deferred, not failed, and tried again by the next run."""


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
    """Weights could not be had, or do not match their sha256."""

    transient = True


class SupportError(R2Error):
    """Logged trajectories cannot tell what a candidate allocator would reach: too few of them do what it does."""


class TrainingError(R2Error):
    """A training cannot go on: there is nothing to learn from, or what must not change did."""


class EndpointError(R2Error):
    """A model's endpoint is unreachable or refuses us."""

    transient = True


class LakeError(R2Error):
    """Stored data is torn, foreign or of another schema."""


class RunLockedError(LakeError):
    """Another live process works on the same run."""

    transient = True
