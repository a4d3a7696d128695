"""The vocabulary of sequential routing (docs/method.md, section 10; ours): attempts at one unit of work, and what is
believed after them.

A *unit* is the question itself, or one subtask. Beliefs come from profiles (r2/answering/beliefs.py), from counts over
checked rows, or from a trained scorer; the rule (r2/answering/lookahead.py) reads them all through the same protocol.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Attempt:
    """One arm (pool entry) asked once about a unit.

    `result` numbers the distinct results in the order in which they first appeared, by the benchmark's own equality;
    None where the reply gave none (a failed call, an empty or malformed text). `confidence` is how sure the model was
    by its token probabilities, 0..1; None where its endpoint gives none. `output_tokens` None: not known yet, in an
    attempt that is only thought of.
    """

    arm: str
    result: int | None
    confidence: float | None = None
    output_tokens: int | None = None


Attempts = tuple[Attempt, ...]
"""In the order of asking. Beliefs may not depend on that order, beyond the numbering of results."""


class Beliefs(Protocol):
    """What is believed of one unit, whose question and text the implementation holds."""

    @property
    def arms(self) -> Sequence[str]:
        """Who can be asked. Their order decides nothing."""

    def cost_usd(self, arm: str, attempts: Attempts) -> float:
        """Expected cost of asking `arm` now."""

    def p_right(self, attempts: Attempts) -> Sequence[float]:
        """Probability that each distinct result is right, by its number; they sum to at most 1. Empty without a
        result."""

    def outcomes(self, attempts: Attempts, arm: str) -> Sequence[tuple[float, Attempt]]:
        """What asking `arm` may bring, with probabilities that sum to 1: it agrees with a known result (its number),
        brings a new one (the next number) or none, at typical confidences."""
