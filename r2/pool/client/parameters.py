"""Which parameter of a request an endpoint refuses, read from its refusal. Pure.

Models differ in what they take, and new ones take less: temperature, stop words, log-probabilities. A refusal that
names a parameter is no failure of the question. The parameter is left out from then on, or the output limit is sent
under its other name; both are kept with the entry.
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
        "reasoning_effort",
        "thinkingConfig",
        "output_config",
        "response_format",
        "responseMimeType",
        "responseJsonSchema",
        "stream_options",
    }
)
"""Fields that a request can do without. What the answer must have instead is checked when it is there."""
_LIMITS: Final[Mapping[str, str]] = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_TOGETHER: Final = (
    frozenset({"logprobs", "top_logprobs"}),
    frozenset({"responseLogprobs", "logprobs"}),
    frozenset({"responseMimeType", "responseJsonSchema"}),
)
"""Fields that make no sense without one another."""
_CODES: Final = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter", "extra_forbidden"})
_PHRASES: Final = (
    re.compile(r"unsupported (?:parameter|value):? ['\"`]?(?P<name>\w+)", re.IGNORECASE),
    re.compile(
        r"['\"`](?P<name>\w+)['\"`] (?:is|are) (?:not supported|deprecated|not "
        r"permitted|unsupported)",
        re.IGNORECASE,
    ),
    re.compile(r"\b(?P<name>\w+): extra inputs are not permitted", re.IGNORECASE),
    re.compile(r"does not support (?:the )?parameter ['\"`]?(?P<name>\w+)", re.IGNORECASE),
    re.compile(r"argument not supported on this model: (?P<name>\w+)", re.IGNORECASE),
    re.compile(r"unknown name [\\'\"`]+(?P<name>\w+)", re.IGNORECASE),
    re.compile(r"unrecognized request argument supplied: (?P<name>\w+)", re.IGNORECASE),
    re.compile(
        r"\b(?P<name>temperature|top_p|stop|seed|logprobs) (?:is|are) (?:deprecated|not "
        r"supported)",
        re.IGNORECASE,
    ),
)


@dataclass(frozen=True, slots=True)
class Habit:
    """What to do from now on: leave fields out, or send the output limit under another name."""

    omit: frozenset[str] = frozenset()
    limit_field: str | None = None
    named: str = ""


def refused_parameter(status: int, body: bytes, sent: frozenset[str]) -> Habit | None:
    """What a 400 or 422 says about a field that was sent; None where it names none that can be changed."""
    if status not in (400, 404, 422):
        return None
    document = as_json(body)
    for name in _named(document):
        for candidate in (name, _snake(name)):
            if candidate in _LIMITS and candidate in sent:
                return Habit(limit_field=_LIMITS[candidate], named=candidate)
            if candidate in OPTIONAL and candidate in sent:
                group = next((group for group in _TOGETHER if candidate in group and group <= sent), frozenset())
                return Habit(frozenset({candidate}) | group, named=candidate)
    return None


def _named(document: Any) -> list[str]:
    """Names of parameters in a refusal, the surest first: the error's own field, then its words."""
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict):
        return []
    error = document.get("error", document)
    found: list[str] = []
    if isinstance(error, dict):
        if error.get("code") in _CODES and isinstance(error.get("param"), str):
            found.append(error["param"].rpartition(".")[2])
        details = error.get("message") if isinstance(error.get("message"), dict) else error
        listed = details.get("detail") if isinstance(details, dict) else None
        for entry in listed if isinstance(listed, list) else ():
            place = entry.get("loc") if isinstance(entry, dict) and entry.get("type") in _CODES else None
            if isinstance(place, list) and place:
                found.append(str(place[-1]))
    said = error if isinstance(error, str) else error.get("message") if isinstance(error, dict) else None
    if isinstance(said, str):
        found += [match["name"] for phrase in _PHRASES for match in phrase.finditer(said[:2000])]
    return found


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower()
