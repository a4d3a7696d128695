"""This process's share of what all hosts may spend: slices taken from the remote lease ahead of need.

An answer takes a millisecond, or a second where the server is busy, so no call asks for itself. Slices are refilled
beside the calls, before they end, and are as large as this process's use. They stay exact towards the lease. With the
server away what is left of a slice is used up, and then everybody waits: nothing is ever unlimited.
"""

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Self

from r2.errors import CoordinationError
from r2.pool.coordination.database import Database
from r2.pool.limits.ahead import Ahead
from r2.pool.limits.lease import RateGrant, RateLimits, Wait
from r2.pool.limits.remote_lease import HOLD_S, RemoteLease, remote_holder

_SLICES_A_WINDOW: Final = 60
_MOST_SLICES: Final = 3.0
"""A slice is at most what so many slices' time allows at the full rate."""
_LOW: Final = 0.3
"""Share of a slice at which the next one is asked for."""
_LONGEST_WAIT_S: Final = 1.0
"""Others may give back before the time that the lease names."""
_RENEW_S: Final = HOLD_S / 4
_BOOK_EVERY_S: Final = 0.5
_AHEAD_SHARE: Final = 0.002
_AHEAD_CALLS: Final = 256
_END_S: Final = 3.0
_numbers = itertools.count()


@dataclass(slots=True)
class _Slice:
    start_us: int
    until: float
    requests: float
    tokens: float
    whole: float


