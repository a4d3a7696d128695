"""Whether the stable part of a prompt is marked for the provider's cache, where it must be asked for (Anthropic).

A mark costs: what is written to the cache costs a quarter more than fresh tokens, and what is read a tenth. So a mark
is set by default only where it pays: the system text is long enough to be cached at all, it has come before, and the
price of a write is known. `cache_prefix` in the pool file sets marks always, or never. Ours.

Left out: OpenAI's `prompt_cache_key`. Its cache finds equal prefixes by itself; the key is for a few requests a minute,
and bulk work sends many. A pool file can set one under `extra_body`.
"""

from collections import OrderedDict
from typing import Final

from r2.call import Call
from r2.ledger import Price
from r2.pool.client.dialects.dialect import Dialect
from r2.pool.file.tables import ModelTable

LEAST_CHARACTERS: Final = 4096
"""About 1,024 tokens, the shortest prefix that any model caches. A mark on one that is too short for a model costs
nothing."""
_KEPT: Final = 256
"""Texts that are remembered of one entry, the latest."""


class PrefixMarks:
    """One entry's. `wants` is asked once for each call."""

    def __init__(self, table: ModelTable, price: Price, dialect: Dialect) -> None:
        marks = dialect.name == "anthropic" or (dialect.name == "openrouter" and "anthropic/" in table.served_model)
        self._is_fixed = table.cache_prefix is not None or not marks or price.cache_write is None
        self._always = bool(table.cache_prefix)
        self._seen: OrderedDict[int, None] = OrderedDict()

    def wants(self, call: Call) -> bool:
        """Whether the system text of this call is marked."""
        if self._is_fixed:
            return self._always
        role, system = call.messages[0] if call.messages else ("", "")
        if role != "system" or len(system) < LEAST_CHARACTERS:
            return False
        text = hash(system)
        is_known = text in self._seen
        self._seen[text] = None
        self._seen.move_to_end(text)
        if len(self._seen) > _KEPT:
            self._seen.popitem(last=False)
        return is_known
