"""Published prices of hosted models, from the package genai-prices: read when a pool file is made or checked.

Never while questions are answered: what a run pays is what its pool file says. The package's traps are kept away here:
a tier's price holds for the whole request, a price may depend on the day or on the time of day (then the dearest is
taken), one name may match another model, and a missing batch price is no price at all.
"""

import difflib
import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from r2.errors import ConfigError

PACKAGE: Final = "genai-prices"
_PROVIDERS: Final[Mapping[str, str]] = {"gemini": "google", "xai": "x-ai"}
"""Our name of a provider -> the package's, where they differ."""
_DATED: Final = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8}|\d{3,4})")
"""What may follow a model's name in the name of one of its releases."""
BY_HAND: Final = 'price_usd_per_mtok = {input = ..., output = ..., date = "YYYY-MM-DD", source = "..."}'


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
class PublishedPrice:
    """Today's price of a model. `matched` is the package's own name of it.

    `until` is the last day of this price where the package knows of a later one. `batch` is the price of the provider's
    batch endpoint, None where the package has none. `context_tokens` is what the package knows of the model's context.
    """

    matched: str
    rates: Rates
    long: tuple[LongContext, ...] = ()
    batch: Rates | None = None
    batch_long: tuple[LongContext, ...] = ()
    until: date | None = None
    is_by_time_of_day: bool = False
    context_tokens: int | None = None


def release() -> str:
    """Version of the package. ConfigError where it is not installed."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            f"Prices of hosted models come from the Python package {PACKAGE}, which is not installed here. Install it "
            f"(pip install {PACKAGE}), or write {BY_HAND} into each entry by hand."
        ) from None


def as_of(known_release: str, known_date: str) -> str:
    """Day of the package's prices: `known_date` for the release that our table was made with, and for any other the day
    on which it was installed, because a release says no day itself."""
    if release() == known_release:
        return known_date
    metadata = importlib.metadata.distribution(PACKAGE).locate_file(f"genai_prices-{release()}.dist-info/METADATA")
    path = Path(str(metadata))
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat() if path.exists() else known_date


def price_of(provider: str, model: str, today: date, known: Iterable[str] = ()) -> PublishedPrice:
    """The price on the day `today`. ConfigError, with the nearest names and the line to write by hand, where the
    package has none, or one of a model that may be another. `known`: names of models that our own table has."""
    version = release()
    from genai_prices import data

    known = set(known)
    wanted = _PROVIDERS.get(provider, provider)
    listed = next((p for p in data.providers if p.id == wanted), None)
    found = listed.find_model(model, all_providers=data.providers) if listed is not None else None
    is_found = found is not None and bool(found.prices)
    if found is None or not is_found or not (model in known or is_same_model(model, found.id)):
        others = {*(m.id for m in listed.models), *known} if listed is not None else known
        close = difflib.get_close_matches(model, sorted(others - {model}), n=3)
        hint = f"Nearest names: {', '.join(f'{provider}/{name}' for name in close)}. " if close else ""
        why = "has no price for it"
        if found is not None and is_found:
            why = f"takes it for {provider}/{found.id}, which may be another model"
        raise ConfigError(f"{provider}/{model}: {PACKAGE} {version} {why}. {hint}Or give its price by hand: {BY_HAND}.")
    prices, until, is_by_time = _in_force(found.prices, today)
    rates, long = _rates(prices)
    if rates is None:
        raise ConfigError(
            f"{provider}/{model}: {PACKAGE} {version} knows the model, but not its price per token. Give it by hand: "
            f"{BY_HAND}."
        )
    batch: Rates | None = None
    batch_long: tuple[LongContext, ...] = ()
    for variant in found.price_variants or ():
        if variant.when == {"processing": "batch"} and _is_in_force(variant.constraint, today):
            batch, batch_long = _rates(variant.prices)
            break
    return PublishedPrice(found.id, rates, long, batch, batch_long, until, is_by_time, found.context_window)


def is_same_model(model: str, matched: str) -> bool:
    """Whether the package's name is that of the model, and not of one whose name only begins so: equal but for a date
    behind it or the host's path before it."""
    if model == matched or model.endswith(f"/{matched}"):
        return True
    return model.startswith(matched) and _DATED.fullmatch(model[len(matched) :]) is not None


def price_table(price: PublishedPrice, name: str, as_of_day: str) -> dict[str, Any]:
    """`price_usd_per_mtok` of a pool file. `name` is the model's, `PROVIDER/MODEL`."""
    table = _with_long(price.rates, price.long)
    if price.batch is not None:
        table["batch"] = _with_long(price.batch, price.batch_long)
    if price.until is not None:
        table["until"] = price.until.isoformat()
    table["date"] = as_of_day
    note = ", dearest time of day" if price.is_by_time_of_day else ""
    table["source"] = f"{PACKAGE} {release()}, {name}{note}"
    return table


def named_in(source: str) -> tuple[str, str] | None:
    """(release, PROVIDER/MODEL) of a price's `source` that `price_table` wrote; None for any other."""
    found = re.fullmatch(rf"{PACKAGE} (\S+), ([^\s,]+)(?:, dearest time of day)?", source)
    return None if found is None else (found[1], found[2])


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


def _with_long(rates: Rates, long: tuple[LongContext, ...]) -> dict[str, Any]:
    table: dict[str, Any] = _rate_fields(rates)
    if long:
        table["long"] = [{"above_tokens": each.above_tokens, **_rate_fields(each.rates)} for each in long]
    return table


def _rate_fields(rates: Rates) -> dict[str, Any]:
    fields = {
        "input": rates.input,
        "cached_input": rates.cached_input,
        "cache_write": rates.cache_write,
        "output": rates.output,
    }
    return {name: value for name, value in fields.items() if value is not None}
