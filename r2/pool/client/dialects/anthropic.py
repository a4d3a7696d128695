"""Anthropic's Messages. Pure. Source: the vendor's SDK, anthropic 2.14.0 (2026-11).

Not as elsewhere: the system text stands apart from the messages, the output limit is required, there is no seed, no
`n` and no log-probabilities, cached tokens are counted beside the input and not within it, and the cache must be asked
for by a mark on the part of the prompt that stays the same.
"""

from collections.abc import Mapping
from typing import Any

from r2.ledger import Usage
from r2.pool.client.dialects.dialect import (
    Dialect,
    Feature,
    NoReply,
    RateLimits,
    Reply,
    Request,
    count,
    system_and_turns,
    with_path,
)
from r2.pool.client.dialects.openai_chat import number
from r2.pool.client.dialects.schemas import AskedSchema, closed, for_closed
from r2.pool.client.dialects.text import text_of

VERSION = "2023-06-01"
FEATURES: frozenset[Feature] = frozenset(
    {"sampling", "stop", "schema", "effort", "cached", "cache_write", "reasoning", "batch"}
)
_REFUSED_KEYWORDS = frozenset(
    {
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minProperties",
        "maxProperties",
        "patternProperties",
        "propertyNames",
        "contains",
        "dependentRequired",
        "dependentSchemas",
        "if",
        "then",
        "else",
        "not",
    }
)
"""Schema words that the API answers with 400; replies are checked against the whole schema afterwards."""


def body(request: Request) -> dict[str, Any]:
    """The JSON body of a Messages request."""
    system, turns = system_and_turns(request.messages)
    fields: dict[str, Any] = {"model": request.model, "max_tokens": request.max_output_tokens}
    fields["messages"] = [{"role": role, "content": said} for role, said in turns]
    if system:
        mark = {"cache_control": {"type": "ephemeral"}} if request.cache_prefix else {}
        fields["system"] = [{"type": "text", "text": system, **mark}] if mark else system
    if request.temperature is not None and (request.top_p is None or request.temperature != 1.0):
        fields["temperature"] = min(request.temperature, 1.0)  # 1 is what it is beside top_p, and both are refused
    if request.top_p is not None:
        fields["top_p"] = request.top_p
    if request.stop:
        fields["stop_sequences"] = list(request.stop)
    output: dict[str, Any] = {}
    if request.schema is not None:
        output["format"] = {"type": "json_schema", "schema": without_refused_words(request.schema)}
    if request.effort == "none":  # no level of theirs: thinking is switched off apart
        fields["thinking"] = {"type": "disabled"}
    elif request.effort is not None:
        output["effort"] = request.effort
    if output:
        fields["output_config"] = output
    for name in request.omitted:
        fields.pop(name, None)
    return fields


def without_refused_words(schema: Any) -> Any:
    """The schema without the words that the API refuses; objects are closed, as it wants them."""
    return closed(schema, _REFUSED_KEYWORDS)


def _asks_schema(schema: Mapping[str, Any]) -> AskedSchema | None:
    return for_closed(schema, _REFUSED_KEYWORDS)


def parse(document: Mapping[str, Any]) -> Reply | NoReply:
    """What a body says. Thinking comes in parts of its own, before the text."""
    error = document.get("error")
    if error:
        return NoReply("an error in the place of an answer", error, usage_of(document.get("usage")))
    content = document.get("content")
    if not isinstance(content, list):
        return NoReply("no content", None, usage_of(document.get("usage")))
    texts, thinking = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            texts.append(text_of(part.get("text")))
        elif kind == "thinking":
            thinking.append(text_of(part.get("thinking")))
    return Reply(
        "".join(texts),
        "".join(thinking),
        text_of(document.get("stop_reason")) or "end_turn",
        text_of(document.get("model")),
        text_of(document.get("id")),
        usage_of(document.get("usage")),
    )


def usage_of(value: object) -> Usage | None:
    """Tokens as billed: `input_tokens` leaves out what was read from the cache and what was written to it."""
    if not isinstance(value, dict):
        return None
    n_fresh, n_output = count(value.get("input_tokens")), count(value.get("output_tokens"))
    if n_fresh is None or n_output is None:
        return None
    n_read = count(value.get("cache_read_input_tokens")) or 0
    n_written = count(value.get("cache_creation_input_tokens")) or 0
    details = value.get("output_tokens_details")
    n_thinking = count(details.get("thinking_tokens")) if isinstance(details, dict) else None
    if not (n_read or n_written or n_thinking):
        return Usage(n_fresh, 0, n_output)
    return Usage(
        n_fresh + n_read + n_written,
        n_read,
        n_output,
        cache_write_tokens=n_written,
        reasoning_tokens=min(n_thinking or 0, n_output),
    )


def limits_of(headers: Mapping[str, str]) -> RateLimits:
    """Limits per minute from `anthropic-ratelimit-*-limit`; of several token limits the smallest binds."""
    tokens = [
        found
        for name in ("tokens", "input-tokens", "output-tokens")
        if (found := number(headers.get(f"anthropic-ratelimit-{name}-limit"))) is not None
    ]
    return RateLimits(number(headers.get("anthropic-ratelimit-requests-limit")), min(tokens) if tokens else None)


def _url(endpoint: str, model: str) -> str:
    return with_path(endpoint, "/messages")


def _headers(key: str) -> dict[str, str]:
    return {"anthropic-version": VERSION, **({"x-api-key": key} if key else {})}


DIALECT = Dialect("anthropic", _url, _headers, body, limits_of, FEATURES, asks_schema=_asks_schema)
