"""Rate limits of an imitation: so many requests and tokens per minute, counted in fixed minutes."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Per minute, as a paid account has them."""

    requests: int = 10_000
    tokens: int = 20_000_000


class Window:
    """One limit and what is left of it."""

    def __init__(self, limit: int, seconds: float = 60.0) -> None:
        self.limit = limit
        self.seconds = seconds
        self._used = 0
        self._since = time.monotonic()

    def _turn_over(self) -> None:
        now = time.monotonic()
        if now - self._since >= self.seconds:
            self._used, self._since = 0, now

    def take(self, amount: int) -> bool:
        """Whether the amount still fits; only then is it taken."""
        self._turn_over()
        if self._used + amount > self.limit:
            return False
        self._used += amount
        return True

    @property
    def used(self) -> int:
        self._turn_over()
        return self._used

    @property
    def remaining(self) -> int:
        return self.limit - self.used

    @property
    def reset_s(self) -> float:
        """Seconds until everything is there again."""
        self._turn_over()
        return max(0.0, self.seconds - (time.monotonic() - self._since))
