"""The query router of an evaluation, fitted on what each model answered to the dev problems; and its operating points,
without a call.

A threshold that is tried on the very problems the router was fitted on looks better than it is. So for choosing one,
each part of the dev problems is routed by a router that was fitted on the others; what the picked model answered is
known. The router that is kept, and asked on test problems, is fitted on all of them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from r2.answering.query_router import QueryRouter, pick
from r2.atomic import write_atomically
from r2.evaluation.outcomes import MethodOutcomes
from r2.problem import Problem
from storage.evaluations.store import DevRun
from tasks.evaluation.plan_evaluation import PlannedEvaluation

N_PARTS = 4
"""Parts of the dev problems for choosing the threshold."""


@dataclass(frozen=True, slots=True)
class FittedRouter:
    """The artefact, each dev problem's probabilities by a router that had not seen it, and what
    every model answered."""

    path: Path
    p_right: tuple[dict[str, float], ...]
    outcomes: Mapping[str, MethodOutcomes]

    def point(self, threshold: float) -> DevRun:
        """How routing the dev problems at this threshold does."""
        picked = [pick(probabilities, threshold) for probabilities in self.p_right]
        right = [self.outcomes[model].is_correct[i] for i, model in enumerate(picked)]
        cost_usd = [self.outcomes[model].cost_usd[i] for i, model in enumerate(picked)]
        return DevRun(threshold, "", float(np.mean(right)), float(np.mean(cost_usd)))


@task(name="fit-query-router", cache_policy=NO_CACHE, persist_result=False)
def fit_router(
    planned: PlannedEvaluation, asked: Mapping[str, DevRun | None], dev_outcomes: Mapping[str, MethodOutcomes]
) -> FittedRouter | None:
    """Fits and stores it. `asked` is each model's run over the dev problems; None if one of them is not finished."""
    outcomes = {model: dev_outcomes[point.run_id] for model, point in asked.items() if point is not None}
    if len(outcomes) < len(asked):
        return None
    problems = planned.problems.dev
    folder = planned.dev_file.parent
    content = _fit(problems, outcomes, range(len(problems))).to_json().encode()
    path = folder / f"query_router-{hashlib.sha256(content).hexdigest()[:12]}.json"
    write_atomically(path, content)
    p_right: list[dict[str, float]] = [{}] * len(problems)
    for part in range(min(N_PARTS, len(problems))):
        others = [i for i in range(len(problems)) if i % N_PARTS != part]
        router = _fit(problems, outcomes, others or [part])
        for i in range(part, len(problems), N_PARTS):
            p_right[i] = router.p_right(problems[i])
    return FittedRouter(path, tuple(p_right), outcomes)


def _fit(problems: Sequence[Problem], outcomes: Mapping[str, MethodOutcomes], among: Sequence[int]) -> QueryRouter:
    # Here and not above: scikit-learn takes seconds to import, and an evaluation without a query router need not have
    # it.
    from r2.training.fit_query_router import fit_query_router

    right = {model: [bool(one.is_correct[i] > 0.5) for i in among] for model, one in outcomes.items()}
    costs_usd = {model: [float(one.cost_usd[i]) for i in among] for model, one in outcomes.items()}
    return fit_query_router([problems[i] for i in among], right, costs_usd)
