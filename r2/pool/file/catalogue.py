"""What is known of hosted models: prices from the package genai-prices, the rest from our own dated `models.toml`.

`entry_of("openai/gpt-6-luna")` is a table of the pool file, ready to be written. It is used when a pool file is made or
checked, never while questions are answered: what a run pays is what its pool file says.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Final

from r2.errors import ConfigError

TIERS: Final = ("small", "medium", "large")
_PRICE_PROVIDERS: Final[Mapping[str, str]] = {"gemini": "google", "xai": "x-ai"}
"""Our name of a provider -> the package's, where they differ."""


@dataclass(frozen=True, slots=True)
class Rates:
    """USD per million tokens: fresh prompt, prompt read from the cache, prompt written to it, output. None: unknown."""

    input: float
    cached_input: float | None
    cache_write: float | None
    output: float


@dataclass(frozen=True, slots=True)
class LongContext:
    """Other rates for a whole request whose prompt has more than `above_tokens` tokens."""

    above_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class CataloguePrice:
    """Today's price of a model. `matched` is the package's own name of it, which may stand for a family.

    `until` is the last day of this price where the package knows of a later one. `batch` is the price of the provider's
    batch endpoint, None where the package has none.
    """

    matched: str
    rates: Rates
    long: tuple[LongContext, ...] = ()
    batch: Rates | None = None
    until: date | None = None
    is_by_time_of_day: bool = False


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
    """Where a provider answers, how, and which variable holds its key."""

    endpoint: str
    api_key_env: str
    dialect: str
    models: Mapping[str, ModelFacts] = field(default_factory=dict)


