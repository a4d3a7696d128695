"""What calls cost: prices, usage, and their product. Pure arithmetic; every total in the project comes from here.

The ledger is full-cost (ours): decomposer, allocator, subtasks, final answer, retries that were billed. A model without
a price cannot be in a pool, so a total can never leave a call out for want of a price.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, Self

UsageSource = Literal["provider", "estimated", "doubtful"]
"""Who counted: the provider; nobody, so that the worst case is charged; or the provider, in a number that cannot be
true of what was asked."""

CORE_HOUR_USD: Final = 0.05
"""Price of an hour of one core (ours): of models that this machine computes, and of the programs that it runs for
them."""
TEMPLATE_TOKENS_PER_MESSAGE: Final = 8
"""Tokens that a chat template puts around one message; ours, an upper bound of the templates we know."""


@dataclass(frozen=True)  # without slots, for `version`
class Price:
    """USD per million tokens, as published or measured on a date.

    `input` is for prompt tokens not read from a cache, `cached_input` for those that are, `output` for generated ones.
    Local models are priced too: USD per core-hour divided by measured tokens per second.
    """

    input: float
    cached_input: float
    output: float
    date: str
    source: str
    cache_write: float | None = None
    """For prompt tokens that the provider writes to its cache; None: as `input`."""
    long: tuple["LongContextPrice", ...] = ()
    """Other prices for a whole request with a longer prompt, smallest threshold first."""

    @cached_property
    def version(self) -> str:
        """Identity of the price in stored rows: a cost is never re-priced in place."""
        text = f"{self.date}:{self.input:g}/{self.cached_input:g}/{self.output:g}"
        if self.cache_write is not None:
            text += f"/w{self.cache_write:g}"
        return text + "".join(f">{long.above_tokens}:{long.price.version.partition(':')[2]}" for long in self.long)

    def for_prompt(self, n_tokens: int) -> "Price":
        """The price of a request with so many prompt tokens."""
        reached = self
        for long in self.long:
            if n_tokens > long.above_tokens:
                reached = long.price
        return reached

    @property
    def dearest_input(self) -> float:
        """What a prompt token may cost at most: fresh, or written to the cache."""
        return self.input if self.cache_write is None else max(self.input, self.cache_write)


@dataclass(frozen=True, slots=True)
class LongContextPrice:
    """The price of a request whose prompt has more than `above_tokens` tokens, all of it."""

    above_tokens: int
    price: Price


@dataclass(slots=True)  # not frozen: made several times per call, and freezing is most of that
class Usage:
    """Tokens of one attempt.

    `cached_input_tokens` (read from the provider's cache) and `cache_write_tokens` (written to it) are parts of
    `input_tokens`; `reasoning_tokens` (spent on thinking) are a part of `output_tokens`.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    source: UsageSource = "provider"
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Self) -> "Usage":
        sources = (self.source, other.source)
        source: UsageSource = (
            "doubtful" if "doubtful" in sources else "estimated" if "estimated" in sources else "provider"
        )
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.output_tokens + other.output_tokens,
            source,
            self.cache_write_tokens + other.cache_write_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


def cost_usd(price: Price, usage: Usage) -> float:
    """USD for one attempt, per 1e6: (input - cached - written) * price.input + cached * price.cached_input + written *
    price.cache_write + output * price.output, all at the price of so long a prompt."""
    n_input, n_cached = usage.input_tokens, usage.cached_input_tokens
    if price.long:
        price = price.for_prompt(n_input)
    n_cached = n_cached if n_cached < n_input else n_input
    usd = (n_input - n_cached) * price.input + n_cached * price.cached_input + usage.output_tokens * price.output
    if usage.cache_write_tokens and price.cache_write is not None:
        usd += min(usage.cache_write_tokens, n_input - n_cached) * (price.cache_write - price.input)
    return usd / 1e6


def worst_cost_usd(price: Price, usage: Usage) -> float:
    """The most that a request of at most `usage` can cost: every prompt token at its dearest (fresh, read from the
    cache or written to it), at the dearest of the prices that a prompt up to this length can have."""
    usd = _worst_at(price, usage)
    for long in price.long:
        if usage.input_tokens > long.above_tokens:
            usd = max(usd, _worst_at(long.price, usage))
    return usd


def _worst_at(price: Price, usage: Usage) -> float:
    dearest = max(price.dearest_input, price.cached_input)
    return (usage.input_tokens * dearest + usage.output_tokens * price.output) / 1e6


def total_usage(usages: Iterable[Usage]) -> Usage:
    """Sum of usages; the empty sum is zero tokens from the provider."""
    total = Usage()
    for usage in usages:
        total = total + usage
    return total


def worst_case_usage(
    messages: Sequence[tuple[str, str]], max_output_tokens: int, *, further_input_tokens: int = 0
) -> Usage:
    """A bound before a call: a token per UTF-8 byte of prompt, 8 per message for its template, `further_input_tokens`
    for what else is sent or added, and the whole output limit.

    Ours: no tokenizer in use makes more tokens of a text than it has bytes (emoji and rare scripts come near), and what
    a call is bounded by may be far above what it costs: reserves that are too high are refunded, too low ones break a
    cap.
    """
    n_bytes = _utf8_bytes(messages)
    return Usage(
        n_bytes + TEMPLATE_TOKENS_PER_MESSAGE * len(messages) + further_input_tokens, 0, max_output_tokens, "estimated"
    )


def expected_usage(messages: Sequence[tuple[str, str]], max_output_tokens: int) -> Usage:
    """What a call is expected to need at most, no bound: a token per 2.5 UTF-8 bytes of prompt, 8 per message, and the
    whole output limit. Ours: English prose has about 4 bytes a token, digits and symbols 1 to 3."""
    n_tokens = round(_utf8_bytes(messages) / 2.5) + TEMPLATE_TOKENS_PER_MESSAGE * len(messages)
    return Usage(n_tokens, 0, max_output_tokens, "estimated")


def likely_prompt_tokens(messages: Sequence[tuple[str, str]]) -> int:
    """What a prompt probably has: a token per 4 UTF-8 bytes, as English prose, and 8 per message. Ours: whether a model
    can hold a prompt goes by this and not by the bound of `worst_case_usage`, which is about 4 times as much: a prompt
    that fits after all must not fail."""
    return _utf8_bytes(messages) // 4 + TEMPLATE_TOKENS_PER_MESSAGE * len(messages)


def is_surely_longer(messages: Sequence[tuple[str, str]], n_tokens: int) -> bool:
    """Whether any tokenizer in use makes more than `n_tokens` of the prompt: a token has at most 6 bytes on average,
    where runs of one character (spaces, dashes), which may be a token each, are taken as 8 of it. Ours."""
    if 4 * sum([len(text) for _, text in messages]) <= 6 * n_tokens:  # a character has at most 4 bytes
        return False
    if _utf8_bytes(messages) <= 6 * n_tokens:
        return False
    return _utf8_bytes([(role, _RUN.sub(r"\1" * 8, text)) for role, text in messages]) > 6 * n_tokens


_RUN: Final = re.compile(r"(.)\1{8,}", re.DOTALL)


def _utf8_bytes(messages: Sequence[tuple[str, str]]) -> int:
    n_bytes = 0
    for _, text in messages:
        n_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return n_bytes
