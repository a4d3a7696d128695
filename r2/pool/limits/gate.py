"""The one door to a quota owner: who may send now, in order of asking. Everything that limits sending meets here.

In order: who holds the door (`hold`: a server with a queue), the breaker, the shared pause after a refusal, the
adaptive number in flight (`r2/pool/limits/aimd.py`), the pace of requests (asyncio-throttle) and of tokens (a bucket),
and last the window that is shared (`r2/pool/limits/ports.py`), so that a grant is used the moment it is given. The door
is a FIFO lock: only the call at its head waits for any of these, which gives asyncio-throttle, whose waiters poll, at
most one of them, and costs a call that need not wait no trip through the loop.

Nothing below this layer may retry a 429, or the controller would not see it. `leave` is told how each call went.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from asyncio_throttle.throttler import Throttler

from r2.pool.file.tables import EndpointLimits
from r2.pool.limits.aimd import Breaker, Controller, Times
from r2.pool.limits.lease import Wait
from r2.pool.limits.ports import Rates

Verdict = Literal["answered", "refused", "failed", "slow", "bad_key", "used_up", "understood", "abandoned"]
"""How a call went, as the gate needs to know it: answered; 429 or 503; 5xx, timeout or cut; 401 to 403; the quota of
the day used up; any other refusal of this one request; cancelled."""

_STOPPED = "the run was asked to stop before the call was sent"
_LONGEST_NAP_S = 0.25  # tokens come back from other processes without a signal


class GateClosedError(Exception):
    """The call may not be sent: `reason` is "circuit_open" or "stopped"; the message says why."""

    def __init__(self, reason: Literal["circuit_open", "stopped"], message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class Slot:
    """A call on its way. `tokens` is what was reserved for it, `bucket` where in the host's window."""

    sent_at: float
    tokens: float
    bucket: int
    is_probe: bool


@dataclass(frozen=True, slots=True)
class GateGauge:
    """A gate at a glance. `paused_s` is what is left of the shared pause, 0 if there is none."""

    in_flight: int
    limit: int
    starts: int
    rate_limited: int
    paused_s: float
    breaker: Breaker


class TokenBucket:
    """Paces tokens: `per_minute`, with 5 s worth of burst. One request above the burst passes when
    the bucket is full."""

    def __init__(self, per_minute: float, now: float) -> None:
        self._per_s = per_minute / 60
        self._burst = per_minute / 12
        self._level = self._burst
        self._at = now

    def wait_s(self, tokens: float, now: float) -> float:
        """Seconds until `tokens` may be taken."""
        self._level = min(self._burst, self._level + (now - self._at) * self._per_s)
        self._at = now
        return max(0.0, (min(tokens, self._burst) - self._level) / self._per_s)

    def take(self, tokens: float) -> None:
        """Takes `tokens` (into debt if need be); a negative number gives back."""
        self._level -= tokens


class Pace(Throttler):
    """asyncio-throttle's sliding log of starts, which can also be asked without a coroutine."""

    def __init__(self, per_minute: float) -> None:
        """Whole starts in a period of about 1 s (longer below one a second), exact on average."""
        n_starts = max(1, round(per_minute / 60))
        super().__init__(n_starts, n_starts * 60 / per_minute)

    def has_room(self) -> bool:
        self.flush()  # type: ignore[no-untyped-call]  # the library has no annotations
        return len(self._task_logs) < self.rate_limit

    def note_start(self) -> None:
        self._task_logs.append(time.monotonic())


def _least(ours: float | None, theirs: float | None) -> float | None:
    return theirs if ours is None else ours if theirs is None else min(ours, theirs)


