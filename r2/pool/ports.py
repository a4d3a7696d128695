"""The two doors between the pool client and what lies outside r2: where calls are made durable, and what is counted.

`storage/journal.py` implements `CallJournal`; `NoJournal` is for pings, calibration and tests.
"""

from typing import Protocol


class CallJournal(Protocol):
    """Makes completions durable before they are used, and answers calls that an earlier session already paid for."""

    def find(self, key: str) -> bytes | None:
        """The stored completion (`Completion.to_bytes`) of this `Call.journal_key`, or None."""

    def begin(self, key: str, cost_estimate_usd: float) -> None:
        """Notes that the call is about to be sent (no fsync): what a kill leaves open can then be reported."""

    async def commit(self, key: str, record: bytes) -> None:
        """Returns once the record is on disk (fsync, batched over concurrent callers)."""


class NoJournal:
    """Keeps nothing."""

    def find(self, key: str) -> bytes | None:
        return None

    def begin(self, key: str, cost_estimate_usd: float) -> None:
        return None

    async def commit(self, key: str, record: bytes) -> None:
        return None
