"""Which entries play the router's parts where nobody has said so: in a pool file that `r2 pool init` writes, and in one
that only lists models.

Planning and allocating cost a call each per question, so the cheapest entry does both; of those that return
log-probabilities where there are any, because the cost knob `b` needs them of the allocator; and of those that do not
think first, because the limits of these calls are short. Without log-probabilities the allocator's written choice
counts. Ours: a start, to be replaced by a trained router.
"""

from collections.abc import Mapping
from typing import Any

from r2.pool.file.entry_text import value_text


def router_entry(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The name of the entry that decomposes and allocates."""

    def rank(name: str) -> tuple[bool, bool, float, str]:
        entry = entries[name]
        price = entry.get("price_usd_per_mtok", {})
        blended = 0.75 * float(price.get("input", 0)) + 0.25 * float(price.get("output", 0))
        return not entry.get("logprobs", False), bool(entry.get("thinking_tokens", 0)), blended, name

    return min(entries, key=rank)


def router_text(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The [router] table, with the reason for its choice."""
    name = router_entry(entries)
    has_logprobs = bool(entries[name].get("logprobs", False))
    reason = (
        "# The cheapest entry that returns log-probabilities, which the cost knob --b needs of the allocator.\n"
        if has_logprobs
        else "# The cheapest entry. None of this pool returns log-probabilities: the allocator's written choice\n"
        "# counts, and the cost knob --b cannot be used.\n"
    )
    return f"{reason}[router]\ndecomposer = {value_text(name)}\nallocator = {value_text(name)}\n"
