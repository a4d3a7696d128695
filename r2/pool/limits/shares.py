"""This process's share of what its host may spend: slices taken from the lease ahead of need, so that a call seldom
asks.

`RateShare` is the share of one quota owner's requests and tokens, `MoneyShare` that of the money accounts. Both are
exact towards the lease: what they hand out was granted or held before. A slice of rate lives for 100 ms, and its unused
rest is given back with the next one.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

from r2.pool.limits.lease import Lease, RateGrant, RateLimits, Wait, new_holder

_AHEAD_CALLS = 256
_AHEAD_SHARE = 0.002
_BOOK_EVERY_S = 0.1
_numbers = itertools.count()


class RateShare:
    """One quota owner's requests and tokens in this process."""

    def __init__(
        self, lease: Lease, owner: str, limits: RateLimits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lease = lease
        self._owner = owner
        self._limits = limits
        self._clock = clock
        self._slice_s = limits.window_s / 600
        self._slice = RateGrant(0, 0.0, 0.0, float("-inf"))
        self._requests = self._tokens = 0.0
        self._corrections: dict[int, tuple[float, float]] = {}
        self._corrected_at = clock()

    def take(self, tokens: float) -> int | Wait:
        """Permission to send one request of `tokens` now: the bucket to settle it in, or when to ask again."""
        tokens = 0.0 if self._limits.tokens is None else min(tokens, self._limits.tokens)
        is_fresh = self._clock() < self._slice.granted_at + self._slice_s
        if not (is_fresh and self._requests >= 1 and self._tokens >= tokens):
            self._give_back()
            share = self._slice_s / self._limits.window_s
            n_ahead = 1e3 if self._limits.requests is None else self._limits.requests * share
            tokens_ahead = 0.0 if self._limits.tokens is None else self._limits.tokens * share
            want = (max(1.0, n_ahead), max(tokens, tokens_ahead))
            taken = self._lease.take(self._owner, self._limits, (1.0, tokens), want, self._corrections)
            self._corrections, self._corrected_at = {}, self._clock()
            if isinstance(taken, Wait):
                return taken
            self._slice, self._requests, self._tokens = taken, taken.requests, taken.tokens
        self._requests -= 1
        self._tokens -= tokens
        return self._slice.start_us

    def settle(self, bucket: int, taken: float, used: float) -> None:
        """Replaces the estimate `taken` by the tokens `used`, in the bucket of the grant. Written within 100 ms of
        traffic."""
        if self._limits.tokens is None:
            return
        self._correct(bucket, 0.0, used - min(taken, self._limits.tokens))
        if self._clock() - self._corrected_at >= self._slice_s:
            self.flush()

    def follow(self, changed: Callable[[], None]) -> None:
        """Others give back without a signal: nobody is told."""

    def flush(self) -> None:
        """Writes the corrections that wait."""
        if self._corrections:
            self._lease.correct(self._owner, self._corrections)
            self._corrections = {}
        self._corrected_at = self._clock()

    def close(self) -> None:
        """Gives back the rest of the slice."""
        self._give_back()
        self.flush()

    def _give_back(self) -> None:
        if self._requests or self._tokens:
            self._correct(self._slice.start_us, -self._requests, -self._tokens)
            self._requests = self._tokens = 0.0

    def _correct(self, bucket: int, requests: float, tokens: float) -> None:
        before = self._corrections.get(bucket, (0.0, 0.0))
        self._corrections[bucket] = (before[0] + requests, before[1] + tokens)


class MoneyShare:
    """This process's money for one run. `accounts` names those that every dollar counts on, and may change (a new UTC
    day).

    Held at the lease at any time: what is free here, what calls have reserved, and what they spent since it was last
    booked. The free part is at most 0.2 % of the smallest cap: near a cap a process may be refused what another does
    not need, and where a process is killed it counts as spent.
    """

    def __init__(
        self,
        lease: Lease,
        accounts: Callable[[], Sequence[str]],
        smallest_cap_usd: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease = lease
        self._name_accounts = accounts
        self.accounts = tuple(accounts())
        self._most_ahead_usd = _AHEAD_SHARE * smallest_cap_usd
        self._clock = clock
        self._holder = new_holder(str(next(_numbers)))
        self._free_usd = self._reserved_usd = self._unbooked_usd = 0.0
        self._n_reserved = 0
        self._booked_at = clock()
        self._turn = asyncio.Lock()
        self._settled = asyncio.Event()

    def reserve_now(self, usd: float) -> bool:
        """Sets `usd` aside if that needs no waiting."""
        return not self._turn.locked() and self._take(usd)

    async def reserve(self, usd: float, deadline: float | None = None) -> bool:
        """Sets `usd` aside; False if it does not fit under a cap even after all calls of this process have settled.

        Reserves are upper estimates, so near a cap a call waits here, first come first served, for those before it; at
        `deadline` (the event loop's seconds) it raises TimeoutError.
        """
        async with asyncio.timeout_at(deadline), self._turn:
            while not self._take(usd):
                if self._n_reserved == 0:
                    return False
                self._settled.clear()
                await self._settled.wait()
        return True

    def settle(self, reserved_usd: float, actual_usd: float) -> None:
        """Books what an attempt cost and frees the rest of what was set aside for it."""
        self._n_reserved -= 1
        self._reserved_usd = 0.0 if self._n_reserved == 0 else self._reserved_usd - reserved_usd
        self._unbooked_usd += actual_usd
        self._free_usd += reserved_usd - actual_usd
        self._settled.set()
        if self._clock() - self._booked_at >= _BOOK_EVERY_S:
            self._exchange(self._free_usd if self._free_usd < self._most_ahead_usd else self._most_ahead_usd)

    def unspent_usd(self) -> float:
        """What all caps still leave, what others hold taken off; what calls of this process have reserved is in it."""
        rooms = [cap - spent - held for cap, spent, held in map(self._lease.balance, self.accounts)]
        return min(rooms) + max(0.0, self._free_usd) + self._reserved_usd

    def close(self) -> None:
        """Books what is spent and lets go of the rest."""
        self._exchange(0.0)
        self._lease.release(self.accounts, self._holder)

    def _take(self, usd: float) -> bool:
        if self._free_usd < usd:
            ahead_usd = min(_AHEAD_CALLS * usd, self._most_ahead_usd)
            if not self._exchange(usd + ahead_usd) and not self._exchange(usd):
                return False
        self._free_usd -= usd
        self._reserved_usd += usd
        self._n_reserved += 1
        return True

    def _exchange(self, free_usd: float) -> bool:
        """Books the unbooked and makes the free part `free_usd` if the caps allow; it stays as it is if not."""
        accounts = tuple(self._name_accounts())
        if accounts != self.accounts:
            self._move(accounts)
        keep_usd = self._reserved_usd + max(0.0, self._free_usd)
        fits = self._lease.exchange(
            self.accounts,
            self._holder,
            keep_usd=keep_usd,
            want_usd=self._reserved_usd + free_usd,
            spent_usd=self._unbooked_usd,
        )
        self._unbooked_usd, self._booked_at = 0.0, self._clock()
        self._free_usd = free_usd if fits else max(0.0, self._free_usd)
        return fits

    def _move(self, accounts: tuple[str, ...]) -> None:
        """To other accounts, at midnight UTC: a call counts on the day it is settled."""
        held_usd = self._reserved_usd + max(0.0, self._free_usd)
        self._lease.exchange(
            self.accounts, self._holder, keep_usd=held_usd, want_usd=held_usd, spent_usd=self._unbooked_usd
        )
        self._unbooked_usd = 0.0
        self._lease.release([name for name in self.accounts if name not in accounts], self._holder)
        self.accounts = accounts
