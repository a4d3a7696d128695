"""Our request as bytes, and a server's reply as values, whatever its dialect. Pure.

Every function here is total over whatever a server may send: a reply that makes no sense is a `BadBody`. What a refusal
means is read in `refusals.py`, what the end of a generation means in `endings.py`.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import orjson

from r2.call import Call, TokenLogprob
from r2.ledger import Usage
from r2.pool.client.dialects import DIALECTS, parse
from r2.pool.client.dialects.dialect import Dialect, NoReply, Request
from r2.pool.client.dialects.schemas import AskedSchema, unwrapped
from r2.pool.client.dialects.text import as_json, clean
from r2.pool.client.endings import ending
from r2.pool.client.refusals import Refusal, provider_message, refusal_inside
from r2.pool.client.stream import STREAM_FIELDS
from r2.pool.file.tables import OUTPUT_LIMIT_FIELDS, ModelTable


@dataclass(slots=True)  # not frozen: see exchange.Reply
class ParsedReply:
    """A chat completion. `usage` is None where the provider reported none, or none that can be read.

    `finish_reason` is the server's own word. `is_cut` says that the text ends at its limit; `error_type` is set where
    the end leaves no answer (`endings.py`). `thinking` is what the model wrote before its answer, where it is shown.
    """

    text: str
    finish_reason: str
    response_model: str
    response_id: str
    usage: Usage | None
    token_logprobs: tuple[TokenLogprob, ...] = ()
    is_cut: bool = False
    error_type: str | None = None
    thinking: str = ""


@dataclass(frozen=True, slots=True)
class BadBody:
    """A body that is not a chat completion, and why. `usage` is what the provider counted all the same."""

    reason: str
    usage: Usage | None = None


def request_body(
    call: Call,
    table: ModelTable,
    served_model: str,
    *,
    dialect: Dialect = DIALECTS["compatible"],
    omitted: frozenset[str] = frozenset(),
    limit_field: str = "",
    unasked_schemas: Collection[str] = (),
    cache_prefix: bool | None = None,
    streams: bool = False,
) -> bytes:
    """The JSON body of a request in the entry's dialect.

    Log-probabilities and schemas are asked for only where the entry says its server has them, temperature and `top_p`
    only where it says that its model takes them. A seed is sent when the call or its sample index has one, so that
    repeated asks of one request differ and a rerun does not. The call's effort goes before the entry's. Nothing in
    `omitted` is sent, and nothing that the entry's `omit` names. The entry's `thinking_tokens` are added to an output
    limit that is ours and not the row's, and the limit is cut to what the entry's model can generate; `limit_field` is
    its name where it is not the entry's own. A schema is asked for in the form that the provider takes, and not where
    it is in `unasked_schemas`. `cache_prefix` marks the system text for the provider's cache (None: as the entry says).
    `extra_body` wins over our fields, but for `stream`, which would change the form of the
    reply; where it has a limit on generated tokens under any name, that is the only one sent. Lone surrogates become
    "?". Raises TypeError if `extra_body` holds what JSON cannot.
    """
    omitted = _left_out(table, omitted)
    request = _request(call, table, served_model, dialect, omitted, limit_field, unasked_schemas, cache_prefix)
    body = _body(request, table, dialect, omitted)
    if streams:
        body.update(STREAM_FIELDS)
    try:
        return orjson.dumps(body)
    except TypeError:  # orjson refuses lone surrogates, which come from broken input files
        cleaned = tuple((role, clean(text)) for role, text in call.messages)
        body.update(
            {key: value for key, value in dialect.body(replace(request, messages=cleaned)).items() if key in _TEXTS}
        )
        return orjson.dumps(body)


def not_sent(
    call: Call,
    table: ModelTable,
    served_model: str,
    *,
    dialect: Dialect = DIALECTS["compatible"],
    omitted: frozenset[str] = frozenset(),
) -> tuple[str, ...]:
    """What the row asks for (`Call.asked_for`) and this entry is not sent as asked, sorted by name.

    A parameter is not sent where the body is the same without it, whatever the reason: the entry's file, its dialect,
    what it refused, or an `extra_body` that says something else.
    """
    omitted = _left_out(table, omitted)
    request = _request(call, table, served_model, dialect, omitted)
    body = _body(request, table, dialect, omitted)
    missing = {
        name
        for name in call.asked_for & _WITHOUT.keys()
        if _body(replace(request, **_WITHOUT[name]), table, dialect, omitted) == body
    }
    if "max_tokens" in call.asked_for and table.sent_output_limit is not None:
        missing.add("max_tokens")
    config = body.get("generationConfig")
    sent = (config if isinstance(config, dict) else body).get("temperature")
    if "temperature" in call.asked_for and sent != call.temperature:  # cut to what the provider takes
        missing.add("temperature")
    return tuple(sorted(missing))


_WITHOUT: Final[dict[str, dict[str, Any]]] = {
    "temperature": {"temperature": None},
    "top_p": {"top_p": None},
    "seed": {"seed": None},
    "stop": {"stop": ()},
    "reasoning_effort": {"effort": None},
    "logprobs": {"n_top_logprobs": 0},
}
"""What a row may ask for, by its name there, and a request that does not."""


def _left_out(table: ModelTable, omitted: frozenset[str]) -> frozenset[str]:
    return omitted | frozenset(table.omit) if table.omit else omitted


def _request(
    call: Call,
    table: ModelTable,
    served_model: str,
    dialect: Dialect,
    omitted: frozenset[str],
    limit_field: str = "",
    unasked_schemas: Collection[str] = (),
    cache_prefix: bool | None = None,
) -> Request:
    if table.sent_output_limit is not None:
        omitted = omitted | frozenset(OUTPUT_LIMIT_FIELDS)
    limit = call.max_output_tokens
    if table.thinking_tokens and "max_tokens" not in call.asked_for:
        limit += table.thinking_tokens
    if table.max_output_tokens is not None and table.max_output_tokens < limit:
        limit = table.max_output_tokens
    schema = None
    if call.json_schema is not None and table.guided and call.json_schema not in unasked_schemas:
        schema = _asked_schema(call.json_schema, dialect.name)
    return Request(
        served_model,
        call.messages,
        limit,
        temperature=call.temperature if table.sampling else None,
        top_p=call.top_p if table.sampling else None,
        seed=(call.seed or 0) + call.sample_index if call.seed is not None or call.sample_index else None,
        stop=call.stop,
        n_top_logprobs=call.top_logprobs if table.logprobs else 0,
        schema=None if schema is None else schema.schema,
        effort=call.effort or table.reasoning_effort,
        cache_prefix=bool(table.cache_prefix if cache_prefix is None else cache_prefix),
        limit_field=limit_field or table.limit_field or "",
        omitted=omitted,
        json_object=call.json_object and table.guided,
        is_strict=schema is None or schema.is_strict,
    )


def _body(request: Request, table: ModelTable, dialect: Dialect, left_out: frozenset[str]) -> dict[str, Any]:
    body = dialect.body(request)
    if table.extra_body:
        _add(body, table.extra_body, left_out)
        body.pop("stream", None)
    return body


def _add(body: dict[str, Any], further: Mapping[str, Any], left_out: frozenset[str]) -> None:
    """The further fields over ours; those of Gemini's generationConfig each by itself, as it holds the output limit."""
    for name, value in further.items():
        if name in left_out and name not in OUTPUT_LIMIT_FIELDS:
            continue
        ours = body.get(name)
        if name == "generationConfig" and isinstance(value, Mapping) and isinstance(ours, dict):
            _add(ours, value, left_out)
        else:
            body[name] = value


