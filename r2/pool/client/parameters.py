"""Which parameter of a request an endpoint refuses, read from its refusal. Pure.

Models differ in what they take, and new ones take less: temperature, stop words, log-probabilities. A refusal that
names a parameter is no failure of the question. The parameter is left out from then on, or the output limit is sent
under its other name; `habits.py` keeps both with the entry.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from r2.pool.client.dialects.text import as_json

OPTIONAL: Final = frozenset(
    {
        "temperature",
        "top_p",
        "topP",
        "seed",
        "random_seed",
        "stop",
        "stop_sequences",
        "stopSequences",
        "logprobs",
        "top_logprobs",
        "responseLogprobs",
        "output_config",
        "response_format",
        "responseMimeType",
        "responseJsonSchema",
        "prompt_cache_key",
        "stream_options",
    }
)
"""Fields that a request can do without. What the answer must have instead is checked when it is there. A reasoning
effort is not among them: without it the entry would be another one."""
LIMIT_FIELDS: Final[Mapping[str, str]] = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}
"""Name of the output limit -> its other name. A request always has one of them, or no cap could hold."""
SCHEMA_FIELDS: Final = frozenset({"response_format", "output_config", "effort", "responseJsonSchema"})
"""Fields that may hold a JSON schema (`effort` stands for Anthropic's `output_config` here)."""
_TOGETHER: Final = (
    frozenset({"logprobs", "top_logprobs"}),
    frozenset({"responseLogprobs", "logprobs"}),
    frozenset({"responseMimeType", "responseJsonSchema"}),
)
"""Fields that make no sense without one another."""
_POOL_LINES: Final[Mapping[str, str]] = {
    "temperature": "sampling = false",
    "logprobs": "logprobs = false",
    "top_logprobs": "logprobs = false",
    "responseLogprobs": "logprobs = false",
    "output_config": "guided = false",
    "response_format": "guided = false",
    "responseMimeType": "guided = false",
    "responseJsonSchema": "guided = false",
}
_POOL_KEYS: Final[Mapping[str, str]] = {
    "top_p": "sampling",
    "topP": "sampling",
    "reasoning_effort": "reasoning_effort",
    "effort": "reasoning_effort",
    "thinking": "reasoning_effort",
    "thinkingConfig": "reasoning_effort",
    "max_tokens": "limit_field or max_output_tokens",
    "max_completion_tokens": "limit_field or max_output_tokens",
    "maxOutputTokens": "max_output_tokens",
    "model": "served_model",
}
_CODES: Final = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter", "extra_forbidden"})
_PHRASES: Final = (
    re.compile(r"unsupported (?:parameter|value):? ['\"`]?(?P<name>\w+)", re.IGNORECASE),
    re.compile(
        r"['\"`](?P<name>\w+)['\"`] (?:is|are) (?:not supported|deprecated|not permitted|unsupported)", re.IGNORECASE
    ),
    re.compile(r"\b(?P<name>\w+): extra inputs are not permitted", re.IGNORECASE),
    re.compile(r"does not support (?:the )?parameter ['\"`]?(?P<name>\w+)", re.IGNORECASE),
    re.compile(r"does not support the (?P<name>\w+) parameter", re.IGNORECASE),
    re.compile(r"argument not supported on this model: (?P<name>\w+)", re.IGNORECASE),
    re.compile(r"unknown name [\\'\"`]+(?P<name>\w+)", re.IGNORECASE),
    re.compile(r"unrecognized request argument supplied: (?P<name>\w+)", re.IGNORECASE),
    re.compile(
        r"\b(?P<name>temperature|top_p|stop|seed|logprobs) (?:is|are) (?:deprecated|not supported|not enabled)",
        re.IGNORECASE,
    ),
)


@dataclass(frozen=True, slots=True)
class Habit:
    """What to do from now on: leave fields out, or send the output limit under another name. `named` is the field that
    the refusal named."""

    omit: frozenset[str] = frozenset()
    limit_field: str | None = None
    named: str = ""


def refused_parameter(status: int, body: bytes, sent: frozenset[str]) -> Habit | None:
    """What a 400 or 422 says about a field that was sent; None where it names none that can be changed."""
    if status not in (400, 404, 422):
        return None
    for name in _sent_names(body, sent):
        if name in LIMIT_FIELDS:
            return Habit(limit_field=LIMIT_FIELDS[name], named=name)
        if name in OPTIONAL:
            group = next((group for group in _TOGETHER if name in group and group <= sent), frozenset())
            return Habit(frozenset({name}) | group, named=name)
    return None


def named_parameter(body: bytes, sent: frozenset[str]) -> str:
    """The field that a refusal names among those that were sent, whether a request can do without it or not; "" where
    it names none."""
    names = _sent_names(body, sent)
    if names:
        return names[0]
    error = _error_of(as_json(body))
    param = error.get("param") if isinstance(error, dict) else None
    return param if isinstance(param, str) and param in sent else ""


def sent_fields(body: bytes) -> frozenset[str]:
    """Names of the fields of a request, those of Gemini's generationConfig among them.

    Anthropic's `output_config` counts as its `effort` where it holds one.
    """
    document = as_json(body)
    if not isinstance(document, dict):
        return frozenset()
    names = set(document)
    config, output = document.get("generationConfig"), document.get("output_config")
    if isinstance(config, dict):
        names |= set(config)
    if isinstance(output, dict) and "effort" in output:
        names = names - {"output_config"} | {"effort"}
    return frozenset(names)


def pool_line(habit: Habit, omit: tuple[str, ...] = ()) -> str:
    """The line of a pool file that says the same. `omit` are the fields that the entry leaves out already."""
    if habit.limit_field is not None:
        return f'limit_field = "{habit.limit_field}"'
    if habit.named in _POOL_LINES:
        return _POOL_LINES[habit.named]
    names = ", ".join(f'"{name}"' for name in (*omit, *sorted(habit.omit)))
    return f"omit = [{names}]"


def pool_key(name: str) -> str:
    """The key of a pool file's entry that a field of a request comes from."""
    return _POOL_KEYS.get(name) or _POOL_LINES.get(name, "omit").partition(" ")[0]


def _sent_names(body: bytes, sent: frozenset[str]) -> list[str]:
    found = []
    for name in _named(as_json(body)):
        found += [candidate for candidate in (name, _snake(name)) if candidate in sent]
    return found


def _error_of(document: Any) -> Any:
    if isinstance(document, list) and document:
        document = document[0]
    return document.get("error", document) if isinstance(document, dict) else None


def _named(document: Any) -> list[str]:
    """Names of parameters in a refusal, the surest first: the error's own field, then its words."""
    error = _error_of(document)
    found: list[str] = []
    texts: list[object] = [error] if isinstance(error, str) else []
    if isinstance(error, dict):
        if error.get("code") in _CODES and isinstance(error.get("param"), str):
            found.append(error["param"].rpartition(".")[2])
        details = error.get("message") if isinstance(error.get("message"), dict) else error
        listed = details.get("detail") if isinstance(details, dict) else None
        for entry in listed if isinstance(listed, list) else ():
            place = entry.get("loc") if isinstance(entry, dict) and entry.get("type") in _CODES else None
            if isinstance(place, list) and place:
                found.append(str(place[-1]))
        metadata = error.get("metadata")  # OpenRouter: what the host behind it said
        texts += [error.get("message"), metadata.get("raw") if isinstance(metadata, dict) else None]
    for said in texts:
        if isinstance(said, str):
            found += [match["name"] for phrase in _PHRASES for match in phrase.finditer(said[:2000])]
    return found


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower()