class RemoteRateShare:
    """One quota owner's requests and tokens in this process."""

    def __init__(self, lease: RemoteLease, owner: str, limits: RateLimits, say: Callable[[str], None]) -> None:
        self.slice_s = limits.window_s / _SLICES_A_WINDOW
        margin_s = limits.window_s / 30 if limits.margin_s is None else limits.margin_s
        # A request may leave as late as its slice ends, and reach the server as much later as before.
        self._limits = RateLimits(limits.requests, limits.tokens, limits.window_s, margin_s + self.slice_s)
        self._lease = lease
        self._owner = owner
        self._say = say
        self._slices: deque[_Slice] = deque()
        per_slice = _MOST_SLICES / _SLICES_A_WINDOW
        self._ahead = Ahead(self.slice_s, 1e4 if limits.requests is None else max(1.0, limits.requests * per_slice))
        self._ahead_tokens = Ahead(self.slice_s, 0.0 if limits.tokens is None else limits.tokens * per_slice)
        self._need_tokens = 0.0
        self._is_needed = False
        self._corrections: dict[int, tuple[float, float]] = {}
        self._at_work: asyncio.Task[None] | None = None
        self._is_closed = False
        self._asked_at = float("-inf")
        self._changed: Callable[[], None] = lambda: None

    def follow(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def take(self, tokens: float) -> int | Wait:
        tokens = 0.0 if self._limits.tokens is None else min(tokens, self._limits.tokens)
        self._drop_old()
        for one in self._slices:
            if one.requests >= 1 and one.tokens >= tokens:
                one.requests -= 1
                one.tokens -= tokens
                self._ahead.note(1)
                self._ahead_tokens.note(tokens)
                if one is self._slices[-1] and one.requests < _LOW * one.whole:
                    self._work()
                return one.start_us
        self._need_tokens = max(self._need_tokens, tokens)
        self._is_needed = True
        self._work()
        return Wait(_LONGEST_WAIT_S)

    def settle(self, bucket: int, taken: float, used: float) -> None:
        if self._limits.tokens is None:
            return
        self._correct(bucket, 0.0, used - min(taken, self._limits.tokens))
        if time.monotonic() - self._asked_at >= self.slice_s:
            self._asked_at = time.monotonic()
            self._work(self._flush)

    def close(self) -> None:
        """No more is asked for; `end` gives back the rest."""
        self._is_closed = True
        if self._at_work is not None:
            self._at_work.cancel()

    async def end(self) -> None:
        """Gives back the rest of the slices."""
        self._is_closed = True
        if self._at_work is not None:
            self._at_work.cancel()
            await asyncio.gather(self._at_work, return_exceptions=True)
        for one in self._slices:
            self._give_back(one)
        self._slices.clear()
        if self._corrections:
            await self._lease.correct(self._owner, self._taken_corrections())

    def _work(self, work: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Asks beside the calls, one thing at a time."""
        if not self._is_closed and (self._at_work is None or self._at_work.done()):
            if self._at_work is not None:
                self._at_work.result()  # what is neither an answer nor an outage is a bug, and raised to whoever asks
            self._at_work = asyncio.create_task((work or self._refill)())

    async def _flush(self) -> None:
        """Writes the corrections that wait, and asks for what was needed meanwhile."""
        corrections = self._taken_corrections()
        try:
            if corrections:
                await self._lease.correct(self._owner, corrections)
        except CoordinationError:
            self._keep_what_adds(corrections)
        if self._is_needed:
            await self._refill()

    async def _refill(self) -> None:
        while True:
            now = self._asked_at = time.monotonic()
            tokens, is_needed = self._need_tokens, self._is_needed
            self._need_tokens, self._is_needed = 0.0, False
            want = self._ahead.next(now, 1.0), self._ahead_tokens.next(now, tokens)
            corrections = self._taken_corrections()
            try:
                taken = await self._lease.take(self._owner, self._limits, (1.0, tokens), want, corrections)
            except CoordinationError:  # said by the database
                self._keep_what_adds(corrections)
                taken = Wait(_LONGEST_WAIT_S)
            if isinstance(taken, RateGrant):
                until = now + self.slice_s
                self._slices.append(
                    _Slice(taken.start_us, until, taken.requests, taken.tokens, max(1.0, taken.requests))
                )
                self._changed()
                return
            if self._lease.holds_back:
                self._say_held_back(taken.seconds)
            if not (is_needed or self._is_needed):
                return
            self._need_tokens, self._is_needed = max(tokens, self._need_tokens), True
            await asyncio.sleep(min(taken.seconds, _LONGEST_WAIT_S) * random.uniform(0.6, 1.0))

    def _keep_what_adds(self, corrections: dict[int, tuple[float, float]]) -> None:
        """Of corrections that may have been applied: what gives back is not given twice, what adds is added twice."""
        for bucket, (requests, tokens) in corrections.items():
            if requests > 0 or tokens > 0:
                self._correct(bucket, max(0.0, requests), max(0.0, tokens))

    def _say_held_back(self, seconds: float) -> None:
        if not self._lease.said_held_back:
            self._lease.said_held_back = True
            self._say(
                f"{self._lease.database.shown} was restarted and has lost what was sent in the last minute: nothing is "
                f"sent to what has a rate limit for {seconds:.0f} s."
            )

    def _drop_old(self) -> None:
        now = time.monotonic()
        while self._slices and self._slices[0].until <= now:
            self._give_back(self._slices.popleft())

    def _give_back(self, one: _Slice) -> None:
        if one.requests or one.tokens:
            self._correct(one.start_us, -one.requests, -one.tokens)

    def _correct(self, bucket: int, requests: float, tokens: float) -> None:
        before = self._corrections.get(bucket, (0.0, 0.0))
        self._corrections[bucket] = (before[0] + requests, before[1] + tokens)

    def _taken_corrections(self) -> dict[int, tuple[float, float]]:
        taken, self._corrections = self._corrections, {}
        return taken


class RemoteMoneyShare:
    """This process's money. Held at the lease at any time: what is free here, what calls have reserved, and what they
    spent since it was last booked.

    A hold that could not be renewed until its deadline counts as spent there: from then on nothing is set aside here
    before an exchange has worked.
    """

    def __init__(self, limits: "RemoteLimits", accounts: Callable[[], Sequence[str]], smallest_cap_usd: float) -> None:
        self._limits = limits
        self._lease = limits.lease
        self._name_accounts = accounts
        self.accounts = tuple(accounts())
        self._holder = remote_holder(str(next(_numbers)))
        self._ahead = Ahead(1.0, _AHEAD_SHARE * smallest_cap_usd)
        self._totals_usd: dict[str, float] = dict.fromkeys(self.accounts, 0.0)
        self._booked_usd = self._spent_usd = 0.0
        self._held_usd = self._reserved_usd = 0.0
        self._n_reserved = 0
        self._one_usd = 0.0
        self._room_usd = smallest_cap_usd
        self._good_until = float("-inf")
        self._booked_at = time.monotonic()
        self._turn = asyncio.Lock()
        self._at_lease = asyncio.Lock()
        self._settled = asyncio.Event()
        self._exchanges: set[asyncio.Task[bool]] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def _free_usd(self) -> float:
        return self._held_usd - self._reserved_usd - (self._spent_usd - self._booked_usd)

    def reserve_now(self, usd: float) -> bool:
        return not self._turn.locked() and self._take(usd)

    async def reserve(self, usd: float, deadline: float | None = None) -> bool:
        async with asyncio.timeout_at(deadline), self._turn:
            while not self._take(usd):
                self._one_usd = usd
                ahead_usd = min(_AHEAD_CALLS * usd, self._next_free_usd())
                if await self._exchanged(usd + ahead_usd) or await self._exchanged(usd):
                    continue
                if self._n_reserved == 0:
                    return False
                self._settled.clear()
                await self._settled.wait()
        return True

    def settle(self, reserved_usd: float, actual_usd: float) -> None:
        self._n_reserved -= 1
        self._reserved_usd = 0.0 if self._n_reserved == 0 else self._reserved_usd - reserved_usd
        self._spent_usd += actual_usd
        self._settled.set()
        if time.monotonic() - self._booked_at >= _BOOK_EVERY_S and not self._exchanges and not self._is_closed:
            self._exchange(min(max(0.0, self._free_usd), self._next_free_usd()))

    def unspent_usd(self) -> float:
        """As of the last exchange."""
        return self._room_usd + max(0.0, self._free_usd) + self._reserved_usd

    def close(self) -> None:
        """Nothing is renewed any more; `end` books and lets go."""
        self._is_closed = True
        if self._renewing is not None:
            self._renewing.cancel()

    async def begin(self) -> None:
        """Opens the accounts, and learns what they leave."""
        await self._exchanged(0.0)
        self._renewing = asyncio.create_task(self._renew())

    async def end(self) -> None:
        """Books what is spent and lets go of the rest."""
        self.close()
        await asyncio.gather(*self._exchanges, return_exceptions=True)
        await self._exchanged(0.0)

    def _take(self, usd: float) -> bool:
        if time.monotonic() >= self._good_until or self._free_usd < usd:
            return False
        self._reserved_usd += usd
        self._n_reserved += 1
        self._ahead.note(usd)
        return True

    def _next_free_usd(self) -> float:
        return self._ahead.next(time.monotonic(), self._one_usd)

    async def _exchanged(self, free_usd: float) -> bool:
        """An exchange that goes to its end, also where its caller does not wait so long."""
        return await asyncio.shield(self._exchange(free_usd))

    def _exchange(self, free_usd: float) -> asyncio.Task[bool]:
        task = asyncio.create_task(self._at_the_lease(free_usd))
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)
        return task

    async def _at_the_lease(self, free_usd: float) -> bool:
        async with self._at_lease:
            accounts = tuple(self._name_accounts())
            if accounts != self.accounts:
                await self._move(accounts)
            return await self._ask(self.accounts, free_usd)

    async def _ask(self, accounts: tuple[str, ...], free_usd: float) -> bool:
        """Books what is not booked and makes the free part `free_usd` if the caps allow; it stays as it is if not."""
        await self._limits.accounts_opened()
        started = self._booked_at = time.monotonic()
        spent_usd = self._spent_usd
        more_usd = spent_usd - self._booked_usd
        keep_usd = max(0.0, self._held_usd - more_usd)
        want_usd = self._reserved_usd + free_usd
        for name in accounts:
            self._totals_usd[name] += more_usd
        if want_usd < keep_usd:  # less is held from the moment it is asked for: nobody may take it meanwhile
            self._held_usd, self._booked_usd = want_usd, spent_usd
        balance = await self._lease.exchange(
            accounts,
            self._holder,
            keep_usd=keep_usd,
            want_usd=want_usd,
            totals_usd=[self._totals_usd[name] for name in accounts],
        )
        self._held_usd, self._booked_usd = want_usd if balance.fits else keep_usd, spent_usd
        self._room_usd = balance.room_usd
        self._good_until = started + HOLD_S
        return balance.fits

    async def _move(self, accounts: tuple[str, ...]) -> None:
        """To other accounts, at midnight UTC: a call counts on the day it is settled."""
        await self._ask(self.accounts, max(0.0, self._free_usd))
        gone = [name for name in self.accounts if name not in accounts]
        if gone:
            totals = [self._totals_usd[name] for name in gone]
            await self._lease.exchange(gone, self._holder, keep_usd=0.0, want_usd=0.0, totals_usd=totals)
        for name in accounts:
            self._totals_usd.setdefault(name, 0.0)
        self.accounts = accounts

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            if time.monotonic() - self._booked_at >= _RENEW_S / 2:
                await self._exchanged(min(max(0.0, self._free_usd), self._next_free_usd()))
                self._settled.set()


class RemoteLimits:
    """Implements `r2.pool.limits.ports.Limits` on the PostgreSQL that several hosts share."""

    is_remote = True

    def __init__(self, database: Database, server_now: datetime, say: Callable[[str], None]) -> None:
        self.lease = RemoteLease(database)
        self._say = say
        self._now, self._now_at = server_now, time.monotonic()
        self._rates: list[RemoteRateShare] = []
        self._money: list[RemoteMoneyShare] = []
        self._unopened: dict[str, tuple[float, float | None]] = {}

    @classmethod
    async def open(cls, database: Database, say: Callable[[str], None]) -> Self:
        """Learns the server's time."""
        now: datetime = await database.run(lambda connection: connection.fetchval("select clock_timestamp()"))
        return cls(database, now, say)

    def rates(self, owner: str, limits: RateLimits) -> RemoteRateShare:
        share = RemoteRateShare(self.lease, owner, limits, self._say)
        self._rates.append(share)
        return share

    def open_account(self, name: str, cap_usd: float, *, spent_usd: float | None = None) -> None:
        """Done with the next exchange."""
        self._unopened[name] = (cap_usd, spent_usd)

    async def accounts_opened(self) -> None:
        """Returns once every account that was asked for is there."""
        while self._unopened:
            name = next(iter(self._unopened))
            cap_usd, spent_usd = self._unopened[name]
            await self.lease.open_account(name, cap_usd, spent_usd)
            self._unopened.pop(name, None)

    def money(self, accounts: Callable[[], Sequence[str]], smallest_cap_usd: float) -> RemoteMoneyShare:
        share = RemoteMoneyShare(self, accounts, smallest_cap_usd)
        self._money.append(share)
        return share

    def today(self) -> str:
        passed = timedelta(seconds=time.monotonic() - self._now_at)
        today: date = (self._now + passed).astimezone(UTC).date()
        return today.isoformat()

    async def begin(self) -> None:
        """Opens the accounts of the money, once all is made."""
        for money in self._money:
            await money.begin()

    async def end(self) -> None:
        """Gives back what is left. A server that is away is not waited for: what is held there ends by itself."""
        ends: list[Coroutine[Any, Any, None]] = [*(one.end() for one in self._rates), *(m.end() for m in self._money)]
        try:
            async with asyncio.timeout(_END_S):
                await asyncio.gather(*ends, return_exceptions=True)
        except TimeoutError:
            self._say(f"{self.lease.database.shown} is away: what this process held there ends within {HOLD_S:.0f} s.")

    def close(self) -> None:
        for rates in self._rates:
            rates.close()
        for money in self._money:
            money.close()
