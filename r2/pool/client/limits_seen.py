"""The rate limits that a provider names in its replies' headers, used under those of the pool file: never above them.

They are read from the first reply and from every 200th after it, as they seldom change. An entry that shares its quota
with others is left alone: a provider's limits are a model's, and the shared ones are the file's to say.
"""

from collections.abc import Mapping
from typing import Final

from r2.pool.client.dialects.dialect import Dialect, RateLimits, no_limits
from r2.pool.limits.gate import Gate

READ_EVERY: Final = 200


class SeenLimits:
    """One entry's. `now` is what the headers said last."""

    def __init__(self, dialect: Dialect, gate: Gate, *, is_shared: bool) -> None:
        self.now = RateLimits()
        self._read = dialect.limits
        self._is_silent = dialect.limits is no_limits
        self._gate, self._is_shared = gate, is_shared
        self._n = 0

    def note(self, headers: Mapping[str, str]) -> None:
        """Takes in the headers of a reply; names in any case."""
        if self._is_silent:
            return
        self._n += 1
        if self._n % READ_EVERY != 1:
            return
        found = self._read(headers)
        if found == self.now or found == RateLimits():
            return
        self.now = found
        if not self._is_shared:
            self._gate.keep_to(found.requests_per_minute, found.tokens_per_minute)
