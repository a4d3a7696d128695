"""What a call costs by batch: the rates that the pool file has for it, else the provider's rule. Pure.

Of the price list most entries have rates of their own (`price_usd_per_mtok.batch`, written by `r2 pool add`). Where
there are none, batches cost half at every provider that we know but xAI, which takes 20 % off. `batch_price` in an
entry wins over both. Sources: the vendors' price pages by genai-prices 0.2.3, 2026-10-14; for tokens that are read from
the cache, Groq's page (the discounts do not add up) and Google's (such tokens cost as they do live).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from r2.ledger import LongContextPrice, Price
from r2.pool.client.dialects import dialect_of
from r2.pool.file.config import PoolConfig
from r2.pool.file.tables import BatchRates, ModelTable, Rates

BATCH_DIALECTS: Final = frozenset({"openai", "azure", "groq", "together", "mistral", "anthropic", "gemini"})
"""Dialects whose batch endpoints we can use (r2/pool/batch/providers.py)."""
SHARE: Final = 0.5
"""Of the live price."""
SHARES: Final[Mapping[str, float]] = {"xai": 0.8}
"""Dialect -> its share, where it is another."""
CACHED_AS_LIVE: Final = frozenset({"groq", "gemini"})
"""Dialects whose tokens from the cache cost by batch what they cost live."""


def batch_price(pool: PoolConfig, name: str) -> Price:
    """The price of an entry's calls that go by batch."""
    table, live = pool.models[name], pool.price(name)
    dialect = dialect_of(table.endpoint, table.dialect).name
    rates = table.price_usd_per_mtok.batch
    if table.batch_price is None and rates is not None:
        return _by_rates(live, rates, dialect)
    share = table.batch_price or SHARES.get(dialect, SHARE)
    long = tuple(LongContextPrice(each.above_tokens, _shared(each.price, share, dialect)) for each in live.long)
    return replace(_shared(live, share, dialect), long=long, source=f"{live.source}, batch at {share:g} of it")


def asked_by_batch(table: ModelTable, served_model: str) -> str:
    """The model, or deployment, that an entry's jobs ask for."""
    return table.batch_model or served_model


def _shared(live: Price, share: float, dialect: str) -> Price:
    full, cached = live.input * share, live.cached_input * share
    if dialect in CACHED_AS_LIVE:
        cached = min(live.cached_input, full)
    written = None if live.cache_write is None else live.cache_write * share
    return replace(live, input=full, cached_input=cached, output=live.output * share, cache_write=written)


def _by_rates(live: Price, rates: BatchRates, dialect: str) -> Price:
    base = _price(live, rates, dialect)
    long = tuple(LongContextPrice(each.above_tokens, _price(live, each, dialect)) for each in rates.long)
    if not long and live.input:  # a file of an earlier version, which knew no batch rates of long prompts
        share = base.input / live.input
        long = tuple(LongContextPrice(each.above_tokens, _shared(each.price, share, dialect)) for each in live.long)
    return replace(base, long=long, source=f"{live.source}, batch")


def _price(live: Price, rates: Rates, dialect: str) -> Price:
    cached = rates.cached_input
    if cached is None:
        cached = min(live.cached_input, rates.input) if dialect in CACHED_AS_LIVE else rates.input
    return Price(rates.input, cached, rates.output, live.date, live.source, rates.cache_write)
