"""What a server means by a reply that is no answer: the kind of failure, its words, how long it asks us to wait.

Providers' phrases are matched here and nowhere else. Every function is total over whatever a server may send. The
kinds are the error types of `r2/errors.py`; what follows from each is decided there and in the client.
"""

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

from r2.ledger import Usage
from r2.pool.client.dialects.text import as_json, clean, clip
from r2.pool.limits.aimd import Times

MAX_RETRY_AFTER_S: Final = 3600.0
"""A longer wait than this is a server's mistake, and is cut to it."""

LONGEST_PAUSE_S: Final = Times().max_pause_s
"""The gate pauses no longer than this at a time, whatever a server asks for."""

_LONGEST_DAY_S = 2 * 86400.0

_READ_BYTES = 4096  # of a refusal's body, for its phrases


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reply that is no answer. `retry_after_s` is above 0, None where the server names no time. `status` is the HTTP
    status that it was judged by, 0 where there was none.

    `names_the_model`: the body says that there is no such model (or deployment, or that it is no more).
    `blames_the_key`: the body says that the key or its balance is at fault, whatever else that key was good for.
    `usage` is what the provider counted all the same, None where it counted nothing.
    """

    error_type: str
    message: str
    status: int = 0
    retry_after_s: float | None = None
    blames_the_key: bool = False
    names_the_model: bool = False
    usage: Usage | None = None


def refusal(status: int, body: bytes, headers: Mapping[str, str]) -> Refusal | None:
    """What an HTTP status and its body mean; None for a 2xx, whose body has yet to be parsed."""
    error_type = classify(status, body)
    if error_type is None:
        return None
    message = f"HTTP {status}: {_sent_on(headers) if 300 <= status < 400 else provider_message(body)}"
    return _refusal(error_type, status, body, message, headers)


def _sent_on(headers: Mapping[str, str]) -> str:
    """What a redirect says: the host alone, for a path may have the key in it."""
    try:
        host = urlsplit(headers.get("Location", "")).hostname
    except ValueError:
        host = None
    return f"a redirect to {clean(host or 'nowhere')[:200]}, where nothing is sent"


def refusal_inside(status: int, document: Mapping[str, Any], error: object, body: bytes) -> Refusal:
    """What an error in the body of a 2xx means: it is judged by its own code, as if that had been the status.

    OpenRouter and other gateways send their providers' errors so. An error without a code that we know is a server's.
    """
    inner = _code_of(error) or _code_of(document) or 500
    metadata = error.get("metadata") if isinstance(error, dict) else None
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    said = {str(k): str(v) for k, v in headers.items()} if isinstance(headers, dict) else {}
    error_type = classify(inner, body) or "server_error"
    message = f"HTTP {status} with an error {inner} inside: {provider_message(body)}"
    return _refusal(error_type, inner, body, message, said)


def _refusal(error_type: str, status: int, body: bytes, message: str, headers: Mapping[str, str]) -> Refusal:
    now = time.time()
    waits = [each for each in (wait_asked_for(headers, now), wait_in_body(body)) if each is not None]
    asked_s = max(waits, default=None)
    said = _words(body)
    if error_type == "quota_used_up":
        at = datetime.fromtimestamp(now + min(asked_s or 0.0, _LONGEST_DAY_S), UTC)
        when = f"until {at:%Y-%m-%d %H:%M} UTC, it says" if asked_s is not None else "until the provider's day ends"
        message += f" (the quota of the day is used up, {when}; the same command asks the rest then)"
    elif asked_s is not None and asked_s > LONGEST_PAUSE_S:
        message += (
            f" (asks to wait {asked_s:.0f} s; asked again every {LONGEST_PAUSE_S:.0f} s, as calls have a deadline)"
        )
    return Refusal(
        error_type,
        message,
        status,
        None if asked_s is None else min(asked_s, MAX_RETRY_AFTER_S),
        error_type == "auth" and _blames_the_key(status, said),
        error_type == "unknown_model" and _has(said, _MODEL_PHRASES),
    )


def classify(status: int, body: bytes) -> str | None:
    """Type of the failure (a key of `r2.errors.CALL_FAILURES`), None for a 2xx, whose body has yet to be parsed."""
    if 200 <= status < 300:
        return None
    said = _words(body)
    if status in (400, 403, 413, 422, 500) and _has(said, _CONTEXT_PHRASES):
        return "context_length"
    if status in (400, 403, 429) and _has(said, _BALANCE_PHRASES):
        return "auth"
    if status == 400 and _has(said, _BAD_KEY_PHRASES):
        return "auth"
    if 300 <= status < 400 or status in (404, 410) or (status == 400 and _has(said, _MODEL_GONE_PHRASES)):
        return "unknown_model"
    if status in (400, 403, 422, 451) and _has(said, _MODERATION_PHRASES) and not _has(said, _ACCOUNT_PHRASES):
        return "moderated"
    if status in (401, 402, 403):
        return "auth"
    if status in (413, 429) and (_has(said, _TOO_LARGE_PHRASES) or _is_above_the_limit(said)):
        return "bad_request"
    if status == 429 and _has(said, _PER_DAY_PHRASES):
        return "quota_used_up"
    if status in (429, 498, 503, 529):  # 498: Groq's "no capacity"; 529: Anthropic's "overloaded"
        return "rate_limited"
    if status == 408:
        return "timeout"
    return "server_error" if status >= 500 or status in (409, 424, 425, 499) else "bad_request"


_CONTEXT_PHRASES = (
    "context_length_exceeded",  # OpenAI
    "maximum context length",  # OpenAI, vLLM, DeepSeek
    "maximum context limit",
    "input tokens exceed the configured limit",  # OpenAI
    "`inputs` tokens + `max_new_tokens`",  # text-generation-inference
    "maximum prompt length",  # xAI
    "max_model_len",  # vLLM
    "exceed_context_size",  # llama.cpp
    "exceeds the available context",  # llama.cpp
    "longer than the model's context length",  # SGLang
    "prompt is too long",  # Anthropic
    "exceed context limit",  # Anthropic, where the output limit is what does not fit
    "exceeds the maximum number of tokens allowed",  # Gemini
    "input is too long",  # Bedrock
    "reduce the length of",  # OpenAI, Groq
)
_BALANCE_PHRASES = (
    "insufficient_quota",
    "insufficient balance",
    "insufficient credits",
    "billing_hard_limit",
    "credit balance is too low",  # Anthropic, with status 400
    "used all available credits",  # xAI, with status 429 or 403
    "spending limit",
    "spend_limit_reached",
)
_MODERATION_PHRASES = (
    "moderation",  # OpenRouter
    "flagged",
    "content_filter",  # OpenAI, Azure
    "content filter",
    "content management policy",  # Azure
    "responsibleaipolicyviolation",  # Azure
    "content_policy",
    "content policy",
    "usage policies",  # OpenAI
    "usage policy",
    "cyber_policy",
    "prohibited content",
    "prohibited_content",  # Gemini
    "safety system",
    "safety_check",
    "safety filter",
)
_ACCOUNT_PHRASES = ("your account", "your organization", "your organisation", "api key", "api_key")
_TOO_LARGE_PHRASES = ("request too large",)  # OpenAI 429, Groq 413: larger than a whole minute's limit
_BAD_KEY_PHRASES = ("api_key_invalid", "api key not valid")  # Gemini, with status 400
_MODEL_GONE_PHRASES = (
    "model_not_found",
    "model_decommissioned",  # Groq
    "is not a valid model id",  # OpenRouter
)
"""With status 400: the model is not there, or is no more."""
_MODEL_PHRASES = (
    *_MODEL_GONE_PHRASES,
    "model",
    "deployment",  # Azure
    "no endpoints found",  # OpenRouter
)
"""With status 404: what is not found is the model, and not the address."""
_PER_DAY_PHRASES = (
    "per day",
    "per-day",
    "perday",  # Gemini's quotaId
    "(rpd)",
    "(tpd)",
    "daily limit",
    "daily quota",
)
_KEY_PHRASES = (
    *_BALANCE_PHRASES,
    "api key",
    "api_key",
    "apikey",
    "access token",
    "invalid token",
    "invalid key",
    "unauthorized",
    "unauthorised",
    "unauthenticated",
    "authentication",
    "credential",
    "expired",
    "revoked",
    "suspended",
    "deactivated",
    "disabled",
    "permission",
    "access denied",
    "not have access",
    "billing",
    "credits",
    "balance",
    "quota",
    "subscription",
)


_LIMIT_AND_WANT = re.compile(r"limit:? (\d{1,12})\b[^.]{0,40}?\brequested:? (\d{1,12})")


def _is_above_the_limit(said: str) -> bool:
    """One request that wants more than the whole of a limit: no wait helps."""
    found = _LIMIT_AND_WANT.search(said)
    return found is not None and int(found[2]) > int(found[1])


_KEY_WORD = re.compile(r"\b(?:key|token|auth)\b")


def _blames_the_key(status: int, said: str) -> bool:
    return status == 402 or _has(said, _KEY_PHRASES) or (status == 401 and _KEY_WORD.search(said) is not None)


def _words(body: bytes) -> str:
    return body[:_READ_BYTES].decode("utf-8", "replace").lower()


def _has(said: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in said for phrase in phrases)


_CODES: Final[Mapping[str, int]] = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "rate_limited": 429,
    "too_many_requests": 429,
    "resource_exhausted": 429,
    "insufficient_quota": 402,
    "payment_required": 402,
    "billing_error": 402,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "unauthorized": 401,
    "unauthenticated": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "content_policy_violation": 403,
    "content_filter": 403,
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "bad_request": 400,
    "badrequesterror": 400,
    "not_found_error": 404,
    "model_not_found": 404,
    "timeout": 408,
    "timeout_error": 408,
    "overloaded_error": 529,
    "provider_overloaded": 503,
    "provider_unavailable": 503,
    "unavailable": 503,
}


def _code_of(error: object) -> int | None:
    """The HTTP status that an error object stands for, from its code, status or type; None if it has none we know."""
    if not isinstance(error, dict):
        return None
    for name in ("code", "status", "status_code", "type", "error_type"):
        value = error.get(name)
        if isinstance(value, str):
            found = _CODES.get(value.strip().lower())
            if found is None and re.fullmatch(r"[0-9]{3}", value.strip()):
                found = int(value)
            value = found
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
            return value
    return None


def provider_message(body: bytes) -> str:
    """What the server says went wrong, in at most 300 characters; its body where it says it in no known form."""
    document = as_json(body)
    if isinstance(document, list) and document:  # Gemini's compatible door sends [{"error": ...}]
        document = document[0]
    if isinstance(document, dict):
        error = document.get("error") or document
        said = error if isinstance(error, str) else error.get("message") if isinstance(error, dict) else None
        if said is None:
            said = document.get("detail") or document.get("message")
        if isinstance(said, str) and said:
            return clean(said[:300])
    return clip(body)


def wait_asked_for(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds above 0 that the server asks us to wait; None if it names none, or a time that is over.

    Looked for in order: `retry-after-ms`, `Retry-After` (seconds or an HTTP date), and the longest of
    `x-ratelimit-reset-*` (`6m0s`, `120ms`, seconds, or an epoch) and `anthropic-ratelimit-*-reset` (a time) among the
    limits that have nothing remaining. `now` is in epoch seconds.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    milliseconds = _number(lowered.get("retry-after-ms"))
    if milliseconds is not None and milliseconds > 0:
        return milliseconds / 1000
    retry_after = lowered.get("retry-after")
    if retry_after is not None:
        seconds = _number(retry_after)
        if seconds is None:
            seconds = _seconds_until(retry_after, now)
        if seconds is not None and seconds > 0:
            return seconds
    resets = []
    for name, value in lowered.items():
        if name.startswith("x-ratelimit-reset") or (
            name.startswith("anthropic-ratelimit-") and name.endswith("-reset")
        ):
            remaining = _number(lowered.get(name.replace("reset", "remaining", 1)))
            seconds = _duration(value, now) if name.startswith("x-") else _seconds_until_iso(value, now)
            if seconds is not None and seconds > 0 and (remaining is None or remaining <= 0):
                resets.append(seconds)
    return max(resets) if resets else None


def wait_in_body(body: bytes) -> float | None:
    """Seconds above 0 that the body asks us to wait, None if it names none: Gemini's RetryInfo (`retryDelay`), or the
    words "try again in 3.89s" of OpenAI and Groq, "retry after 3 seconds" of Azure."""
    found = [seconds for seconds in _waits_in(as_json(body)) if seconds > 0]
    if found:
        return max(found)
    said = _IN_WORDS.search(_words(body))
    seconds = None if said is None else _duration(said[1].replace(" seconds", "s").replace(" second", "s"), 0.0)
    return seconds if seconds is not None and seconds > 0 else None


_IN_WORDS = re.compile(r"(?:try again in|retry after) ((?:[0-9.]{1,12}(?:ms|s|m|h|d))+|[0-9.]{1,12} seconds?)\b")


def _waits_in(document: Any) -> Iterator[float]:
    if isinstance(document, list) and document:
        document = document[0]
    error = document.get("error") if isinstance(document, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        seconds = _duration(delay, 0.0) if isinstance(delay, str) else None
        if seconds is not None:
            yield seconds


def _number(value: str | None) -> float | None:
    if value is None or not re.fullmatch(r"\s*[+-]?[0-9]{1,18}(\.[0-9]{0,18})?\s*", value):
        return None
    return float(value)


def _seconds_until(http_date: str, now: float) -> float | None:
    try:
        return parsedate_to_datetime(http_date).timestamp() - now
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def _seconds_until_iso(at: str, now: float) -> float | None:
    try:
        return datetime.fromisoformat(at.strip()).astimezone(UTC).timestamp() - now
    except (ValueError, OverflowError, OSError):
        return None


_DURATION_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _duration(value: str, now: float) -> float | None:
    """Seconds of `6m0s`, `120ms`, `12.5`, or until an epoch in seconds or milliseconds."""
    number = _number(value)
    if number is not None:
        if number > 1e12:
            return number / 1000 - now
        return number - now if number > 1e9 else number
    parts = _DURATION_PART.findall(value)
    if not parts or "".join(n + unit for n, unit in parts) != value.strip():
        return None
    return math.fsum(float(n) * _UNIT_S[unit] for n, unit in parts)
