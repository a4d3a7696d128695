"""The trained scorer as a method on recorded answers (r2/evaluation/recorded/): fitted on the table's rows, and played
by the rule of sequential routing at all prices of a right answer at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from r2.answering.attempts import Attempts
from r2.answering.lookahead import HORIZON, MAX_ARMS, Candidate, on_outer_fronts
from r2.answering.scored import ScoredBeliefs, key_of
from r2.answering.scorer import FloatArray, Scorer
from r2.evaluation.recorded.method import VALUES, TableMethod, cost_ref_of
from r2.evaluation.recorded.table import OutcomeTable, Question
from r2.training.scorer.fit import fit_scorer
from r2.training.scorer.trials import Trials

SCORER = "scorer"
MAX_ASKED = 4
N_INNER = 4
MIDDLE = 13.0
"""The price, in multiples of `cost_ref`, at which arms are chosen that the plan looks ahead with."""


class ScoredPlan:
    """The best action after any attempts about one question, at each of the prices `v_usd`."""

    def __init__(self, beliefs: ScoredBeliefs, v_usd: FloatArray, middle_usd: float) -> None:
        self._beliefs, self._v_usd = beliefs, v_usd
        costs = {arm: beliefs.cost_usd(arm, ()) for arm in beliefs.arms}
        single = {arm: _expected_right(beliefs, arm) for arm in beliefs.arms}
        able = [Candidate(arm, costs[arm], single[arm], None, None, None) for arm in beliefs.arms]
        able.sort(key=lambda one: (one.cost_usd - middle_usd * one.p_right, one.cost_usd, one.arm))
        self._arms = [one.arm for one in on_outer_fronts(able, MAX_ARMS)]
        self._costs = costs
        self._known: dict[tuple[int, object], tuple[FloatArray, list[str | None]]] = {}

    def ask_next(self, attempts: Attempts, setting: int) -> str | None:
        """Whom to ask at the price of this number; None: accept. Without a result somebody is asked."""
        return self._solved(attempts, HORIZON)[1][setting]

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
                value = np.full(len(self._v_usd), -self._costs[arm])
                for probability, attempt in self._beliefs.outcomes(attempts, arm):
                    value += probability * self._solved((*attempts, attempt), horizon - 1)[0]
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


@dataclass(slots=True)
class _Played:
    """`settings`: prices in multiples of `cost_ref`. The plan of the question that is being played is kept, since all
    settings of one question come one after the other."""

    scorer: Scorer
    cost_ref_usd: float
    settings: Sequence[str] = tuple(f"v = {value:g}" for value in VALUES)
    plans: dict[str, ScoredPlan] = field(default_factory=dict)

    def play(self, question: Question, setting: int) -> str:
        problem = question.problem
        plan = self.plans.get(problem.problem_id)
        if plan is None:
            profiles = {arm: self.scorer.arms[arm] for arm in question.models if arm in self.scorer.arms}
            beliefs = ScoredBeliefs(self.scorer, problem, problem.benchmark or "all", profiles)
            v_usd = np.array(VALUES) * self.cost_ref_usd
            plan = ScoredPlan(beliefs, v_usd, MIDDLE * self.cost_ref_usd)
            self.plans = {problem.problem_id: plan}
        while (arm := plan.ask_next(question.attempts, setting)) is not None:
            question.ask(arm)
        return plan.accepted(question.attempts)


def _fit(table: OutcomeTable) -> _Played:
    return _Played(fit_scorer(trials_of(table))[0], cost_ref_of(table))


def scorer_method() -> TableMethod:
    """The scorer, untuned but for its price of a right answer."""
    return TableMethod(SCORER, "learned", _fit, inner_folds=N_INNER)


def trials_of(table: OutcomeTable) -> Trials:
    """A table of recorded answers as trials. Without replies every answer is a result of its own."""
    shape = table.is_correct_MP.shape
    unknown = np.full(shape, np.nan)
    alone = np.repeat(np.arange(shape[0])[:, None], shape[1], axis=1)
    return Trials(
        table.models,
        table.problems,
        table.benchmarks,
        table.is_correct_MP,
        table.cost_usd_MP,
        unknown if table.output_tokens_MP is None else table.output_tokens_MP,
        unknown if table.confidence_MP is None else table.confidence_MP,
        alone if table.replies is None else table.replies.results,
    )