@cache
def providers() -> Mapping[str, ProviderFacts]:
    """The table, read once."""
    document = _document()
    return {
        name: ProviderFacts(
            **fields,
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


def split_name(name: str) -> tuple[str, str]:
    """(provider, model) of `openai/gpt-6-luna`. ConfigError, with the nearest names, for a provider nobody knows."""
    provider, _, model = name.partition("/")
    if not model or provider not in providers():
        close = difflib.get_close_matches(provider, providers(), n=1)
        hint = f"Did you mean {close[0]}/{model or 'MODEL'}? " if close else ""
        raise ConfigError(f"{name!r}: expected PROVIDER/MODEL. {hint}Providers: {', '.join(providers())}.")
    return provider, model


def facts_of(provider: str, model: str) -> ModelFacts:
    """What is known of the model: its own line, or that of the name without its date; nothing where there is none."""
    known = providers()[provider].models
    if model in known:
        return known[model]
    families = [name for name in known if model.startswith(f"{name}-") and model[len(name) + 1 :][:1].isdigit()]
    return known[max(families, key=len)] if families else ModelFacts()


def price_of(provider: str, model: str, today: date) -> CataloguePrice:
    """Today's price. ConfigError, with the nearest names and the line to write by hand, where the package has none."""
    from genai_prices import data

    wanted = _PRICE_PROVIDERS.get(provider, provider)
    listed = next((p for p in data.providers if p.id == wanted), None)
    found = listed.find_model(model, all_providers=data.providers) if listed is not None else None
    if listed is None or found is None or not found.prices:
        ids = [m.id for m in listed.models] if listed is not None else []
        others = {*ids, *providers()[provider].models} - {model}
        close = difflib.get_close_matches(model, sorted(others), n=3)
        hint = f"Nearest names: {', '.join(f'{provider}/{name}' for name in close)}. " if close else ""
        raise ConfigError(
            f"{provider}/{model}: genai-prices {version('genai-prices')} has no price for it. {hint}"
            "Or write its entry by hand, with price_usd_per_mtok = "
            '{input = ..., output = ..., date = "YYYY-MM-DD", source = "..."}.'
        )
    prices, until, is_by_time = _in_force(found.prices, today)
    rates, long = _rates(prices)
    if rates is None:
        raise ConfigError(f"{provider}/{model}: genai-prices knows the model, but not its price per token.")
    batch = None
    for variant in found.price_variants or ():
        if variant.when == {"processing": "batch"} and _is_in_force(variant.constraint, today):
            batch, _ = _rates(variant.prices)
            break
    return CataloguePrice(found.id, rates, long, batch, until, is_by_time)


def _in_force(prices: Any, today: date) -> tuple[Any, date | None, bool]:
    """(the prices of today, their last day, whether they depend on the time of day: then the dearest)."""
    if not isinstance(prices, list):
        return prices, None, False
    started = [p for p in prices if _start(p.constraint) is not None or p.constraint is None]
    timed = [p for p in prices if p.constraint is not None and _start(p.constraint) is None]
    now = [p for p in started if p.constraint is None or _start(p.constraint) <= today]
    later = [_start(p.constraint) for p in started if p.constraint is not None and _start(p.constraint) > today]
    current = max(now, key=lambda p: _start(p.constraint) or date.min) if now else (started or timed)[0]
    if timed:
        current = max([current, *timed], key=lambda p: _base(p.prices.output_mtok) or 0.0)
    return current.prices, min(later) - timedelta(days=1) if later else None, bool(timed)


def _start(constraint: Any) -> Any:
    return getattr(constraint, "start_date", None)


def _is_in_force(constraint: Any, today: date) -> bool:
    start = _start(constraint)
    return constraint is None or (start is not None and start <= today)


def _base(value: Any) -> float | None:
    if value is None:
        return None
    return float(value if isinstance(value, (Decimal, int, float)) else value.base)


def _rates(prices: Any) -> tuple[Rates | None, tuple[LongContext, ...]]:
    fields = (prices.input_mtok, prices.cache_read_mtok, prices.cache_write_mtok, prices.output_mtok)
    base = [_base(value) for value in fields]
    if base[0] is None or base[3] is None:
        return None, ()
    starts = sorted({tier.start for value in fields for tier in getattr(value, "tiers", ())})
    long = []
    for start in starts:
        at = [_at(value, start) for value in fields]
        long.append(LongContext(start, Rates(at[0] or base[0], at[1], at[2], at[3] or base[3])))
    return Rates(base[0], base[1], base[2], base[3]), tuple(long)


def _at(value: Any, start: int) -> float | None:
    """The rate above `start` tokens."""
    reached = [tier for tier in getattr(value, "tiers", ()) if tier.start <= start]
    return float(max(reached, key=lambda tier: tier.start).price) if reached else _base(value)


def price_table(provider: str, model: str, today: date) -> dict[str, Any]:
    """`price_usd_per_mtok` of a pool file, with its date and where each number is from."""
    price = price_of(provider, model, today)
    table = _rate_fields(price.rates)
    if price.long:
        table["long"] = [{"above_tokens": long.above_tokens, **_rate_fields(long.rates)} for long in price.long]
    if price.batch is not None:
        table["batch"] = _rate_fields(price.batch)
    if price.until is not None:
        table["until"] = price.until.isoformat()
    table["date"] = today.isoformat()
    note = ", dearest time of day" if price.is_by_time_of_day else ""
    table["source"] = f"genai-prices {version('genai-prices')}, {price.matched}{note}"
    return table


def _rate_fields(rates: Rates) -> dict[str, Any]:
    fields = {
        "input": rates.input,
        "cached_input": rates.cached_input,
        "cache_write": rates.cache_write,
        "output": rates.output,
    }
    return {name: value for name, value in fields.items() if value is not None}


def entry_of(name: str, today: date, *, tier: str | None = None, effort: str | None = None) -> dict[str, Any]:
    """One table of a pool file for `PROVIDER/MODEL`: address, key's variable, price, context, what it takes.

    ConfigError for an unknown name or price, and for a model that is past its end of life.
    """
    provider, model = split_name(name)
    where, facts = providers()[provider], facts_of(provider, model)
    if facts.retires is not None and date.fromisoformat(facts.retires) <= today:
        after = f" Its successor is {provider}/{facts.successor}." if facts.successor else ""
        raise ConfigError(f"{name}: the provider ended it on {facts.retires}.{after}")
    if effort is not None and effort not in facts.efforts:
        raise ConfigError(f"{name}: no reasoning effort {effort!r}. It knows: {', '.join(facts.efforts) or 'none'}.")
    entry: dict[str, Any] = {
        "endpoint": where.endpoint,
        "dialect": where.dialect,
        "served_model": model,
        "api_key_env": where.api_key_env,
        "tier": tier or facts.tier or "medium",
        "price_usd_per_mtok": price_table(provider, model, today),
    }
    if facts.context_tokens is not None:
        entry["context_tokens"] = facts.context_tokens
    if facts.max_output_tokens is not None:
        entry["max_output_tokens"] = facts.max_output_tokens
    if effort is not None:
        entry["reasoning_effort"] = effort
    if not takes_sampling(facts, effort):
        entry["sampling"] = False
    if not facts.stop:
        entry["omit"] = ["stop"]
    if facts.logprobs and takes_sampling(facts, effort):
        entry["logprobs"] = True
    if facts.schema:
        entry["guided"] = True
    if facts.limit_field is not None:
        entry["limit_field"] = facts.limit_field
    if facts.retires is not None:
        entry["retires"] = facts.retires
    return entry


def takes_sampling(facts: ModelFacts, effort: str | None) -> bool:
    """Whether temperature and top_p are taken with this reasoning effort (None: the model's default)."""
    if facts.sampling == "without_effort":
        return (effort or facts.default_effort) == "none"
    return facts.sampling == "always"


def tier_models(provider: str) -> dict[str, str]:
    """Tier -> the model that stands for it, weakest first; only tiers that the table names."""
    by_tier = {facts.tier: model for model, facts in providers()[provider].models.items() if facts.tier}
    return {tier: by_tier[tier] for tier in TIERS if tier in by_tier}
