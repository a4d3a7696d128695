"""What is known of hosted models: our own dated `models.toml`, with prices of r2/pool/file/published_prices.py.

`entry_of("openai/gpt-6-luna")` is a table of the pool file, ready to be written: address, key's variable, price,
context, and what the model takes. A name may end in an effort, `openai/gpt-6-luna@none`: one model that thinks more or
less is two entries. It is used when a pool file is made, read or checked, never while questions are answered.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any, Final

from r2.errors import ConfigError
from r2.pool.file import published_prices

TIERS: Final = ("small", "medium", "large")
THINKING_TOKENS: Final[Mapping[str, int]] = {
    "minimal": 512,
    "low": 1024,
    "medium": 4096,
    "high": 8192,
    "xhigh": 16384,
    "max": 32768,
}
"""Reasoning effort -> tokens that are added to the limit of each call, so that the thought, which counts within the
limit, leaves room for the answer. Ours: a bound that is seldom reached, not what is spent."""
_TIMEOUT_S, _DEADLINE_S = 600.0, 1800.0
"""Of hosted models that think: minutes are usual. The vendors' SDKs wait as long for one answer."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What `models.toml` says of a model; the defaults where it says nothing."""

    context_tokens: int | None = None
    max_output_tokens: int | None = None
    sampling: str = "always"
    stop: bool = True
    logprobs: bool = False
    schema: bool = True
    efforts: tuple[str, ...] = ()
    default_effort: str | None = None
    limit_field: str | None = None
    retires: str | None = None
    successor: str | None = None
    tier: str | None = None


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """Where a provider answers, how, and which variables hold its key and, for its own SDK, another address."""

    endpoint: str
    api_key_env: str
    dialect: str
    other_key_envs: tuple[str, ...] = ()
    base_url_env: str | None = None
    base_url_path: str = ""
    models: Mapping[str, ModelFacts] = field(default_factory=dict)

    @property
    def key_envs(self) -> tuple[str, ...]:
        return (self.api_key_env, *self.other_key_envs)


@dataclass(frozen=True, slots=True)
class Name:
    """`PROVIDER/MODEL` or `PROVIDER/MODEL@EFFORT`."""

    provider: str
    model: str
    effort: str | None = None

    @property
    def whole(self) -> str:
        """Without the effort."""
        return f"{self.provider}/{self.model}"


@cache
def providers() -> Mapping[str, ProviderFacts]:
    """The table, read once."""
    document = _document()
    return {
        name: ProviderFacts(
            **{**fields, "other_key_envs": tuple(fields.get("other_key_envs", ()))},
            models={
                model: ModelFacts(**{**facts, "efforts": tuple(facts.get("efforts", ()))})
                for model, facts in document["models"].get(name, {}).items()
            },
        )
        for name, fields in document["providers"].items()
    }


@cache
def _document() -> dict[str, Any]:
    return tomllib.loads((files("r2.pool.file") / "models.toml").read_text("utf-8"))


def table_date() -> str:
    """Day of `models.toml`."""
    return str(_document()["date"])


def price_date() -> str:
    """Day of the prices."""
    known = _document()["prices"]
    return published_prices.as_of(known["release"], known["date"])


def parse_name(name: str) -> Name:
    """The parts of a name. ConfigError, with the nearest names, for a provider nobody knows."""
    provider, _, rest = name.partition("/")
    model, _, effort = rest.partition("@")
    if not model or provider not in providers():
        close = difflib.get_close_matches(provider, providers(), n=1)
        hint = f"Did you mean {close[0]}/{rest or 'MODEL'}? " if close else ""
        raise ConfigError(f"{name!r}: expected PROVIDER/MODEL. {hint}Providers: {', '.join(providers())}.")
    return Name(provider, model, effort or None)


def facts_of(provider: str, model: str) -> ModelFacts:
    """What is known of the model: its own line, or that of the name without its date; nothing where there is none."""
    known = providers()[provider].models
    if model in known:
        return known[model]
    families = [name for name in known if published_prices.is_same_model(model, name)]
    return known[max(families, key=len)] if families else ModelFacts()


def is_thinking(facts: ModelFacts, effort: str | None) -> bool:
    """Whether the model thinks before it answers, with this effort (None: its default)."""
    return bool(facts.efforts) and (effort or facts.default_effort or "none") != "none"


