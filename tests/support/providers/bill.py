"""The imitation's own bill: exact, from its own price list, and of nothing but what it answered with a 200.

Tests compare it with the product's ledger. Nothing here knows the product's prices or its arithmetic.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Rates:
    """USD per million tokens."""

    input: Decimal
    cached: Decimal
    output: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal


def rates(input: str, output: str, *, cached: str = "", cache_write: str = "", cache_write_1h: str = "") -> Rates:
    """Rates from the numbers as a price page prints them; what it does not list costs as fresh input."""
    return Rates(
        Decimal(input),
        Decimal(cached or input),
        Decimal(output),
        Decimal(cache_write or input),
        Decimal(cache_write_1h or cache_write or input),
    )


@dataclass(frozen=True, slots=True)
class PriceList:
    """What a model costs. A prompt of more than `long_above` tokens is billed at `long` altogether."""

    base: Rates
    long_above: int | None = None
    long: Rates | None = None

    def for_prompt(self, n_tokens: int) -> Rates:
        if self.long is not None and self.long_above is not None and n_tokens > self.long_above:
            return self.long
        return self.base


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a reply is billed for; no token is in two of the counts."""

    fresh: int = 0
    cached: int = 0
    written: int = 0
    written_1h: int = 0
    thinking: int = 0
    answer: int = 0

    @property
    def prompt(self) -> int:
        return self.fresh + self.cached + self.written + self.written_1h

    @property
    def output(self) -> int:
        return self.thinking + self.answer


def cost(prices: PriceList, tokens: Tokens) -> Decimal:
    """USD of one reply."""
    at = prices.for_prompt(tokens.prompt)
    return (
        tokens.fresh * at.input
        + tokens.cached * at.cached
        + tokens.written * at.cache_write
        + tokens.written_1h * at.cache_write_1h
        + tokens.output * at.output
    ) / MILLION


@dataclass
class Bill:
    """Every charge, in order: model, tokens, USD."""

    charges: list[tuple[str, Tokens, Decimal]] = field(default_factory=list)

    def charge(self, model: str, prices: PriceList, tokens: Tokens) -> Decimal:
        usd = cost(prices, tokens)
        self.charges.append((model, tokens, usd))
        return usd

    @property
    def usd(self) -> Decimal:
        return sum((usd for _, _, usd in self.charges), Decimal(0))

    def usd_by_model(self) -> Mapping[str, Decimal]:
        sums: dict[str, Decimal] = {}
        for model, _, usd in self.charges:
            sums[model] = sums.get(model, Decimal(0)) + usd
        return sums
