"""The words of an OpenAI-compatible server: our request as bytes, its replies as values. Pure.

Every function here is total over whatever a server may send: a reply that makes no sense is a `BadBody`. What a refusal
means is read in `refusals.py`, what the end of a generation means in `endings.py`.
"""

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import orjson

from r2.call import Call, TokenLogprob
from r2.ledger import Usage
from r2.pool.client.endings import ending
from r2.pool.client.refusals import Refusal, provider_message, refusal_inside
from r2.pool.client.stream import STREAM_FIELDS
from r2.pool.client.text import as_json, clean, clip, text_of
from r2.pool.file.config import ModelTable

_MAX_COUNT: Final = 10**8
"""More tokens than any request can have: a larger count is cut to it."""
_LOWEST_LOGPROB: Final = -9999.0  # what vLLM sends for minus infinity, which JSON does not have


@dataclass(slots=True)  # not frozen: see exchange.Reply
class ParsedReply:
    """A chat completion. `usage` is None where the provider reported none, or none that can be read.

    `finish_reason` is the server's own word. `is_cut` says that the text ends at its limit; `error_type` is set where
    the end leaves no answer (`endings.py`).
    """

    text: str
    finish_reason: str
    response_model: str
    response_id: str
    usage: Usage | None
    token_logprobs: tuple[TokenLogprob, ...] = ()
    is_cut: bool = False
    error_type: str | None = None


@dataclass(frozen=True, slots=True)
class BadBody:
    """A body that is not a chat completion, and why."""

    reason: str


def request_body(call: Call, table: ModelTable, served_model: str, *, streams: bool = False) -> bytes:
    """The JSON body of a chat completion request.

    Log-probabilities and schemas are asked for only where the entry says its server has them. A seed is sent when the
    call or its sample index has one, so that repeated asks of one request differ and a rerun does not. `extra_body`
    wins over our fields, but for `stream`, which would change the form of the reply; where it has a limit on generated
    tokens under any name, that is the only one sent. Lone surrogates become "?". Raises TypeError if `extra_body` holds
    what JSON cannot.
    """
    body: dict[str, Any] = {
        "model": served_model,
        "messages": [{"role": role, "content": text} for role, text in call.messages],
        "temperature": call.temperature,
    }
    if table.sent_output_limit is None:
        body["max_tokens"] = call.max_output_tokens
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
    if streams:
        body.update(STREAM_FIELDS)
    try:
        return orjson.dumps(body)
    except TypeError:  # orjson refuses lone surrogates, which come from broken input files
        body["messages"] = [{"role": role, "content": clean(text)} for role, text in call.messages]
        return orjson.dumps(body)


def parse_body(body: bytes, status: int = 200) -> ParsedReply | BadBody | Refusal:
    """What a 2xx says: a completion, an error that came under it, or nothing that makes sense.

    Text that a server cannot have meant (lone surrogates, logprobs of minus infinity) is repaired.
    """
    document = as_json(body)
    if isinstance(document, list) and document and isinstance(document[0], dict) and document[0].get("error"):
        document = document[0]
    if not isinstance(document, dict):
        return BadBody(f"not a JSON object: {clip(body)}")
    usage = _usage(document.get("usage"))
    choices = document.get("choices")
    choice: dict[str, Any] = (
        choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    )
    message = choice.get("message")
    text = _content(message.get("content")) if isinstance(message, dict) else None
    error = choice.get("error") or document.get("error")
    if error and not text:
        return replace(refusal_inside(status, document, error, body), usage=usage)
    if not choice:
        return BadBody(f"no choices: {provider_message(body)}")
    if not isinstance(message, dict):
        return BadBody(f"a choice without a message: {clip(body)}")
    if text is None:
        return BadBody(f"a message whose content is neither text nor null: {clip(body)}")
    reason = text_of(choice.get("finish_reason")) or "stop"
    is_cut, error_type = ending(reason)
    if error_type is None and error:
        error_type = "server_error"
    if error_type is None and not text and text_of(message.get("refusal")):
        error_type = "content_filter"
    return ParsedReply(
        text,
        reason,
        text_of(document.get("model")),
        text_of(document.get("id")),
        usage,
        _logprobs(choice["logprobs"]) if choice.get("logprobs") else (),
        is_cut,
        error_type,
    )


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


def _content(value: object) -> str | None:
    """Text of a message: a string, null (a refusal, or thinking cut by the limit), or a list of text parts."""
    if isinstance(value, str):
        return clean(value)
    if value is None:
        return ""
    if isinstance(value, list):
        return "".join(text_of(part.get("text")) for part in value if isinstance(part, dict))
    return None


def _count(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        return None
    return min(value, _MAX_COUNT)


def _usage(value: object) -> Usage | None:
    """What the provider counted. Generated tokens are those beside the prompt's in the total, where that is more than
    the completion's: some count thinking there alone. Cache reads beyond the prompt are no cache reads."""
    if not isinstance(value, dict):
        return None
    n_input, n_output = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
    if n_input is None or n_output is None:
        return None
    n_total = _count(value.get("total_tokens"))
    if n_total is not None:
        n_output = max(n_output, n_total - n_input)
    details = value.get("prompt_tokens_details")
    n_cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(n_input, n_cached if n_cached is not None and n_cached <= n_input else 0, n_output)


def _logprob(value: object) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < -_LOWEST_LOGPROB
    return float(value) if is_number else _LOWEST_LOGPROB  # type: ignore[arg-type]


def _logprobs(value: object) -> tuple[TokenLogprob, ...]:
    if not isinstance(value, dict):
        return ()
    content = value.get("content")
    if not isinstance(content, list):
        return _old_logprobs(value)
    tokens = []
    for entry in content:
        if isinstance(entry, dict) and isinstance(entry.get("token"), str):
            listed = entry.get("top_logprobs")
            alternatives = [
                (clean(other["token"]), _logprob(other.get("logprob")))
                for other in (listed if isinstance(listed, list) else ())
                if isinstance(other, dict) and isinstance(other.get("token"), str)
            ]
            alternatives.sort(key=lambda pair: -pair[1])
            tokens.append(TokenLogprob(clean(entry["token"]), _logprob(entry.get("logprob")), tuple(alternatives)))
    return tuple(tokens)


def _old_logprobs(value: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    """The older form: lists of tokens and of their log-probabilities, and a dictionary of alternatives per token."""
    texts, numbers = value.get("tokens"), value.get("token_logprobs")
    if not isinstance(texts, list) or not isinstance(numbers, list) or len(texts) != len(numbers):
        return ()
    listed = value.get("top_logprobs")
    listed = listed if isinstance(listed, list) and len(listed) == len(texts) else [None] * len(texts)
    tokens = []
    for text, number, others in zip(texts, numbers, listed, strict=True):
        if isinstance(text, str) and number is not None:  # null: a token of the prompt that has none
            pairs = others.items() if isinstance(others, dict) else ()
            alternatives = sorted(((clean(t), _logprob(p)) for t, p in pairs), key=lambda pair: -pair[1])
            tokens.append(TokenLogprob(clean(text), _logprob(number), tuple(alternatives)))
    return tuple(tokens)
