"""The trained scorer as a method on recorded answers (r2/evaluation/recorded/): fitted on the table's rows, and played
by the rule of sequential routing at all prices of a right answer at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from r2.answering.scorer import Scorer
from r2.evaluation.recorded.method import VALUES, TableMethod, cost_ref_of
from r2.evaluation.recorded.table import OutcomeTable, Question
from r2.problem import Problem
from r2.training.scorer.fit import fit_scorer
from r2.training.scorer.plan import KindPlans, ScoredPlan
from r2.training.scorer.trials import Trials

SCORER = "scorer"
N_INNER = 4
PRICE_ERROR = 0.01
MIDDLE = 13.0
"""The price, in multiples of `cost_ref`, at which arms are chosen that the plan looks ahead with."""


@dataclass(slots=True)
class ScorerPolicy:
    """`settings`: prices in multiples of `cost_ref`. `plans`: by kind. The plan of the question that is being played is
    kept, since all settings of one question come one after the other."""

    scorer: Scorer
    cost_ref_usd: float
    settings: Sequence[str] = tuple(f"v = {value:g}" for value in VALUES)
    plans: dict[tuple[str, tuple[str, ...]], KindPlans] = field(default_factory=dict)
    _playing: tuple[Problem, ScoredPlan] | None = None

    def plans_of(self, kind: str, models: tuple[str, ...]) -> KindPlans:
        """How questions of this kind are planned where these models can be asked, made once."""
        if (kind, models) not in self.plans:
            known = [arm for arm in models if arm in self.scorer.arms]
            profiles = {arm: self.scorer.arms[arm] for arm in self.scorer.shortlist(kind, known)}
            v_usd = np.array(VALUES) * self.cost_ref_usd
            self.plans[kind, models] = KindPlans(self.scorer, kind, profiles, v_usd, MIDDLE * self.cost_ref_usd)
        return self.plans[kind, models]

    def plan_of(self, question: Question) -> ScoredPlan:
        """The plan of this question, made once."""
        problem = question.problem
        if self._playing is None or self._playing[0] != problem:
            plans = self.plans_of(problem.benchmark or "all", question.models)
            self._playing = problem, ScoredPlan(plans, problem)
        return self._playing[1]

    def play(self, question: Question, setting: int) -> str:
        plan = self.plan_of(question)
        while (arm := self._next(plan, question, setting)) is not None:
            question.ask(arm)
        return plan.accepted(question.attempts)

    def _next(self, plan: ScoredPlan, question: Question, setting: int) -> str | None:
        if not self.scorer.choice:
            return plan.ask_next(question.attempts, setting)
        return plan.ask_tuned(question.attempts, setting, self.scorer.choice)


def fit_policy(table: OutcomeTable, seed: int = 0) -> ScorerPolicy:
    """A scorer fitted on the table's rows."""
    return ScorerPolicy(fit_scorer(trials_of(table), seed=seed)[0], cost_ref_of(table))


def scorer_method(seed: int = 0) -> TableMethod:
    """The scorer, untuned but for its price of a right answer."""
    return TableMethod(SCORER, "learned", partial(fit_policy, seed=seed), inner_folds=N_INNER)


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
        prices=prices_of(table),
    )


def prices_of(table: OutcomeTable) -> dict[str, tuple[float, float]]:
    """Each model's USD per million tokens in and out, as its costs and tokens say: where one pair of prices explains
    every cost within `PRICE_ERROR`. Empty for a table without tokens."""
    if table.input_tokens_MP is None or table.output_tokens_MP is None:
        return {}
    found = {}
    for row, model in enumerate(table.models):
        tokens = np.stack([table.input_tokens_MP[row], table.output_tokens_MP[row]], axis=1)
        costs = table.cost_usd_MP[row]
        known = ~np.isnan(tokens).any(axis=1) & (costs > 0)
        if known.sum() < 2:
            continue
        price, *_ = np.linalg.lstsq(tokens[known] / 1e6, costs[known], rcond=None)
        error = np.abs(tokens[known] @ price / 1e6 / costs[known] - 1).max()
        if price.min() >= 0 and error <= PRICE_ERROR:
            found[model] = (float(price[0]), float(price[1]))
    return found
