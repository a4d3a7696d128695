"""What every dialect is made of: the request out, the reply in, and what the provider can be asked for. Pure.

A dialect is one provider's form of the same exchange: one prompt, one text. It turns a `Call` into a URL, headers and a
JSON body, and the JSON that comes back into a `Reply` or a `NoReply`. What an entry of the pool file says about its own
model (`ModelTable`) always wins over what the dialect assumes.
"""

import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from r2.call import TokenLogprob
from r2.ledger import Usage
from r2.pool.client.dialects.schemas import SchemaAsker, as_it_is

Feature = Literal[
    "sampling", "seed", "stop", "n", "logprobs", "schema", "effort", "cached", "cache_write", "reasoning", "batch"
]
"""What a provider can be asked for, or reports: sampling parameters, log-probabilities, a JSON schema, a reasoning
effort; tokens read from and written to its cache, tokens spent on thinking; a batch endpoint."""


@dataclass(slots=True)  # not frozen: one is made per call, and freezing costs more than the rest of making it
class Reply:
    """A text that a model wrote.

    `text` is the answer alone. `thinking` is what came before it, where the provider shows it. `finish_reason` is the
    provider's own word for the end (`endings.py` says what it means). `usage` is None where none was reported.
    `is_refused`: the model declined, and the text is why. `has_error`: an error came with the text.
    """

    text: str
    thinking: str
    finish_reason: str
    response_model: str
    response_id: str
    usage: Usage | None
    token_logprobs: tuple[TokenLogprob, ...] = ()
    is_refused: bool = False
    has_error: bool = False


@dataclass(frozen=True, slots=True)
class NoReply:
    """A body that holds no text of a model, and why. `error` is the provider's error object, if that is what came, and
    `usage` what it counted all the same."""

    reason: str
    error: Mapping[str, Any] | str | None = None
    usage: Usage | None = None


@dataclass(slots=True)  # not frozen: one is made per call
class Request:
    """What one call asks for, whatever the dialect: the `Call` and what the entry adds to it.

    `omitted` names the parameters that this entry refused, or that its pool file says to leave out. `limit_field` is
    the name of the output limit, "" for the dialect's own. `schema` is one that the provider takes (`schemas.py`), and
    `is_strict` asks for it in strict mode. `json_object` asks for any JSON object; a schema says more.
    """

    model: str
    messages: tuple[tuple[str, str], ...]
    max_output_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n_top_logprobs: int = 0
    schema: Mapping[str, Any] | None = None
    effort: str | None = None
    cache_prefix: bool = False
    limit_field: str = ""
    omitted: frozenset[str] = frozenset()
    json_object: bool = False
    is_strict: bool = True


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What a reply's headers say of the entry's limits, per minute; None where they do not say."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """One provider's form. Every function is pure and total over what a server may send."""

    name: str
    url: Callable[[str, str], str]
    """(endpoint of the pool file, served model) -> where a call is sent."""
    headers: Callable[[str], dict[str, str]]
    """API key, "" for none -> headers of a request."""
    body: Callable[[Request], dict[str, Any]]
    limits: Callable[[Mapping[str, str]], RateLimits]
    """Headers of a reply, names in lower case -> the entry's limits."""
    features: frozenset[Feature]
    max_top_logprobs: int = 0
    asks_schema: SchemaAsker = as_it_is
    """A JSON schema -> what the provider can be asked for of it."""


def no_limits(headers: Mapping[str, str]) -> RateLimits:
    """Of a provider whose headers name none."""
    return RateLimits()


def bearer(key: str) -> dict[str, str]:
    """The Authorization header that most providers take."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def system_and_turns(messages: tuple[tuple[str, str], ...]) -> tuple[str, list[tuple[str, str]]]:
    """(the system texts as one, the turns of user and assistant)."""
    systems, turns = [], []
    for message in messages:
        role = message[0]
        if role in ("user", "assistant"):
            turns.append(message)
        elif role in ("system", "developer"):
            systems.append(message[1])
    return "\n\n".join(systems), turns


def with_path(endpoint: str, path: str) -> str:
    """The endpoint's address with `path` behind it; a query stays a query, and a path that is there is not repeated."""
    parts = urllib.parse.urlsplit(endpoint)
    base = parts.path.rstrip("/")
    if not base.endswith(path):
        base += path
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, base, parts.query, ""))


MAX_COUNT: Final = 10**8
"""More tokens than any request can have: a larger count is cut to it."""


def count(value: object) -> int | None:
    """A token count, or None for what is none."""
    if type(value) is int and 0 <= value <= MAX_COUNT:  # nearly all of them
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        return None
    return min(value, MAX_COUNT)


def parts_of(value: object) -> list[Mapping[str, Any]]:
    """The objects among the members of a list; none for what is no list."""
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []
