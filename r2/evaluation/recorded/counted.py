"""The counted rule on recorded answers: whom to ask next and when to stop, worked out exactly over at most four arms.

For each kind of question (its benchmark) the beliefs are counted on the checked rows (r2/answering/counts.py), and the
value of every state is worked out by an exact dynamic programme, for all prices of being right at once. Its knob is v,
USD per right answer, as a multiple of `cost_ref`. After docs/method.md, section 10; ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from r2.answering.counts import CountedBeliefs, State
from r2.evaluation.outcomes import FloatArray
from r2.evaluation.recorded.method import VALUES, TableMethod, TablePolicy, cost_ref_of
from r2.evaluation.recorded.table import OutcomeTable, Question

COUNTED = "counted"
MAX_ASKED = 4
"""Arms asked about one question, at most."""
MAX_ARMS = 7
WORST_ARM = 0.2
"""An arm may be less accurate than the best one by so much (ours). Cheaper ones gain nothing as a second opinion."""
LEAST_QUESTIONS = 40
"""A benchmark with fewer checked questions is counted together with all others."""
LEAST_PROBABILITY = 1e-4
"""Outcomes less probable are not looked into: the best known result is accepted there."""


class CountedPlan:
    """The best action in every state of one kind of question, for each of the prices `v_usd`."""

    def __init__(self, beliefs: CountedBeliefs, v_usd: Sequence[float], max_asked: int = MAX_ASKED) -> None:
        self._beliefs = beliefs
        self._v_usd = np.asarray(v_usd, np.float64)
        self._max_asked = max_asked
        self._costs = [beliefs.cost_usd(arm, ()) for arm in beliefs.arms]
        self._known: dict[State, tuple[FloatArray, list[int]]] = {}

    def ask_next(self, state: State, setting: int) -> int | None:
        """The place of the arm to ask in this state at the price of this number; None: accept. Without a result some
        arm is always asked, as long as one is left."""
        place = self._solved(state)[1][setting]
        return None if place < 0 else place

    def _solved(self, state: State) -> tuple[FloatArray, list[int]]:
        """(value, place of the arm to ask or -1) at each price."""
        known = self._known.get(state)
        if known is not None:
            return known
        shares = self._beliefs.p_right_in(state)
        has_result = bool(shares)
        best = self._v_usd * max(shares, default=0.0)
        action = np.full(len(self._v_usd), -1)
        if not has_result:
            best = np.full(len(self._v_usd), -np.inf)
        if len(state) < self._max_asked:
            asked = {place for place, _ in state}
            for place in range(len(self._costs)):
                if place not in asked:
                    value = self._asking(state, place)
                    is_better = value > best
                    action = np.where(is_better, place, action)
                    best = np.where(is_better, value, best)
        best = np.where(np.isfinite(best), best, 0.0)
        self._known[state] = found = (best, action.tolist())
        return found

    def _asking(self, state: State, place: int) -> FloatArray:
        total = np.full(len(self._v_usd), -self._costs[place])
        for outcome, share in enumerate(self._beliefs.outcome_shares(state, place)):
            after = self._beliefs.after(state, place, outcome)
            if share >= LEAST_PROBABILITY:
                total += share * self._solved(after)[0]
        return total


def counted() -> TableMethod:
    """The counted rule, whose v is chosen by cross-fitting."""
    return TableMethod(COUNTED, "counted", fit_counted, inner_folds=5, needs="results")


def fit_counted(table: OutcomeTable) -> TablePolicy:
    """Counts on the table's rows, for each benchmark, over the arms that `arms_of` chooses."""
    replies = table.replies
    assert replies is not None, "the method is left out where there are none"
    arms = arms_of(table)
    of_arms = table.of_models(arms)
    v_usd = [value * cost_ref_of(table) for value in VALUES]
    groups = np.array(table.benchmarks)
    plans = {
        group: _plan(of_arms.part(np.flatnonzero(groups == group)), v_usd)
        for group in dict.fromkeys(table.benchmarks)
        if (groups == group).sum() >= LEAST_QUESTIONS
    }
    return _Counted(tuple(f"v = {value:g}" for value in VALUES), arms, plans, _plan(of_arms, v_usd))


def arms_of(table: OutcomeTable, most: int = MAX_ARMS) -> tuple[str, ...]:
    """The arms that are worth counting, cheapest first: those that no cheaper one beats in accuracy, then those that
    only these beat, and so on, until there are `most`; of the last front the most accurate."""
    accuracy, cost = table.is_correct_MP.mean(axis=1), table.cost_usd_MP.mean(axis=1)
    left = [i for i in range(len(accuracy)) if accuracy[i] >= accuracy.max() - WORST_ARM]
    kept: list[int] = []
    while left and len(kept) < most:
        front = [i for i in left if not any(_beats(accuracy, cost, j, i) for j in left)]
        kept += sorted(front, key=lambda i: (-accuracy[i], table.models[i]))[: most - len(kept)]
        left = [i for i in left if i not in front]
    return tuple(table.models[i] for i in sorted(kept, key=lambda i: (cost[i], table.models[i])))


def _beats(accuracy: FloatArray, cost: FloatArray, one: int, other: int) -> bool:
    is_no_worse = cost[one] <= cost[other] and accuracy[one] >= accuracy[other]
    return bool(is_no_worse and (cost[one] < cost[other] or accuracy[one] > accuracy[other]))


def _plan(table: OutcomeTable, v_usd: Sequence[float]) -> tuple[CountedBeliefs, CountedPlan]:
    replies = table.replies
    assert replies is not None, "the method is left out where there are none"
    beliefs = CountedBeliefs(
        table.models, replies.results.tolist(), table.is_correct_MP.tolist(), table.cost_usd_MP.tolist()
    )
    return beliefs, CountedPlan(beliefs, v_usd)


@dataclass(frozen=True, slots=True)
class _Counted:
    settings: Sequence[str]
    arms: tuple[str, ...]
    plans: dict[str, tuple[CountedBeliefs, CountedPlan]]
    otherwise: tuple[CountedBeliefs, CountedPlan]

    def play(self, question: Question, setting: int) -> str:
        beliefs, plan = self.plans.get(question.problem.benchmark or "all", self.otherwise)
        state: State = ()
        while (place := plan.ask_next(state, setting)) is not None:
            question.ask(self.arms[place])
            state = beliefs.state_of(question.attempts)
        shares = beliefs.p_right_in(state)
        if not shares:
            return question.attempts[0].arm
        best = max(range(len(shares)), key=lambda number: shares[number])
        return self.arms[next(place for place, number in state if number == best)]
