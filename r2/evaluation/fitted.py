"""What an evaluation chooses from the dev problems' recorded answers, without a call: a model for each benchmark, the
order of a cascade, worked examples. Pure.

Every solver answered every dev problem in its own prompt mode, so what a rule or a cascade would have done there is
known. Many are looked at, and the point that `choose_point` takes looks better on dev problems than it is; the table is
made of test problems, which have no part in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from r2.evaluation.cascades import Cascade, agreement_cascades, confidence_cascades
from r2.evaluation.operating_points import OperatingPoint, choose_point
from r2.evaluation.outcomes import FloatArray
from r2.methods.record import Fitted
from r2.problem import Problem
from r2.problems.same_result import groups_of
from r2.settings import Example

COST_WEIGHTS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Accuracy that the dearest model's cost is worth: each is one rule by benchmark that is looked at."""


@dataclass(frozen=True, slots=True)
class DevAnswers:
    """What each model (a pool entry in its own prompt mode) answered to each dev problem; matrices are models x
    problems. `confidence_MP`: how sure each was, NaN where that is not known; None: nobody was asked for it."""

    models: tuple[str, ...]
    problems: tuple[Problem, ...]
    right_MP: FloatArray
    cost_usd_MP: FloatArray
    answers: tuple[tuple[str | None, ...], ...]
    confidence_MP: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class FittedPoint:
    """Settings, how they do on dev problems, and what they are in words."""

    fields: Mapping[str, Any]
    accuracy: float
    cost_usd: float
    said: str


@dataclass(frozen=True, slots=True)
class ChosenFit:
    """The settings that dev problems chose, and by which rule."""

    point: FittedPoint
    rule: str


def chosen_fit(
    kind: Fitted, answers: DevAnswers, line: Sequence[OperatingPoint], *, margin: float, cost_weight: float
) -> ChosenFit:
    """By the rule of every operating point (`choose_point`); `line` are the constants on the same problems."""
    points = _POINTS[kind](answers)
    at = [OperatingPoint(float(place), point.accuracy, point.cost_usd) for place, point in enumerate(points)]
    chosen = choose_point(at, line, margin=margin, cost_weight=cost_weight)
    point = points[round(chosen.value)]
    return ChosenFit(point, f"{point.said}: {chosen.rule}")


def rules_by_benchmark(answers: DevAnswers) -> list[FittedPoint]:
    """One rule for each weight of cost: every benchmark's model is the one of the highest accuracy - weight * cost /
    cost of the dearest model, of equals the cheaper."""
    names = [problem.benchmark for problem in answers.problems]
    dearest = float(answers.cost_usd_MP.mean(axis=1).max()) or 1.0
    every = np.arange(len(names))
    parts = {name: np.flatnonzero(np.array(names) == name) for name in dict.fromkeys(names)} | {"": every}
    found: dict[tuple[int, ...], FittedPoint] = {}
    for weight in COST_WEIGHTS:
        best = {name: _best(answers, at, weight / dearest) for name, at in parts.items()}
        key = tuple(best.values())
        if key in found:
            continue
        picked = np.array([best[name] for name in names])
        said = ", ".join(f"{name or 'all others'} to {answers.models[model]}" for name, model in best.items())
        found[key] = FittedPoint(
            {"by_benchmark": {name: answers.models[model] for name, model in best.items()}},
            float(answers.right_MP[picked, every].mean()),
            float(answers.cost_usd_MP[picked, every].mean()),
            said,
        )
    return list(found.values())


def agreement_points(answers: DevAnswers) -> list[FittedPoint]:
    """The agreement cascades on the frontier of accuracy and cost."""
    cascades = agreement_cascades(answers.right_MP, answers.cost_usd_MP, _numbers(answers))
    return [_cascade(answers, one) for one in cascades]


def confidence_points(answers: DevAnswers) -> list[FittedPoint]:
    """The confidence cascades on it; where nobody's confidence is known, the models alone."""
    sure = answers.confidence_MP
    sure = np.full(answers.right_MP.shape, np.nan) if sure is None else sure
    cascades = confidence_cascades(answers.right_MP, answers.cost_usd_MP, _numbers(answers), sure)
    return [_cascade(answers, one) for one in cascades]


def worked_examples(
    problems: Sequence[Problem], is_right: Sequence[bool], said: Mapping[str, tuple[str, str]], n_each: int
) -> tuple[Example, ...]:
    """For each benchmark the first `n_each` problems that were answered right; `said` has by problem_id what the model
    was asked and its reply."""
    n_taken: dict[str, int] = {}
    found = []
    for problem, right in zip(problems, is_right, strict=True):
        if not right or problem.problem_id not in said or n_taken.get(problem.benchmark, 0) >= n_each:
            continue
        n_taken[problem.benchmark] = n_taken.get(problem.benchmark, 0) + 1
        asked, reply = said[problem.problem_id]
        found.append(Example(benchmark=problem.benchmark, asked=asked, reply=reply))
    return tuple(found)


def _best(answers: DevAnswers, at: Any, weight: float) -> int:
    right, cost = answers.right_MP[:, at].mean(axis=1), answers.cost_usd_MP[:, at].mean(axis=1)
    return max(range(len(answers.models)), key=lambda model: (right[model] - weight * cost[model], -cost[model]))


def _numbers(answers: DevAnswers) -> Any:
    columns = [
        groups_of(problem, [texts[place] for texts in answers.answers])
        for place, problem in enumerate(answers.problems)
    ]
    return np.array(columns, np.int64).T


def _cascade(answers: DevAnswers, cascade: Cascade) -> FittedPoint:
    chain = tuple(answers.models[model] for model in cascade.order)
    fields: dict[str, Any] = {"chain": chain}
    said = " > ".join(chain)
    if cascade.threshold is not None:
        fields["threshold"] = cascade.threshold
        said += f" at {cascade.threshold:g}" if len(chain) > 1 else ""
    return FittedPoint(fields, cascade.accuracy, cascade.cost_usd, said)


_POINTS: Mapping[Fitted, Callable[[DevAnswers], list[FittedPoint]]] = {
    "benchmark": rules_by_benchmark,
    "agreement": agreement_points,
    "confidence": confidence_points,
}
