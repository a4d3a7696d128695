"""The rule of sequential routing (docs/method.md, section 10; ours): ask one arm more, accept, or decompose. Pure.

A right answer is worth `v_usd`, and that is the only price of being right. The rule looks a few attempts ahead:

    V_0(A) = v * q(A)
    V_h(A) = max(v * q(A), decompose, max over arms m of  -c_m + sum over outcomes o of P(o) * V_{h-1}(A + (m, o)))

where q(A) is the probability that the best-supported result so far is right. One attempt ahead never buys a second
opinion: an arm that can at best agree changes q, and not which result is accepted. Three ahead do.

Where waiting has a price w_m (a batch job for each attempt), it is paid with c_m, once for arms that are asked side by
side. So the first wave may be two arms:

    asking m and n together = -c_m - c_n - max(w_m, w_n) + sum over both outcomes of P * V_{h-2}(A + m + n)

What is believed comes through `Beliefs` (r2/answering/attempts.py); the rule knows nothing of questions or models.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, Protocol, runtime_checkable

from r2.answering.attempts import Attempt, Attempts, Beliefs

HORIZON = 3
MAX_ARMS, MAX_LATER_ARMS = 6, 4
"""Arms that the rule looks ahead with: as the one that is asked now, and as those asked after it. Of more, the ones on
outer fronts or hulls are kept."""
LEAST_SHARE = 0.5
"""An arm that is less than this share as likely to be right as the likeliest one is not looked ahead with: what it says
would decide little."""

Waits = tuple[tuple[str, float], ...]
"""Arm -> what waiting for it costs, in USD; as pairs, so that it can be a key."""

Action = Literal["ask", "accept", "decompose"]
Reason = Literal["worth_asking", "no_result_yet", "plan_worth_more", "not_worth_more", "nobody_left"]
"""Why the action was chosen. `not_worth_more`: no arm's look-ahead value reaches that of accepting."""


@runtime_checkable
class Foreseeing(Beliefs, Protocol):
    """Beliefs that work out the last attempt that is looked at in one go, for speed."""

    def expected_best(self, attempts: Attempts, arm: str, least: float = 0.0) -> float:
        """The sum over `outcomes` of probability times the highest `p_right` after it, `least` where that is more."""


@runtime_checkable
class Batching(Beliefs, Protocol):
    """Beliefs that work out many states together much faster than one by one."""

    def foresee(self, attempts: Attempts, arms: Sequence[str], n_further: int) -> None:
        """Works out every state that so many further attempts of these arms can lead to."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One arm that could be asked now.

    `p_right`: that its own result will be right. `p1` and `p0`: the same where the best-supported result is right, and
    where it is wrong; None without a result. `value_usd`: of asking it and going on by the rule; None where that was
    not worked out, because the arm costs more than being right can gain, or others cost less and promise more.
    """

    arm: str
    cost_usd: float
    p_right: float
    p1: float | None
    p0: float | None
    value_usd: float | None


Shortlist = Callable[[Sequence[Candidate], int], list[Candidate]]
"""At most so many of the arms, in the order given, which is that of their values."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now.

    `arm`: who is asked. `result`: the number of the accepted result; None with `accept` says that there is none and
    nobody is left. `q`: P(the best-supported result is right). `value_usd`: V of the state. `cost_usd`: expected, of
    the call that is made now; 0 for the other actions.
    """

    action: Action
    arm: str | None
    result: int | None
    q: float
    value_usd: float
    cost_usd: float
    candidates: tuple[Candidate, ...]
    reason: Reason
    beside: str | None = None
    """Who is asked in the same wave, because waiting for a second wave costs more."""


def on_outer_fronts(arms: Sequence[Candidate], most: int) -> list[Candidate]:
    """At most so many arms, in the order given: those that no cheaper arm beats, then those that only these beat, and
    so on; of a front that is too large so many, evenly from its cheapest to its dearest."""
    kept: set[str] = set()
    left = list(arms)
    while left and len(kept) < most:
        front = sorted((one for one in left if not any(_beats(other, one) for other in left)), key=_by_cost)
        kept.update(one.arm for one in _spread(front, most - len(kept)))
        left = [one for one in left if one not in front]
    return [one for one in arms if one.arm in kept]


def _spread(front: Sequence[Candidate], most: int) -> Sequence[Candidate]:
    if len(front) <= most:
        return front
    return [front[-1]] if most == 1 else [front[round(i * (len(front) - 1) / (most - 1))] for i in range(most)]


def _by_cost(one: Candidate) -> tuple[float, str]:
    return one.cost_usd, one.arm


def _beats(one: Candidate, other: Candidate) -> bool:
    is_no_worse = one.cost_usd <= other.cost_usd and one.p_right >= other.p_right
    is_better = one.cost_usd < other.cost_usd or one.p_right > other.p_right
    return is_no_worse and (is_better or one.arm < other.arm)


def on_outer_hulls(arms: Sequence[Candidate], most: int) -> list[Candidate]:
    """At most so many arms, in the order given: those on the upper hull of evidence, logit P(right), over cost; then
    those on the hull of what is left, and so on; of a hull that is too large the first ones in the order given.

    Evidence adds up in logits. An arm below the hull buys less of it for its cost than two others together do.
    """
    kept: list[Candidate] = []
    left = list(arms)
    while left and len(kept) < most:
        hull = _hull(left)
        kept += [one for one in left if one in hull][: most - len(kept)]
        left = [one for one in left if one not in hull]
    return [one for one in arms if one in kept]


def _hull(arms: Sequence[Candidate]) -> list[Candidate]:
    hull: list[tuple[float, float, Candidate]] = []
    for one in sorted(arms, key=lambda one: (one.cost_usd, -one.p_right, one.arm)):
        cost, evidence = one.cost_usd, _logit(one.p_right)
        if hull and evidence <= hull[-1][1]:
            continue
        while len(hull) > 1 and _is_below(hull[-2], hull[-1], cost, evidence):
            hull.pop()
        hull.append((cost, evidence, one))
    return [one for _, _, one in hull]


def _is_below(
    before: tuple[float, float, Candidate], middle: tuple[float, float, Candidate], cost: float, evidence: float
) -> bool:
    """Whether the middle one is not above the line from the one before it to the one after."""
    rise, run = middle[1] - before[1], middle[0] - before[0]
    return (evidence - middle[1]) * run >= rise * (cost - middle[0])


def _logit(p: float) -> float:
    p = min(1 - 1e-9, max(1e-9, p))
    return math.log(p / (1 - p))


def decide(
    beliefs: Beliefs,
    attempts: Attempts,
    v_usd: float,
    horizon: int = HORIZON,
    decompose: float | None = None,
    least_gain: float = 0.0,
    waits: Waits = (),
    worth_a_look: Shortlist = on_outer_fronts,
) -> Decision:
    """The best action after these attempts.

    `decompose` is what decomposing is worth in USD, v * P(the plan's answer is right) less all that it costs; None
    where it cannot be done. `least_gain` is what asking must bring beyond accepting, net of its cost, as a share of
    `v_usd`: beliefs are not exact to every digit. Each arm is asked at most once. Without any result somebody is asked
    even where nobody is worth it: the arm that loses least. Ties go to the cheaper arm, then by name, so that the order
    of `beliefs.arms` decides nothing. `waits` has what waiting for an arm costs, in USD; 0 for others. Raises
    ValueError for a `v_usd` or `horizon` below zero.
    """
    if v_usd < 0 or horizon < 0:
        raise ValueError(f"v_usd and horizon must not be negative, got {v_usd} and {horizon}")
    p_results = beliefs.p_right(attempts)
    q = max(p_results, default=0.0)
    result = max(range(len(p_results)), key=lambda number: p_results[number], default=None)
    asked = {attempt.arm for attempt in attempts}
    open_arms = [_seen(beliefs, attempts, arm, q, result) for arm in beliefs.arms if arm not in asked]
    open_arms.sort(key=lambda one: (one.cost_usd - v_usd * one.p_right, one.cost_usd, one.arm))
    likeliest = max((one.p_right for one in open_arms), default=0.0)
    able = [one for one in open_arms if one.cost_usd < v_usd * (1 - q) and one.p_right >= LEAST_SHARE * likeliest]
    kept = worth_a_look(able, MAX_ARMS) if horizon else []
    later = [one.arm for one in worth_a_look(kept, MAX_LATER_ARMS)]
    if later and isinstance(beliefs, Batching):
        beliefs.foresee(attempts, later, horizon)
    waiting = dict(waits)
    search = _Search(beliefs, v_usd, decompose, later, waiting)
    values = {
        one.arm: search.asking(attempts, one.arm, one.cost_usd + waiting.get(one.arm, 0.0), horizon) for one in kept
    }
    candidates = tuple(
        Candidate(one.arm, one.cost_usd, one.p_right, one.p1, one.p0, values.get(one.arm)) for one in open_arms
    )
    accepting = v_usd * q
    best = min(kept, key=lambda one: (-values[one.arm], one.cost_usd, one.arm), default=None)
    if result is None and open_arms and (best is None or values[best.arm] <= 0):
        alone = {one.arm: v_usd * one.p_right - one.cost_usd - waiting.get(one.arm, 0.0) for one in open_arms}
        least = max(open_arms, key=lambda one: alone[one.arm])  # the first of equals: the cheaper one, then by name
        if best is None or values[best.arm] < alone[least.arm]:
            best = least
            values[best.arm] = alone[best.arm]
    enough = accepting + least_gain * v_usd
    asking = None if best is None or (result is not None and values[best.arm] <= enough) else values[best.arm]
    pair = search.best_pair(horizon) if waiting and not attempts and horizon > 1 else None
    if pair is not None and pair.value_usd > max(0.0 if asking is None else asking, enough, decompose or 0.0):
        return Decision(
            "ask", pair.arm, None, q, pair.value_usd, pair.cost_usd, candidates, "no_result_yet", pair.beside
        )
    if decompose is not None and decompose > (accepting if asking is None else asking):
        return Decision("decompose", None, None, q, decompose, 0.0, candidates, "plan_worth_more")
    if best is not None and asking is not None:
        reason: Reason = "no_result_yet" if result is None else "worth_asking"
        return Decision("ask", best.arm, None, q, asking, best.cost_usd, candidates, reason)
    reason = "not_worth_more" if open_arms else "nobody_left"
    return Decision("accept", None, result, q, accepting, 0.0, candidates, reason)


