"""How hard a text is, by kind: a ridge regression on hashed features of the share of arms that are right, each held
against its own accuracy at the kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import Ridge

from r2.answering.query_router import features, known_indices
from r2.answering.scorer import FARTHEST, OTHER, FloatArray, IntArray
from r2.training.scorer.trials import Trials

STRENGTH = 0.3
"""Of the ridge's penalty. Chosen on recorded answers of hosted models (docs/results.md)."""
LEAST_ROWS = 40
"""Of a kind, for weights of its own; fewer share those of all kinds."""
N_FOLDS = 5


@dataclass(frozen=True, slots=True)
class TextModel:
    """Weights by kind, with the mean and the standard deviation of the scores that rows had from models that had not
    seen them; and these scores, standardised, of the rows trained on."""

    weights: Mapping[str, Mapping[int, float]]
    mean: Mapping[str, float]
    sd: Mapping[str, float]
    unseen: FloatArray


def fit_text(trials: Trials, profiles_accuracy_AU: FloatArray, seed: int = 0) -> TextModel:
    """`profiles_accuracy_AU`: each arm's accuracy at each unit's kind."""
    rows = [features(replace(p, benchmark=k)) for p, k in zip(trials.problems, trials.kinds, strict=True)]
    matrix = _matrix(rows)
    target = np.nanmean(trials.right_AU - profiles_accuracy_AU, axis=0)
    kinds = np.array(trials.kinds)
    rng = np.random.default_rng(seed)
    fold = rng.permutation(trials.n_units) % N_FOLDS
    weights: dict[str, Mapping[int, float]] = {}
    mean: dict[str, float] = {}
    sd: dict[str, float] = {}
    unseen = np.zeros(trials.n_units)
    own = [kind for kind in dict.fromkeys(trials.kinds) if (kinds == kind).sum() >= LEAST_ROWS]
    rest = ~np.isin(kinds, own)
    for kind in [*own, OTHER]:
        among = np.flatnonzero(kinds == kind) if kind else np.arange(trials.n_units)
        filled = among if kind else np.flatnonzero(rest)
        if len(among) < 2 * N_FOLDS:
            weights[kind], mean[kind], sd[kind] = {}, 0.0, 1.0
            continue
        scores = np.zeros(trials.n_units)
        for n in range(N_FOLDS):
            fit_on, at = among[fold[among] != n], among[fold[among] == n]
            if len(at) and len(fit_on):
                scores[at] = _scores(_ridge(matrix, target, fit_on), matrix[at])
        its = _ridge(matrix, target, among)
        weights[kind] = {index: float(w) for index, w in enumerate(its.coef_) if abs(w) > 1e-7}
        mean[kind] = float(scores[among].mean() - its.intercept_)
        sd[kind] = float(scores[among].std() + 1e-6)
        unseen[filled] = ((scores[filled] - scores[among].mean()) / sd[kind]).clip(-FARTHEST, FARTHEST)
    return TextModel(weights, mean, sd, unseen)


def _ridge(matrix: csr_matrix, target: FloatArray, at: IntArray) -> Any:
    return Ridge(STRENGTH).fit(matrix[at], target[at])  # type: ignore[no-untyped-call, unused-ignore]


def _scores(ridge: Any, matrix: csr_matrix) -> FloatArray:
    return np.asarray(ridge.predict(matrix), np.float64)


def _matrix(rows: Sequence[Mapping[int, float]]) -> csr_matrix:
    starts = np.cumsum([0, *map(len, rows)])
    indices = np.array([index for one in rows for index in one])
    values = np.array([value for one in rows for value in one.values()])
    shape = (len(rows), len(known_indices()))
    return csr_matrix((values, indices, starts), shape=shape)  # type: ignore[no-untyped-call, unused-ignore]
