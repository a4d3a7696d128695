"""The rule of r2/answering/lookahead.py worked out for one question at many prices of a right answer at once: what
comparisons and fine-tuning on recorded answers need."""

import numpy as np

from r2.answering.attempts import Attempts
from r2.answering.lookahead import HORIZON, MAX_ARMS, Candidate, on_outer_fronts
from r2.answering.scored import ScoredBeliefs, key_of
from r2.answering.scorer import FloatArray

MAX_ASKED = 4
"""Arms asked about one question, at most."""


class ScoredPlan:
    """The best action after any attempts about one question, at each of the prices `v_usd`."""

    def __init__(self, beliefs: ScoredBeliefs, v_usd: FloatArray, middle_usd: float) -> None:
        self._beliefs, self._v_usd = beliefs, v_usd
        costs = {arm: beliefs.cost_usd(arm, ()) for arm in beliefs.arms}
        single = {arm: _expected_right(beliefs, arm) for arm in beliefs.arms}
        able = [Candidate(arm, costs[arm], single[arm], None, None, None) for arm in beliefs.arms]
        able.sort(key=lambda one: (one.cost_usd - middle_usd * one.p_right, one.cost_usd, one.arm))
        self._arms = [one.arm for one in on_outer_fronts(able, MAX_ARMS)]
        self._costs, self._single = costs, single
        self._known: dict[tuple[int, object], tuple[FloatArray, list[str | None]]] = {}

    @property
    def beliefs(self) -> ScoredBeliefs:
        return self._beliefs

    def ask_next(self, attempts: Attempts, setting: int) -> str | None:
        """Whom to ask at the price of this number; None: accept. Without a result somebody is asked."""
        return self._solved(attempts, HORIZON)[1][setting]

    def alone(self, arm: str) -> float:
        """P(the arm's own result is right), before anybody was asked."""
        return self._single[arm]

    def action_values(self, attempts: Attempts) -> dict[str | None, FloatArray]:
        """Every action that there is now, None for accepting, with its value in USD at each of the prices."""
        self._solved(attempts, HORIZON)
        p_results = self._beliefs.p_right(attempts)
        asked = {one.arm for one in attempts}
        open_arms = [arm for arm in self._arms if arm not in asked] if len(attempts) < MAX_ASKED else []
        found: dict[str | None, FloatArray] = {arm: self._asking(attempts, arm, HORIZON) for arm in open_arms}
        if p_results or not open_arms:
            found[None] = self._v_usd * max(p_results, default=0.0)
        return found

    def _asking(self, attempts: Attempts, arm: str, horizon: int) -> FloatArray:
        value = np.full(len(self._v_usd), -self._costs[arm])
        for probability, attempt in self._beliefs.outcomes(attempts, arm):
            value += probability * self._solved((*attempts, attempt), horizon - 1)[0]
        return value

    def accepted(self, attempts: Attempts) -> str:
        """The arm whose result is accepted: the first that said the best-supported one; the last asked where nobody
        gave any."""
        p_results = self._beliefs.p_right(attempts)
        if not p_results:
            return attempts[-1].arm
        best = max(range(len(p_results)), key=lambda number: p_results[number])
        return next(one.arm for one in attempts if one.result == best)

    def _solved(self, attempts: Attempts, horizon: int) -> tuple[FloatArray, list[str | None]]:
        key = (horizon, key_of(attempts))
        if key in self._known:
            return self._known[key]
        if horizon == HORIZON:
            self._beliefs.foresee(attempts, self._arms, min(HORIZON, MAX_ASKED - len(attempts)))
        p_results = self._beliefs.p_right(attempts)
        has_result = bool(p_results)
        best = (
            self._v_usd * max(p_results) if has_result else np.full(len(self._v_usd), -np.inf if not attempts else 0.0)
        )
        chosen: list[str | None] = [None] * len(self._v_usd)
        if horizon and len(attempts) < MAX_ASKED:
            asked = {one.arm for one in attempts}
            for arm in self._arms:
                if arm in asked:
                    continue
                value = self._asking(attempts, arm, horizon)
                is_better = value > best
                if is_better.any():
                    best = np.where(is_better, value, best)
                    chosen = [arm if better else old for better, old in zip(is_better.tolist(), chosen, strict=True)]
        self._known[key] = (best, chosen)
        return best, chosen


def _expected_right(beliefs: ScoredBeliefs, arm: str) -> float:
    return sum(
        probability * beliefs.p_right((attempt,))[attempt.result]
        for probability, attempt in beliefs.outcomes((), arm)
        if attempt.result is not None
    )