def _seen(beliefs: Beliefs, attempts: Attempts, arm: str, q: float, best: int | None) -> Candidate:
    """The arm with what one attempt of it would bring, not valued yet."""
    is_right = both_right = 0.0
    for probability, attempt in beliefs.outcomes(attempts, arm):
        if attempt.result is None:
            continue
        its = probability * beliefs.p_right((*attempts, attempt))[attempt.result]
        is_right += its
        both_right += its if attempt.result == best else 0.0
    p1 = None if best is None or q <= 0 else min(1.0, both_right / q)
    p0 = None if best is None or q >= 1 else min(1.0, (is_right - both_right) / (1 - q))
    return Candidate(arm, beliefs.cost_usd(arm, attempts), is_right, p1, p0, None)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two arms asked side by side; `arm` is the cheaper one."""

    value_usd: float
    cost_usd: float
    arm: str
    beside: str


class _Search:
    """V of states, each worked out once. `arms` come in the order in which they are tried: the most promising first,
    so that the others are cut off early. What is cut off cannot be the best: V never passes v."""

    def __init__(
        self,
        beliefs: Beliefs,
        v_usd: float,
        decompose: float | None,
        arms: Sequence[str],
        waiting: Mapping[str, float],
    ) -> None:
        self._beliefs, self._v_usd, self._arms, self._waiting = beliefs, v_usd, arms, waiting
        self._floor = 0.0 if decompose is None else max(0.0, decompose)
        self._foreseeing = beliefs if isinstance(beliefs, Foreseeing) and v_usd else None
        self._known: dict[tuple[object, ...], float] = {}

    def asking(self, attempts: Attempts, arm: str, cost_usd: float, horizon: int) -> float:
        """The value of asking `arm` now, and going on by the rule."""
        total = -cost_usd
        for probability, attempt in self._beliefs.outcomes(attempts, arm):
            total += probability * self.value((*attempts, attempt), horizon - 1)
        return total

    def best_pair(self, horizon: int) -> _Pair | None:
        """Two arms that are best asked together, before anybody was asked; None where there are no two."""
        pairs = (self._together(one, other, horizon) for one, other in combinations(self._arms, 2))
        return min(pairs, key=lambda pair: (-pair.value_usd, pair.cost_usd, pair.arm, pair.beside), default=None)

    def _together(self, one: str, other: str, horizon: int) -> _Pair:
        costs = {arm: self._beliefs.cost_usd(arm, ()) for arm in (one, other)}
        arm, beside = sorted(costs, key=lambda name: (costs[name], name))
        total = -sum(costs.values()) - max(self._waiting.get(name, 0.0) for name in costs)
        for probability, attempt in self._beliefs.outcomes((), arm):
            for further, second in self._beliefs.outcomes((attempt,), beside):
                total += probability * further * self.value((attempt, second), horizon - 2)
        return _Pair(total, sum(costs.values()), arm, beside)

    def value(self, attempts: Attempts, horizon: int) -> float:
        key = (horizon, _state(attempts))
        if key not in self._known:
            self._known[key] = self._worked_out(attempts, horizon)
        return self._known[key]

    def _worked_out(self, attempts: Attempts, horizon: int) -> float:
        v_usd = self._v_usd
        best = max(self._floor, v_usd * max(self._beliefs.p_right(attempts), default=0.0))
        if not horizon:
            return best
        asked = {attempt.arm for attempt in attempts}
        for arm in self._arms:
            if arm in asked:
                continue
            total = -self._beliefs.cost_usd(arm, attempts) - self._waiting.get(arm, 0.0)
            if total + v_usd > best:
                best = max(best, self._after(attempts, arm, horizon, total, best))
        return best

    def _after(self, attempts: Attempts, arm: str, horizon: int, total: float, best: float) -> float:
        """The value of asking `arm`, which costs -`total`; something below `best` as soon as it cannot reach that."""
        if horizon == 1 and self._foreseeing is not None:
            least = self._floor / self._v_usd
            return total + self._v_usd * self._foreseeing.expected_best(attempts, arm, least)
        left = 1.0
        for probability, attempt in self._beliefs.outcomes(attempts, arm):
            left -= probability
            total += probability * self.value((*attempts, attempt), horizon - 1)
            if total + left * self._v_usd <= best:
                break
        return total


def _state(attempts: Sequence[Attempt]) -> tuple[tuple[str, int | None, float | None], ...]:
    """Equal for attempts that differ only in their order: sorted by arm, results numbered anew."""
    numbers: dict[int, int] = {}
    return tuple(
        (
            attempt.arm,
            None if attempt.result is None else numbers.setdefault(attempt.result, len(numbers)),
            attempt.confidence,
        )
        for attempt in sorted(attempts, key=lambda attempt: attempt.arm)
    )
