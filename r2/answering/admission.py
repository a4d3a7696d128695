"""Which question may begin under a money cap: a run that nears its cap finishes what it began before it begins more.

A question begins only where the cap has room for the rest of all that are under way and for one more whole question.
What a whole one needs is estimated from the most that any of its kind needed so far at one time, spent and set aside
for calls on their way: that most, times 1 + 1/n after n of them (as the largest of n draws falls short of the largest
there is), and never less than an n-th of the guess that serves before the first has ended. Where nothing is under way a
question begins anyway, unless the cap has less than the least that any needed: the guess is no reason to stop. Hard
bounds are set where calls are sent (r2/pool/client/attempt.py); this only decides what the last of the money is spent
on. Ours.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import inf


@dataclass(slots=True, eq=False)
class Begun:
    """A question under way. `reserved_usd` is the worst case of its calls on their way, `peak_usd` the most of both."""

    kind: str
    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    peak_usd: float = 0.0

    def sends(self, worst_usd: float) -> None:
        """A call is about to be sent that may cost `worst_usd`."""
        self.reserved_usd += worst_usd
        self.peak_usd = max(self.peak_usd, self.spent_usd + self.reserved_usd)

    def got(self, worst_usd: float, cost_usd: float) -> None:
        """That call has ended, and cost `cost_usd`."""
        self.reserved_usd -= worst_usd
        self.spent_usd += cost_usd


class Admission:
    """One per client. `unspent_usd` says what the caps still leave, reserves of calls on their way not taken off; inf
    where nothing is capped."""

    def __init__(self, unspent_usd: Callable[[], float]) -> None:
        self._unspent_usd = unspent_usd
        self._under_way: set[Begun] = set()
        self._least_usd: dict[str, float] = {}
        self._most_usd: dict[str, float] = {}
        self._n_ended: Counter[str] = Counter()
        self._changed = asyncio.Event()

    async def begin(self, kind: str, guess_usd: float) -> Begun | None:
        """Waits for room; None where no question of this kind can be answered any more. `guess_usd` is what one may
        need as long as none has ended."""
        while True:
            unspent_usd = self._unspent_usd()
            need_usd = self._need_usd(kind, guess_usd)
            if unspent_usd == inf or unspent_usd - self._owed_usd(guess_usd) >= need_usd:
                break
            if not self._under_way:
                if unspent_usd < self._least_usd.get(kind, 0.0):
                    return None
                break
            self._changed.clear()
            await self._changed.wait()
        begun = Begun(kind)
        self._under_way.add(begun)
        return begun

    def end(self, begun: Begun, *, is_whole: bool) -> None:
        """The question has ended. `is_whole`: by itself, so that it shows what one needs."""
        self._under_way.discard(begun)
        if is_whole:
            kind, peak_usd = begun.kind, begun.peak_usd
            self._least_usd[kind] = min(self._least_usd.get(kind, inf), peak_usd)
            self._most_usd[kind] = max(self._most_usd.get(kind, 0.0), peak_usd)
            self._n_ended[kind] += 1
        self._changed.set()

    def _need_usd(self, kind: str, guess_usd: float) -> float:
        n = self._n_ended[kind]
        return max(self._most_usd[kind] * (1 + 1 / n), guess_usd / n) if n else guess_usd

    def _owed_usd(self, guess_usd: float) -> float:
        """What the questions under way still need."""
        return sum(
            max(begun.reserved_usd, self._need_usd(begun.kind, guess_usd) - begun.spent_usd)
            for begun in self._under_way
        )