def takes_sampling(facts: ModelFacts, effort: str | None) -> bool:
    """Whether temperature and top_p are taken with this reasoning effort (None: the model's default)."""
    if facts.sampling == "without_effort":
        return (effort or facts.default_effort) == "none"
    return facts.sampling == "always"


def priced(name: Name, today: date) -> tuple[dict[str, Any], int | None]:
    """(`price_usd_per_mtok`, context length that the price list names). Errors as `published_prices.price_of`."""
    known = providers()[name.provider].models
    price = published_prices.price_of(name.provider, name.model, today, known)
    return published_prices.price_table(price, name.whole, price_date()), price.context_tokens


def entry_of(
    text: str, today: date, *, price: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """One table of a pool file for `PROVIDER/MODEL` or `PROVIDER/MODEL@EFFORT`.

    `price` is given by hand, and the price list is not asked then. `environ`: addresses and variables of keys are taken
    as the vendors' SDKs take them; None: the provider's own. ConfigError for an unknown name, effort or price, and for
    a model that is past its end of life.
    """
    name = parse_name(text)
    where, facts = providers()[name.provider], facts_of(name.provider, name.model)
    if facts.retires is not None and date.fromisoformat(facts.retires) <= today:
        after = f" Its successor is {name.provider}/{facts.successor}." if facts.successor else ""
        raise ConfigError(f"{name.whole}: the provider ended it on {facts.retires}.{after}")
    is_known = facts != ModelFacts()
    if name.effort is not None and name.effort not in (facts.efforts if is_known else ("none", *THINKING_TOKENS)):
        known = ", ".join(facts.efforts if is_known else ("none", *THINKING_TOKENS)) or "none at all"
        raise ConfigError(f"{text}: no reasoning effort {name.effort!r}. It knows: {known}.")
    table, context_tokens = (dict(price), None) if price is not None else priced(name, today)
    entry: dict[str, Any] = {
        "endpoint": where.endpoint if environ is None else endpoint_in(where, environ),
        "dialect": where.dialect,
        "served_model": name.model,
        "api_key_env": where.api_key_env if environ is None else key_env_in(where, environ) or where.api_key_env,
        "tier": facts.tier or tier_of(table),
        "price_usd_per_mtok": table,
    }
    if (context := facts.context_tokens or context_tokens) is not None:
        entry["context_tokens"] = context
    if facts.max_output_tokens is not None:
        entry["max_output_tokens"] = facts.max_output_tokens
    if name.effort is not None:
        entry["reasoning_effort"] = name.effort
    if is_thinking(facts, name.effort) or (not is_known and (name.effort or "none") != "none"):
        entry["thinking_tokens"] = THINKING_TOKENS[name.effort or facts.default_effort or "medium"]
        entry |= {"timeout_s": _TIMEOUT_S, "deadline_s": _DEADLINE_S}
    if not takes_sampling(facts, name.effort):
        entry["sampling"] = False
    if not facts.stop:
        entry["omit"] = ["stop"]
    if facts.logprobs and takes_sampling(facts, name.effort):
        entry["logprobs"] = True
    if facts.schema and is_known:
        entry["guided"] = True
    if facts.limit_field is not None:
        entry["limit_field"] = facts.limit_field
    if facts.retires is not None:
        entry["retires"] = facts.retires
    return entry


def tier_of(price: Mapping[str, Any]) -> str:
    """The tier of a model that the table gives none, by its price alone (ours): USD per million tokens, three prompt
    tokens to a generated one, below 1 small, below 4 medium."""
    blended = 0.75 * float(price["input"]) + 0.25 * float(price["output"])
    return "small" if blended < 1 else "medium" if blended < 4 else "large"


def key_env_in(provider: ProviderFacts, environ: Mapping[str, str]) -> str | None:
    """The first of the provider's key variables that is set; None: none is."""
    return next((name for name in provider.key_envs if environ.get(name)), None)


def endpoint_in(provider: ProviderFacts, environ: Mapping[str, str]) -> str:
    """The provider's address, or the one that its own SDK would take from the environment."""
    given = environ.get(provider.base_url_env or "", "").strip().rstrip("/")
    if not given:
        return provider.endpoint
    return given if given.endswith(provider.base_url_path) else given + provider.base_url_path


def tier_models(provider: str) -> dict[str, str]:
    """Tier -> the model that stands for it, weakest first; only tiers that the table names."""
    by_tier = {facts.tier: model for model, facts in providers()[provider].models.items() if facts.tier}
    return {tier: by_tier[tier] for tier in TIERS if tier in by_tier}
