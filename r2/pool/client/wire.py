"""The words of an OpenAI-compatible server: our request as bytes, its replies and refusals as values. Pure.

Every function here is total over whatever a server may send: a reply that makes no sense is a `BadBody`, a header that
makes no sense is None. Provider phrases ("maximum context length ...") are matched in `classify` and nowhere else.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Final

import orjson

from r2.call import Call, TokenLogprob
from r2.ledger import Usage
from r2.pool.file.config import ModelTable

MAX_RETRY_AFTER_S: Final = 3600.0
"""A longer wait than this is a server's mistake, and is cut to it."""

_MAX_COUNT = 10**12
_LOWEST_LOGPROB = -9999.0  # what vLLM sends for minus infinity, which JSON does not have


@dataclass(slots=True)  # not frozen: see exchange.Reply
class ParsedReply:
    """A chat completion. `usage` is None where the provider reported none."""

    text: str
    finish_reason: str
    response_model: str
    response_id: str
    usage: Usage | None
    token_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class BadBody:
    """A body that is not a chat completion, and why."""

    reason: str


def request_body(call: Call, table: ModelTable, served_model: str) -> bytes:
    """The JSON body of a chat completion request.

    Log-probabilities and schemas are asked for only where the entry says its server has them. A seed is sent when the
    call or its sample index has one, so that repeated asks of one request differ and a rerun does not. `extra_body`
    wins over our fields, but for `stream`, which would change the form of the reply. Lone surrogates become "?". Raises
    TypeError if `extra_body` holds what JSON cannot.
    """
    body: dict[str, Any] = {
        "model": served_model,
        "messages": [{"role": role, "content": text} for role, text in call.messages],
        "temperature": call.temperature,
        "max_tokens": call.max_output_tokens,
    }
    if call.seed or call.sample_index:
        body["seed"] = (call.seed or 0) + call.sample_index
    if call.top_logprobs and table.logprobs:
        body["logprobs"] = True
        body["top_logprobs"] = call.top_logprobs
    if call.json_schema is not None and table.guided:
        schema = {"name": "reply", "schema": orjson.Fragment(call.json_schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if table.extra_body:
        body.update(table.extra_body)
        body.pop("stream", None)
    try:
        return orjson.dumps(body)
    except TypeError:  # orjson refuses lone surrogates, which come from broken input files
        body["messages"] = [{"role": role, "content": _clean(text)} for role, text in call.messages]
        return orjson.dumps(body)


def parse_body(body: bytes) -> ParsedReply | BadBody:
    """What a 200 says. Text that a server cannot have meant (lone surrogates, logprobs of minus
    infinity) is repaired."""
    document = _loads(body)
    if not isinstance(document, dict):
        return BadBody(f"not a JSON object: {_clip(body)}")
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return BadBody(f"no choices: {provider_message(body)}")
    choice: dict[str, Any] = choices[0]
    message = choice.get("message")
    if not isinstance(message, dict):
        return BadBody(f"a choice without a message: {_clip(body)}")
    text = _content(message.get("content"))
    if text is None:
        return BadBody(f"a message whose content is neither text nor null: {_clip(body)}")
    return ParsedReply(
        text,
        _text(choice.get("finish_reason")) or "stop",
        _text(document.get("model")),
        _text(document.get("id")),
        _usage(document.get("usage")),
        _logprobs(choice.get("logprobs")) if choice.get("logprobs") else (),
    )


def classify(status: int, body: bytes) -> str | None:
    """Type of the failure (a key of `CALL_FAILURES`), None for a 2xx, whose body has yet to be parsed."""
    if 200 <= status < 300:
        return None
    said = body[:4096].decode("utf-8", "replace").lower()
    if status in (400, 413, 422, 500) and any(phrase in said for phrase in _CONTEXT_PHRASES):
        return "context_length"
    if status in (401, 402, 403) or (status == 429 and any(phrase in said for phrase in _BALANCE_PHRASES)):
        return "auth"
    if status in (429, 503, 529):  # 529: Anthropic's "overloaded"
        return "rate_limited"
    if status == 408:
        return "timeout"
    return "server_error" if status >= 500 else "bad_request"


_CONTEXT_PHRASES = (
    "context_length_exceeded",  # OpenAI
    "maximum context length",  # OpenAI, vLLM, DeepSeek
    "max_model_len",  # vLLM
    "exceed_context_size",  # llama.cpp
    "exceeds the available context",  # llama.cpp
    "longer than the model's context length",  # SGLang
    "prompt is too long",  # Anthropic
    "input is too long",  # Bedrock
    "reduce the length of",  # OpenAI, Groq
)
_BALANCE_PHRASES = ("insufficient_quota", "insufficient balance", "billing_hard_limit")


def provider_message(body: bytes) -> str:
    """What the server says went wrong, in at most 300 characters; its body where it says it in no known form."""
    document = _loads(body)
    if isinstance(document, dict):
        error = document.get("error", document)
        said = error if isinstance(error, str) else error.get("message") if isinstance(error, dict) else None
        if said is None:
            said = document.get("detail") or document.get("message")
        if isinstance(said, str) and said:
            return _clean(said[:300])
    return _clip(body)


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds the server asks us to wait, 0..3600, None if it does not say. `now` is in epoch seconds.

    Looked for in order: `retry-after-ms`, `Retry-After` (seconds or an HTTP date), and the longest of
    `x-ratelimit-reset-*` (`6m0s`, `120ms`, seconds, or an epoch) among the limits that have nothing remaining.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    milliseconds = _number(lowered.get("retry-after-ms"))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    retry_after = lowered.get("retry-after")
    if retry_after is not None:
        seconds = _number(retry_after)
        if seconds is None:
            seconds = _seconds_until(retry_after, now)
        if seconds is not None:
            return _bounded(seconds)
    resets = []
    for name, value in lowered.items():
        if name.startswith("x-ratelimit-reset"):
            remaining = _number(lowered.get(name.replace("reset", "remaining", 1)))
            seconds = _duration(value, now)
            if seconds is not None and (remaining is None or remaining <= 0):
                resets.append(seconds)
    return _bounded(max(resets)) if resets else None


def scrub(body: bytes, key: str) -> bytes:
    """`body` without the key, as it is or as JSON escapes it: servers quote bad keys in their refusals.

    Keys of fewer than 8 characters are placeholders ("EMPTY", "none"), no secrets, and their words occur in answers.
    """
    if len(key) < 8:
        return body
    for shape in _shapes(key):
        if shape in body:
            body = body.replace(shape, b"[key]")
    return body


@lru_cache(maxsize=64)
def _shapes(key: str) -> frozenset[bytes]:
    escaped = [json.dumps(key, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False)]
    slashed = [text.replace("/", "\\/") for text in escaped]
    return frozenset(text.encode("utf-8", "replace") for text in (key, *escaped, *slashed))


def _loads(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        try:  # the slow parser takes what orjson refuses and Python servers write: lone surrogates, NaN, stray bytes
            return json.loads(body.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return None


def _clean(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else _clean(value)


def _clip(body: bytes) -> str:
    return body[:200].decode("utf-8", "replace") or "an empty body"


def _content(value: object) -> str | None:
    """Text of a message: a string, null (a refusal, or thinking cut by the limit), or a list of text parts."""
    if isinstance(value, str):
        return _clean(value)
    if value is None:
        return ""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    return None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT else None


def _usage(value: object) -> Usage | None:
    if not isinstance(value, dict):
        return None
    n_input, n_output = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
    if n_input is None or n_output is None:
        return None
    details = value.get("prompt_tokens_details")
    n_cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(n_input, min(n_cached or 0, n_input), n_output)


def _logprob(value: object) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < -_LOWEST_LOGPROB
    return float(value) if is_number else _LOWEST_LOGPROB  # type: ignore[arg-type]


def _logprobs(value: object) -> tuple[TokenLogprob, ...]:
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, list):
        return ()
    tokens = []
    for entry in content:
        if isinstance(entry, dict) and isinstance(entry.get("token"), str):
            listed = entry.get("top_logprobs")
            alternatives = [
                (_clean(other["token"]), _logprob(other.get("logprob")))
                for other in (listed if isinstance(listed, list) else ())
                if isinstance(other, dict) and isinstance(other.get("token"), str)
            ]
            alternatives.sort(key=lambda pair: -pair[1])
            tokens.append(TokenLogprob(_clean(entry["token"]), _logprob(entry.get("logprob")), tuple(alternatives)))
    return tuple(tokens)


def _number(value: str | None) -> float | None:
    if value is None or not re.fullmatch(r"\s*[+-]?[0-9]{1,18}(\.[0-9]{0,18})?\s*", value):
        return None
    return float(value)


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _seconds_until(http_date: str, now: float) -> float | None:
    try:
        return parsedate_to_datetime(http_date).timestamp() - now
    except (ValueError, OverflowError, TypeError, IndexError):
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
