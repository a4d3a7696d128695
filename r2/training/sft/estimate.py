"""What a supervised training will take, before anything is loaded: tokens by the bytes of its rows, minutes by measured
speed. Light."""

from collections.abc import Sequence
from dataclasses import dataclass

from r2.training.data import ChatRow
from r2.training.sft.settings import SftSettings
from r2.training.tiny import tiny_size

BYTES_PER_TOKEN = 2.3
"""Of prompts and results as ours are, short of running the tokenizer: SCAN's actions, the densest; plans have more
bytes a token."""
TOKENS_PER_MESSAGE = 5
"""Chat templates' marks around each message."""
TINY_TOKENS_PER_S, TOKENS_PER_S = 20_000.0, 120.0
"""Trained tokens per second of `tiny` (64x2) and of `smollm2` on two cores of a server CPU (AVX2), in float32:
measured."""


@dataclass(frozen=True, slots=True)
class SftEstimate:
    """`tokens` are those of all steps."""

    tokens_per_row: float
    tokens: int
    minutes: float


def estimate_sft(rows: Sequence[ChatRow], settings: SftSettings) -> SftEstimate:
    """For a base of another name, the speed of `smollm2`, and for a wider `tiny` that of `tiny` over its weights:
    larger ones take longer in proportion to their size."""
    sizes = [_tokens(row) for row in rows]
    mean = sum(sizes) / max(1, len(sizes))
    tokens = round(mean * settings.steps * settings.batch_size)
    size = tiny_size(settings.base)
    per_s = TOKENS_PER_S if size is None else TINY_TOKENS_PER_S * (64**2 * 2) / (size["hidden"] ** 2 * size["layers"])
    return SftEstimate(mean, tokens, tokens / per_s / 60)


def _tokens(row: ChatRow) -> float:
    said = [*row["prompt"], *row["completion"]]
    return sum(len(message["content"].encode()) / BYTES_PER_TOKEN + TOKENS_PER_MESSAGE for message in said)
