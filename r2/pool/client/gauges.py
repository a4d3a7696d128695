"""What a run shows of each model while it goes: counts, rate, latency, cost. Bounded memory, cheap enough for every
call."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_RATE_WINDOW_S = 10
_LATENCIES_KEPT = 512


@dataclass(frozen=True, slots=True)
class ModelGauge:
    """One pool entry at a glance. `limit` and `rate_limited` (429s and 503s) are its quota owner's, which entries may
    share.

    `in_flight`, `calls` (answered) and `errors` (failed attempts other than those) are the entry's own; `rate_per_s` is
    over the last 10 s; latencies are of the last 512 answers, 0 where there is none.
    """

    name: str
    in_flight: int
    limit: int
    calls: int
    rate_per_s: float
    rate_limited: int
    errors: int
    p50_s: float
    p95_s: float
    cost_usd: float


class Tally:
    """Counts of one pool entry in this process. `clock` is in monotonic seconds."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.name = name
        self.in_flight = self.calls = self.errors = 0
        self.cost_usd = 0.0
        self._clock = clock
        self._began_at = clock()
        self._latencies_s: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._per_second: deque[list[int]] = deque(maxlen=_RATE_WINDOW_S + 1)  # [second, answers in it], oldest first

    def answered(self, latency_s: float) -> None:
        self.calls += 1
        self._latencies_s.append(latency_s)
        second = int(self._clock())
        if self._per_second and self._per_second[-1][0] == second:
            self._per_second[-1][1] += 1
        else:
            self._per_second.append([second, 1])

    def gauge(self, limit: int, rate_limited: int) -> ModelGauge:
        now = self._clock()
        n_recent = sum(n for second, n in self._per_second if second > now - _RATE_WINDOW_S)
        rate_per_s = n_recent / min(_RATE_WINDOW_S, max(1.0, now - self._began_at))
        ordered = sorted(self._latencies_s)
        p50_s, p95_s = (ordered[int(q * (len(ordered) - 1))] if ordered else 0.0 for q in (0.5, 0.95))
        return ModelGauge(
            self.name,
            self.in_flight,
            limit,
            self.calls,
            rate_per_s,
            rate_limited,
            self.errors,
            p50_s,
            p95_s,
            self.cost_usd,
        )
