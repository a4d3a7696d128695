"""Fitting the learned query-level router: per pool model a logistic regression on the question's features, then its
calibration.

Whoever has asked every model the same questions (an evaluation's dev problems, a recorded outcome table) hands over who
was right and what it cost. Strength of regularisation and calibration (Platt's sigmoid) are both fitted on scores of
questions the weights had not seen, by cross-validation. The result is a value; writing its JSON is the caller's.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from r2.answering.query_router import ModelCurve, QueryRouter, features, known_indices, make_query_router
from r2.errors import ConfigError
from r2.problem import Problem

STRENGTHS = (0.3, 3.0, 30.0)
"""Inverse strengths of L2 regularisation that are tried (scikit-learn's C)."""
N_FOLDS = 5
CALIBRATION_STRENGTH = 1e3
"""For the two parameters of the calibration: almost no regularisation."""


def fit_query_router(
    questions: Sequence[Problem],
    outcomes: Mapping[str, Sequence[bool]],
    costs_usd: Mapping[str, Sequence[float]],
    *,
    seed: int = 0,
) -> QueryRouter:
    """A router over the models of `outcomes`: model -> whether it was right, and in `costs_usd` what it cost, in the
    order of `questions`.

    A model that was right, or wrong, fewer than `N_FOLDS` times gives nothing to tell questions apart by: it gets its
    rate of being right, (right + 1) / (questions + 2), for every question; so does one whose scores do not rise with
    being right. `seed` is that of the folds. Raises ConfigError where there are no questions or models, or where they
    do not fit together.
    """
    if not questions or not outcomes:
        raise ConfigError(f"a query router cannot be fitted to {len(questions)} questions and {len(outcomes)} models")
    for model, were_right in outcomes.items():
        n_costs = len(costs_usd.get(model, ()))
        if not len(were_right) == n_costs == len(questions):
            raise ConfigError(
                f"{model}: {len(were_right)} outcomes and {n_costs} costs for {len(questions)} questions; every "
                "model needs one of each "
                "per question"
            )
    rows = _matrix(questions)
    curves = {
        model: _curve(rows, np.array(were_right, dtype=bool), float(np.mean(costs_usd[model])), seed)
        for model, were_right in outcomes.items()
    }
    return make_query_router(curves, len(questions))


def _matrix(questions: Sequence[Problem]) -> csr_matrix:
    found = [features(question) for question in questions]
    starts = np.cumsum([0, *map(len, found)])
    indices = np.array([index for one in found for index in one])
    values = np.array([value for one in found for value in one.values()])
    shape = (len(questions), len(known_indices()))
    return csr_matrix((values, indices, starts), shape=shape)  # type: ignore[no-untyped-call, unused-ignore]


def _curve(rows: csr_matrix, is_right: NDArray[np.bool_], cost_usd: float, seed: int) -> ModelCurve:
    n_right, n = int(is_right.sum()), len(is_right)
    rate = (n_right + 1) / (n + 2)
    constant = ModelCurve({}, float(np.log(rate / (1 - rate))), 1.0, 0.0, cost_usd)
    if min(n_right, n - n_right) < N_FOLDS:
        return constant
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed)  # type: ignore[no-untyped-call, unused-ignore]
    unseen = [
        cross_val_predict(_regression(strength), rows, is_right, cv=folds, method="decision_function")
        for strength in STRENGTHS
    ]
    calibrations = [_regression(CALIBRATION_STRENGTH).fit(scores[:, None], is_right) for scores in unseen]
    losses = [
        log_loss(is_right, calibration.predict_proba(scores[:, None])[:, 1])
        for calibration, scores in zip(calibrations, unseen, strict=True)
    ]
    best = int(np.argmin(losses))
    slope, offset = float(calibrations[best].coef_[0, 0]), float(calibrations[best].intercept_[0])
    if slope <= 0:
        return constant
    fitted = _regression(STRENGTHS[best]).fit(rows, is_right)
    weights = {index: float(weight) for index, weight in enumerate(fitted.coef_[0]) if weight}
    return ModelCurve(weights, float(fitted.intercept_[0]), slope, offset, cost_usd)


def _regression(strength: float) -> LogisticRegression:
    """liblinear: several times as fast as the default solver on so few rows; its intercept is regularised, little at
    this scaling."""
    return LogisticRegression(  # type: ignore[no-untyped-call, unused-ignore]
        C=strength, solver="liblinear", intercept_scaling=10.0, max_iter=2000, random_state=0
    )