class Gate:
    """Door to one quota owner. `rates` is the window shared with other processes, None where no rate is limited."""

    def __init__(
        self,
        owner: str,
        limits: EndpointLimits,
        rates: Rates | None = None,
        *,
        times: Times | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.owner = owner
        self.in_flight = 0
        self.starts = 0
        self.rate_limited = 0
        self.controller = Controller(limits.max_in_flight, times)
        self._rates = rates
        self._clock = clock
        self._door = asyncio.Lock()
        self._changed = asyncio.Event()
        self._is_stopped = False
        self._holders: set[str] = set()
        self._limits = limits
        self._kept_to = (limits.max_requests_per_minute, limits.max_tokens_per_minute)
        self._pace = Pace(limits.max_requests_per_minute) if limits.max_requests_per_minute else None
        self._bucket = TokenBucket(limits.max_tokens_per_minute, clock()) if limits.max_tokens_per_minute else None
        if rates is not None:
            rates.follow(self._changed.set)

    async def enter(self, tokens: float, deadline: float | None = None) -> Slot:
        """Waits for its turn and takes a slot that must be given back with `leave`. `tokens`: prompt plus output limit.

        Raises TimeoutError at `deadline` (the event loop's seconds; None: never), and GateClosedError once the breaker
        is open or `stop` was called, also for those already waiting.
        """
        slot = self.enter_now(tokens)
        if slot is not None:
            return slot
        async with asyncio.timeout_at(deadline), self._door:
            return await self._wait_at_the_head(tokens)

    def enter_now(self, tokens: float) -> Slot | None:
        """A slot if nobody waits and nothing bars the way; else None, and `enter` waits."""
        if self._door.locked() or not self._is_clear() or not (self._pace is None or self._pace.has_room()):
            return None
        taken = self._take_rates(tokens)
        if isinstance(taken, Wait):
            return None
        if self._pace is not None:
            self._pace.note_start()
        return self._start(tokens, taken, is_probe=False)

    def leave(
        self,
        slot: Slot,
        verdict: Verdict,
        *,
        used_tokens: float | None = None,
        retry_after_s: float | None = None,
        first_attempt: bool = True,
        why: str = "",
    ) -> None:
        """Gives the slot back. `used_tokens` settles the reserve; None keeps it, for calls whose usage is unknown."""
        self.in_flight -= 1
        now, controller = self._clock(), self.controller
        if verdict == "answered":
            controller.succeeded(first_attempt=first_attempt, was_probe=slot.is_probe)
        elif verdict == "refused":
            self.rate_limited += 1
            controller.refused(now, slot.sent_at, retry_after_s, was_probe=slot.is_probe)
        elif verdict == "failed":
            controller.failed(now, was_probe=slot.is_probe)
        elif verdict == "slow":
            controller.slow(now, was_probe=slot.is_probe)
        elif verdict == "bad_key":
            controller.open(now, why)
        elif verdict == "used_up":
            controller.park(now, why, retry_after_s)
        elif slot.is_probe and verdict == "understood":
            controller.succeeded(first_attempt=False, was_probe=True)
        elif slot.is_probe:
            controller.abandon_probe(now)
        elif verdict == "understood":
            controller.alive()
        if used_tokens is not None:
            if self._bucket is not None:
                self._bucket.take(used_tokens - slot.tokens)
            if self._rates is not None:
                self._rates.settle(slot.bucket, slot.tokens, used_tokens)
        self._changed.set()

    def keep_to(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """Paces this process by the provider's own limits (None: it names none) where they are below the file's."""
        requests = _least(self._limits.max_requests_per_minute, requests_per_minute)
        tokens = _least(self._limits.max_tokens_per_minute, tokens_per_minute)
        before, self._kept_to = self._kept_to, (requests, tokens)
        if requests != before[0]:
            self._pace = None if requests is None else Pace(requests)
        if tokens != before[1]:
            self._bucket = None if tokens is None else TokenBucket(tokens, self._clock())

    def hold(self, who: str, is_held: bool) -> None:
        """While anybody holds it nobody enters; those inside finish."""
        (self._holders.add if is_held else self._holders.discard)(who)
        self._changed.set()

    def stop(self) -> None:
        """Nobody enters any more; those inside finish."""
        self._is_stopped = True
        self._changed.set()

    def close(self) -> None:
        """Gives the unused part of this process's slice of the rate back to the host."""
        if self._rates is not None:
            self._rates.close()

    def gauge(self) -> GateGauge:
        paused_s = max(0.0, self.controller.blocked_until - self._clock())
        return GateGauge(
            self.in_flight, self.controller.limit, self.starts, self.rate_limited, paused_s, self.controller.breaker
        )

    def _is_clear(self) -> bool:
        """Nothing but rates could make a call wait."""
        controller = self.controller
        return (
            not self._is_stopped
            and not self._holders
            and controller.breaker == "closed"
            and self.in_flight < controller.limit
            and (controller.blocked_until <= 0.0 or self._clock() >= controller.blocked_until)
        )

    def _start(self, tokens: float, bucket: int, *, is_probe: bool) -> Slot:
        self.in_flight += 1
        self.starts += 1
        self.controller.sent(self.in_flight)
        return Slot(self._clock(), tokens, bucket, is_probe)

    async def _wait_at_the_head(self, tokens: float) -> Slot:
        is_probe = await self._until_open()
        try:
            if self._pace is not None:
                await self._pace.acquire()  # type: ignore[no-untyped-call]
            while True:
                if not is_probe:
                    is_probe = (
                        await self._until_open()
                    )  # others may have been refused while this call waited for a rate
                taken = self._take_rates(tokens)
                if not isinstance(taken, Wait):
                    break
                await self._nap(min(taken.seconds, _LONGEST_NAP_S))
            if self._is_stopped:
                raise GateClosedError("stopped", _STOPPED)
        except BaseException:
            if is_probe:
                self.controller.abandon_probe(self._clock())
            raise
        return self._start(tokens, taken, is_probe=is_probe)

    async def _until_open(self) -> bool:
        """Waits while there is a pause or no free slot. True if this call is to probe an open breaker."""
        controller = self.controller
        while True:
            if self._is_stopped:
                raise GateClosedError("stopped", _STOPPED)
            now = self._clock()
            if self._holders:
                await self._nap(None)
                continue
            if controller.breaker != "closed":
                if not controller.may_probe(now):
                    raise GateClosedError("circuit_open", f"{self.owner} is taken as down: {controller.why_open}")
                controller.begin_probe()
                return True
            if now < controller.blocked_until:
                await self._nap(controller.blocked_until - now)
            elif self.in_flight >= controller.limit:
                await self._nap(None)
            else:
                return False

    def _take_rates(self, tokens: float) -> int | Wait:
        if self._bucket is not None:
            wait_s = self._bucket.wait_s(tokens, self._clock())
            if wait_s > 0:
                return Wait(wait_s)
        taken = -1 if self._rates is None else self._rates.take(tokens)
        if self._bucket is not None and not isinstance(taken, Wait):
            self._bucket.take(tokens)
        return taken

    async def _nap(self, seconds: float | None) -> None:
        """Until something changes, at most `seconds`."""
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
