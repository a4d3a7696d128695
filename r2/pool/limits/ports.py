"""What the client needs of limits and money, wherever they are kept: on this host (`host.py`) or on the PostgreSQL that
several hosts share (`remote.py`)."""

from collections.abc import Callable, Sequence
from typing import Protocol

from r2.pool.limits.lease import RateLimits, Wait


class Rates(Protocol):
    """One quota owner's requests and tokens in this process."""

    def take(self, tokens: float) -> int | Wait:
        """Permission to send one request of `tokens` now: the bucket to settle it in, or when to ask again."""

    def settle(self, bucket: int, taken: float, used: float) -> None:
        """Replaces the estimate `taken` by the tokens `used`, in the bucket of the grant."""

    def follow(self, changed: Callable[[], None]) -> None:
        """Calls `changed` whenever asking again is worth it before the time that a `Wait` named."""

    def close(self) -> None:
        """Gives back what was not used."""


class Money(Protocol):
    """This process's money. `accounts` names those that every dollar counts on now."""

    @property
    def accounts(self) -> tuple[str, ...]:
        """Their names."""

    def reserve_now(self, usd: float) -> bool:
        """Sets `usd` aside if that needs no waiting."""

    async def reserve(self, usd: float, deadline: float | None = None) -> bool:
        """Sets `usd` aside; False if it does not fit under a cap even after all calls of this process have settled.
        TimeoutError at `deadline` (the event loop's seconds)."""

    def settle(self, reserved_usd: float, actual_usd: float) -> None:
        """Books what an attempt cost and frees the rest of what was set aside for it."""

    def unspent_usd(self) -> float:
        """What all caps still leave, what others hold taken off; what calls of this process have reserved is in it."""

    def close(self) -> None:
        """Books what is spent and lets go of the rest."""


class Limits(Protocol):
    """Where limits and budgets are kept."""

    is_remote: bool
    """Over several hosts."""

    def rates(self, owner: str, limits: RateLimits) -> Rates:
        """This process's share of a quota owner's rate."""

    def open_account(self, name: str, cap_usd: float, *, spent_usd: float | None = None) -> None:
        """As `Lease.open_account`."""

    def money(self, accounts: Callable[[], Sequence[str]], smallest_cap_usd: float) -> Money:
        """This process's money; `accounts` names those that every dollar counts on, and may change (a new UTC day)."""

    def today(self) -> str:
        """The UTC day, YYYY-MM-DD, by the clock that all who share these limits go by."""

    async def begin(self) -> None:
        """Once all shares are made, before the first call."""

    def close(self) -> None:
        """Lets go, once the shares are closed."""

    async def end(self) -> None:
        """Before `close`, where there is an event loop: tells others what only they can be told from one."""
