"""What a trained scorer believes of one unit: the `Beliefs` (r2/answering/attempts.py) that the rule reads.

States are predicted in batches: looking at one state works out all that one further attempt could make of it, and
`foresee` all that several could, so that the rule's search finds them at hand. What is predicted does not depend on
costs: units of one kind that are equally hard share it (`priced`).
"""

import math
from collections.abc import Hashable, Mapping, Sequence, Set
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import numpy as np

from r2.answering.attempts import Attempt, Attempts
from r2.answering.scorer import SUREST, ArmProfile, Level, Scorer, arm_features, logit, result_features, states_of
from r2.problem import Problem

if TYPE_CHECKING:
    from r2.answering.lookahead import Decision

Key = tuple[tuple[str, int | None, float | None, int | None], ...]
LEAST = 0.01
"""Outcomes less probable are left out, and the others fill their place."""
CONFIDENCE_GRID = 1.0
"""Steps of a logit that confidences are told apart by: units that are alike share what is worked out."""
LENGTH_GRID = 0.5
"""Likewise of ln(1 + tokens)."""
MOST_KEPT = 20_000
"""States whose predictions are kept."""


class ScoredBeliefs:
    """`profiles`: the arms that can be asked, by name. `costs_usd`: of one call of each; where it says nothing, the
    profile's mean."""

    def __init__(
        self,
        scorer: Scorer,
        problem: Problem,
        kind: str,
        profiles: Mapping[str, ArmProfile],
        costs_usd: Mapping[str, float] | None = None,
        difficulty: float | None = None,
    ) -> None:
        """`difficulty` None: that of the problem's text."""
        self._scorer = scorer
        self._names = tuple(profiles)
        self._places = {name: place for place, name in enumerate(self._names)}
        self._at = [profile.at(kind) for profile in profiles.values()]
        self._view = scorer.view(problem, kind, profiles)
        if difficulty is not None:
            self._view = replace(self._view, difficulty=difficulty)
        given = costs_usd or {}
        self._costs = {name: given.get(name, its.cost_usd) for name, its in zip(self._names, self._at, strict=True)}
        self._p_right: dict[Key, tuple[float, ...]] = {}
        self._p_next: dict[Key, Sequence[Sequence[float]]] = {}
        self._outcomes: dict[tuple[Key, str], list[tuple[float, Attempt]]] = {}
        self._closed: frozenset[str] = frozenset()
        self.decisions: dict[Hashable, Decision] = {}
        """What was decided by them, at these costs; for whoever decides."""

    has_equality = True

    @property
    def arms(self) -> Sequence[str]:
        return tuple(name for name in self._names if name not in self._closed)

    @property
    def choice(self) -> Sequence[float]:
        """Weights of group-relative fine-tuning (r2/answering/choice.py); empty where there was none."""
        return self._scorer.choice

    def alone(self, arm: str) -> float:
        """P(the arm's own result is right), before anybody was asked."""
        return sum(
            probability * self.p_right((attempt,))[attempt.result]
            for probability, attempt in self.outcomes((), arm)
            if attempt.result is not None
        )

    def without(self, names: Set[str]) -> Self:
        """The same where these arms are not asked any more; what they brought still counts. What was predicted is
        shared."""
        closed = frozenset(names & self._places.keys())
        if closed == self._closed:
            return self
        other = copy(self)
        other._closed = closed
        return other

    def priced(self, costs_usd: Mapping[str, float]) -> Self:
        """The same at other costs of the arms; those that are not given stay. What was predicted is shared."""
        other = copy(self)
        other._costs = {**self._costs, **costs_usd}
        other.decisions = {}
        return other

    def told(self, arm: str, confidence: float | None) -> float | None:
        """The confidence on a grid of `CONFIDENCE_GRID`; None of an arm that is not known here."""
        if confidence is None or arm not in self._places:
            return None
        return 1 / (1 + math.exp(-CONFIDENCE_GRID * round(logit(confidence, SUREST) / CONFIDENCE_GRID)))

    def told_length(self, output_tokens: int | None) -> int | None:
        """The length of a reply, which tells something here, on a grid of `LENGTH_GRID`."""
        if output_tokens is None:
            return None
        return round(math.expm1(LENGTH_GRID * round(math.log1p(output_tokens) / LENGTH_GRID)))

    def cost_usd(self, arm: str, attempts: Attempts) -> float:
        return self._costs[arm]

    def p_right(self, attempts: Attempts) -> Sequence[float]:
        key = key_of(attempts)
        if key not in self._p_right:
            self._predict({key: attempts})
        return self._p_right[key]

    def outcomes(self, attempts: Attempts, arm: str) -> Sequence[tuple[float, Attempt]]:
        key = key_of(attempts)
        if (key, arm) not in self._outcomes:
            self.foresee(attempts, self._names, 1)
        return self._outcomes[key, arm]

    def foresee(self, attempts: Attempts, arms: Sequence[str], n_further: int) -> None:
        """Predicts every state that so many further attempts of these arms can lead to, a batch for each further
        attempt."""
        if len(self._p_right) > MOST_KEPT:
            for kept in (self._p_right, self._p_next, self._outcomes):
                kept.clear()
        self.p_right(attempts)
        states = {key_of(attempts): attempts}
        for level in range(n_further):
            reached: dict[Key, Attempts] = {}
            for key, state in states.items():
                asked = {one.arm for one in state}
                for arm in arms:
                    if arm in asked:
                        continue
                    if (key, arm) not in self._outcomes:
                        self._outcomes[key, arm] = self._worked_out(state, key, arm)
                    for _, attempt in self._outcomes[key, arm]:
                        further = (*state, attempt)
                        reached.setdefault(key_of(further), further)
            self._predict(reached, is_last=level == n_further - 1)
            states = reached

    def _predict(self, states: Mapping[Key, Attempts], *, is_last: bool = False) -> None:
        """P(right) of these states, and for all but the last ones what a further arm would be."""
        needed = self._p_right if is_last else self._p_next
        new = {key: state for key, state in states.items() if key not in needed}
        if not new:
            return
        arrays = states_of(list(new.values()), self._places, self._at)
        if not arrays.arms.shape[1] or arrays.results.max(initial=-1) < 0:
            self._p_right |= dict.fromkeys(new, ())
            self._p_next |= dict.fromkeys(new, ())
            return
        x, there = result_features(self._view, arrays)
        p_right = self._scorer.p_of(x, there)
        n_results = (arrays.results.max(axis=1) + 1).tolist()
        for key, n, p_each in zip(new, n_results, p_right.tolist(), strict=True):
            self._p_right[key] = tuple(p_each[:n])
        if not is_last:
            found = self._scorer.p_next(arm_features(self._view, x, p_right, arrays))
            self._p_next |= dict(zip(new, np.stack(found, axis=-1), strict=True))

    def _kappa(self, attempts: Attempts, best: int, arm: str) -> float:
        """P(the arm repeats the best-supported result | both are wrong): the mean over those who say it."""
        said = [self._places[one.arm] for one in attempts if one.result == best and one.arm in self._places]
        row = self._view.kappa[self._places[arm]]
        return float(sum(row[place] for place in said) / len(said)) if said else self._view.kind.kappa

    def _worked_out(self, attempts: Attempts, key: Key, arm: str) -> list[tuple[float, Attempt]]:
        """As docs/method.md, section 10: P(agrees with the best) = q * p1 + (1 - q) * (1 - p0) * kappa; the rest is
        split between another known result and a new one in proportion to their support; each at the arm's levels of
        confidence."""
        its = self._at[self._places[arm]]
        found: list[tuple[float, Attempt]] = []
        some = 1.0 - its.no_result
        p_results = self._p_right[key]
        if not p_results:
            found += _levelled(arm, 0, some * its.accuracy, some * (1 - its.accuracy), its.levels)
        else:
            best = max(range(len(p_results)), key=lambda number: p_results[number])
            q = p_results[best]
            if key not in self._p_next:
                self._predict({key: attempts})
            p1, p0 = map(float, self._p_next[key][self._places[arm]])
            kappa = self._kappa(attempts, best, arm)
            found += _levelled(arm, best, some * q * p1, some * (1 - q) * (1 - p0) * kappa, its.levels)
            right, wrong = some * (1 - q) * p0, some * (q * (1 - p1) + (1 - q) * (1 - p0) * (1 - kappa))
            none = max(1.0 - sum(p_results), 1e-9)
            known = sum(p_results) - q
            for number, p in enumerate(p_results):
                if number != best:
                    share = p / (known + none)
                    found += _levelled(arm, number, share * right, share * wrong, its.levels)
            share = none / (known + none)
            found += _levelled(arm, len(p_results), share * right, share * wrong, its.levels)
        if its.no_result:
            found.append((its.no_result, Attempt(arm, None)))
        kept = [one for one in found if one[0] >= LEAST] or found
        total = sum(probability for probability, _ in kept)
        return [(probability / total, attempt) for probability, attempt in kept]


def _levelled(
    arm: str, result: int, right: float, wrong: float, levels: Sequence[Level]
) -> list[tuple[float, Attempt]]:
    """The outcome at each level of confidence, from the probability that it comes and is right, and comes and is
    wrong."""
    if not levels:
        return [(right + wrong, Attempt(arm, result))]
    return [(right * one.if_right + wrong * one.if_wrong, Attempt(arm, result, one.typical)) for one in levels]


def key_of(attempts: Attempts) -> Key:
    """Equal for attempts that differ in their order alone, results numbered alike."""
    return tuple(sorted((one.arm, one.result, one.confidence, one.output_tokens) for one in attempts))
