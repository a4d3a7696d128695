"""How many calls one quota owner should have in flight, when it must be left alone, and when it counts as down. Pure.

The controller (ours, from simulation: pacing at the known rate plus this reaches 99 % of a quota with almost no
refusals):
- slow start from 16, doubling below 0.6 of the last limit that was refused, then +5 % a round; a round is as many
  first-attempt successes as the limit, and only a round that used 80 % of the limit raises it;
- a refusal (429, 503) pauses everybody for 0.25 to 0.5 s, doubling while nothing is answered, and longer where the
  server names a later time: its number never makes a pause shorter. It cuts the limit to 0.85 of itself, once in 5 s
  and only after a success since the last cut; later refusals never extend those 5 s, or the limit would freeze;
- a call that was given up for time halves the limit, once in 5 s: what a server cannot do at once it may do in turn;
- other failures (5xx, cut connections) cut nothing and stop growth for their round;
- a breaker opens when there was nothing but refusals for 120 s (or three times what the server asked for), nothing but
  failures for 30 s, or at once when the key is refused or the quota of the day is used up; every 60 s (10 to 60 minutes
  for a quota) one call may probe, and its answer closes it.

Left out: a self-hosted vLLM queues instead of refusing, so for it the limit grows to `max_in_flight`; set that to what
the server batches, or start it with `--max-num-queued-reqs`.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Breaker = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds the controller goes by; tests shorten them."""

    cut_s: float = 5.0
    first_pause_s: float = 0.5
    max_pause_s: float = 120.0
    refused_open_s: float = 120.0
    failing_open_s: float = 30.0
    min_failures_to_open: int = 5
    probe_every_s: float = 60.0
    least_park_s: float = 600.0
    most_park_s: float = 3600.0


class Controller:
    """State of one quota owner. `now` is monotonic seconds throughout; `jitter` draws from 0..1."""

    def __init__(
        self, max_in_flight: int, times: Times | None = None, jitter: Callable[[], float] = random.random
    ) -> None:
        self.max_in_flight = max_in_flight
        self.limit = min(16, max_in_flight)
        self.blocked_until = 0.0
        self.breaker: Breaker = "closed"
        self.why_open = ""
        self._times = times or Times()
        self._jitter = jitter
        self._threshold = max_in_flight
        self._successes_in_round = 0
        self._peak_in_flight = 0
        self._is_round_frozen = False
        self._cut_until = 0.0
        self._succeeded_since_cut = True
        self._pauses = 0  # in a row, without a success between
        self._paused_at = float("-inf")
        self._refused_since: float | None = None
        self._longest_asked_s = 0.0
        self._failing_since: float | None = None
        self._failures = 0
        self._probe_at = 0.0

    def may_probe(self, now: float) -> bool:
        """The breaker is open and it is time to let one call try."""
        return self.breaker == "open" and now >= self._probe_at

    def begin_probe(self) -> None:
        self.breaker = "half_open"

    def abandon_probe(self, now: float) -> None:
        """The probing call was cancelled and said nothing; the next one may try at once."""
        self.breaker, self._probe_at = "open", now

    def sent(self, in_flight: int) -> None:
        """A call started; `in_flight` counts it."""
        self._peak_in_flight = max(self._peak_in_flight, in_flight)

    def succeeded(self, *, first_attempt: bool, was_probe: bool) -> None:
        """A call was answered. Only first attempts count towards growth."""
        if was_probe:
            self.breaker, self.why_open = "closed", ""
            self.limit, self._successes_in_round = 1, 0
        self.alive()
        self._succeeded_since_cut = True
        if not first_attempt:
            return
        self._successes_in_round += 1
        if self._successes_in_round < self.limit:
            return
        if self._peak_in_flight >= 0.8 * self.limit and not self._is_round_frozen:
            doubled, stepped = 2 * self.limit, self.limit + max(1, self.limit // 20)
            self.limit = min(self.max_in_flight, doubled if self.limit < 0.6 * self._threshold else stepped)
        self._successes_in_round, self._peak_in_flight, self._is_round_frozen = 0, 0, False

    def alive(self) -> None:
        """The server understood a call, whatever it said to it: streaks of refusals and failures end."""
        self._pauses = 0
        self._refused_since = self._failing_since = None
        self._failures, self._longest_asked_s = 0, 0.0

    def refused(self, now: float, sent_at: float, retry_after_s: float | None, *, was_probe: bool) -> None:
        """429 or 503. `sent_at` tells refusals of one burst (sent before the last pause began) from the next one's."""
        self._successes_in_round = 0
        if sent_at > self._paused_at:
            self._pauses += 1
            self._paused_at = now
        pause_s = self._times.first_pause_s * 2 ** min(self._pauses - 1, 20)
        pause_s = min(pause_s, self._times.max_pause_s) * (0.5 + 0.5 * self._jitter())
        if retry_after_s is not None:  # never earlier than the server asked, and never sooner for what it asked
            asked_s = min(retry_after_s, self._times.max_pause_s)
            pause_s = max(pause_s, asked_s * (1 + 0.1 * self._jitter()))
            self._longest_asked_s = max(self._longest_asked_s, asked_s)
        self.blocked_until = max(self.blocked_until, now + pause_s)
        if now >= self._cut_until and self._succeeded_since_cut:
            self._threshold = self.limit
            self.limit = max(1, int(0.85 * self.limit))
            self._cut_until = now + self._times.cut_s
            self._succeeded_since_cut = False
        if self._refused_since is None:
            self._refused_since = now
        patience_s = max(self._times.refused_open_s, 3 * self._longest_asked_s)
        if was_probe or now - self._refused_since >= patience_s:
            self.open(now, f"it answered nothing but 429 or 503 for {now - self._refused_since:.0f} s")

    def slow(self, now: float, *, was_probe: bool) -> None:
        """A call was given up for time: fewer at once, and a failure like any other."""
        if now >= self._cut_until:
            self._threshold = self.limit
            self.limit = max(1, self.limit // 2)
            self._cut_until = now + self._times.cut_s
        self.failed(now, was_probe=was_probe)

    def failed(self, now: float, *, was_probe: bool) -> None:
        """5xx, refused or cut connection."""
        self._is_round_frozen = True
        self._failures += 1
        if self._failing_since is None:
            self._failing_since = now
        is_down = self._failures >= self._times.min_failures_to_open
        if was_probe or (is_down and now - self._failing_since >= self._times.failing_open_s):
            self.open(now, f"nothing but failures for {now - self._failing_since:.0f} s")

    def park(self, now: float, why: str, retry_after_s: float | None) -> None:
        """Opens the breaker for a quota that is used up: the next probe is when the server says, within bounds."""
        self.open(now, why)
        self._probe_at = now + min(max(retry_after_s or 0.0, self._times.least_park_s), self._times.most_park_s)

    def open(self, now: float, why: str) -> None:
        """Opens the breaker; `why` ends up in the messages of the calls that find it open."""
        self.breaker, self.why_open = "open", why
        self._probe_at = now + self._times.probe_every_s
        self._refused_since = self._failing_since = None