_TEXTS: Final = frozenset({"messages", "system", "contents", "systemInstruction"})
"""Fields of a body that hold the user's texts, in any dialect."""


def answer_of(text: str, call: Call, table: ModelTable, dialect: Dialect) -> str:
    """The answer within a reply's text: where the schema was asked for as the field of an object, that field."""
    if call.json_schema is None or not table.guided:
        return text
    schema = _asked_schema(call.json_schema, dialect.name)
    return unwrapped(text) if schema is not None and schema.is_wrapped else text


@lru_cache(maxsize=64)
def _asked_schema(text: str, dialect: str) -> AskedSchema | None:
    schema = orjson.loads(text)
    return DIALECTS[dialect].asks_schema(schema) if isinstance(schema, dict) else None


def parse_body(body: bytes, status: int = 200) -> ParsedReply | BadBody | Refusal:
    """What a 2xx says: a completion, an error that came under it, or nothing that makes sense.

    Text that a server cannot have meant (lone surrogates, logprobs of minus infinity) is repaired.
    """
    document = as_json(body)
    found = parse(document)
    if isinstance(found, NoReply):
        if found.error is not None:
            whole = document[0] if isinstance(document, list) else document
            return replace(refusal_inside(status, whole, found.error, body), usage=found.usage)
        return BadBody(f"{found.reason}: {provider_message(body)}", found.usage)
    is_cut, error_type = ending(found.finish_reason)
    if found.is_refused and error_type is None:
        error_type = "content_filter"
    if found.has_error and error_type is None:
        error_type = "server_error"
    return ParsedReply(
        found.text,
        found.finish_reason,
        found.response_model,
        found.response_id,
        found.usage,
        found.token_logprobs,
        is_cut,
        error_type,
        found.thinking,
    )


def scrub(body: bytes, key: str) -> bytes:
    """`body` without the key: servers quote bad keys in their refusals, and models repeat what they are shown.

    Struck is what decodes to the key: as it is, and with any of its characters escaped as JSON (`\\u0073`, `\\/`), JSON
    within JSON, or an address (`%2D`) may write it. Keys of fewer than 8 characters are placeholders ("EMPTY", "none"),
    no secrets, and their words occur in answers.
    """
    if len(key) < 8:
        return body
    if b"\\" in body or b"%" in body:
        body = _echo(key).sub(b"[key]", body)
    plain = key.encode("utf-8", "replace")
    return body.replace(plain, b"[key]") if plain in body else body


@lru_cache(maxsize=64)
def _echo(key: str) -> re.Pattern[bytes]:
    """Matches the key with any of its characters escaped, each in its own way."""
    return re.compile(b"".join(b"(?:" + b"|".join(_forms(character)) + b")" for character in key))


def _forms(character: str) -> list[bytes]:
    utf8, utf16 = character.encode("utf-8", "replace"), character.encode("utf-16-be", "replace")
    units = [utf16[i : i + 2].hex().encode() for i in range(0, len(utf16), 2)]
    return [  # the longest first: of `%25` for "%" nothing may be left
        b"".join(rb"\\+u(?i:" + unit + b")" for unit in units),
        b"".join(b"%(?i:" + bytes([byte]).hex().encode() + b")" for byte in utf8),
        *([rb"\\+" + re.escape(utf8)] if character in '"\\/' else []),
        re.escape(utf8),
    ]
