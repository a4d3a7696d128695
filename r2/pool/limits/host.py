"""Limits and money of one host: the SQLite lease, opened when the first limit or budget needs it."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from r2.pool.limits.lease import Lease, RateLimits
from r2.pool.limits.shares import MoneyShare, RateShare


class HostLimits:
    """Implements `r2.pool.limits.ports.Limits` for the processes of one host that name the same folder."""

    is_remote = False

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._lease: Lease | None = None

    def rates(self, owner: str, limits: RateLimits) -> RateShare:
        return RateShare(self._opened(), owner, limits)

    def open_account(self, name: str, cap_usd: float, *, spent_usd: float | None = None) -> None:
        self._opened().open_account(name, cap_usd, spent_usd=spent_usd)

    def money(self, accounts: Callable[[], Sequence[str]], smallest_cap_usd: float) -> MoneyShare:
        return MoneyShare(self._opened(), accounts, smallest_cap_usd)

    def today(self) -> str:
        return f"{datetime.now(UTC):%Y-%m-%d}"

    def close(self) -> None:
        if self._lease is not None:
            self._lease.close()
            self._lease = None

    async def begin(self) -> None:
        return None

    async def end(self) -> None:
        return None

    def _opened(self) -> Lease:
        if self._lease is None:
            self._lease = Lease(self._state_dir / "lease.sqlite3")
        return self._lease
