"""The arms' profiles, counted on trials."""

import numpy as np

from r2.answering.scorer import OTHER, SUREST, ArmProfile, FloatArray, KindProfile, Level, logit
from r2.training.scorer.trials import Trials

SHRINKAGE = 4.0
"""Rows that the arm's accuracy over all kinds counts for at one kind, and one half over all kinds."""
LEAST_ROWS = 8
"""Of a kind, for a profile of its own."""
N_LEVELS = 3
LEVEL_ROWS = 8.0
"""Rows that the shares of all arms count for in one arm's shares of its levels."""
LEAST_SD = 0.05


def arm_profiles(trials: Trials) -> dict[str, ArmProfile]:
    """Every arm's profile at every kind with `LEAST_ROWS` of its rows, and over all of them."""
    kinds = np.array(trials.kinds)
    shares = _level_shares(trials)
    found = {}
    for row, arm in enumerate(trials.arms):
        is_tried = ~np.isnan(trials.right_AU[row])
        overall = _profile(trials, row, is_tried, 0.5, shares)
        by_kind = {OTHER: overall}
        for kind in dict.fromkeys(trials.kinds):
            at = is_tried & (kinds == kind)
            if at.sum() >= LEAST_ROWS:
                by_kind[kind] = _profile(trials, row, at, overall.accuracy, shares)
        found[arm] = ArmProfile(by_kind, trials.weights.get(arm, ""), trials.prices.get(arm))
    return found


def _profile(trials: Trials, row: int, at: np.ndarray, mean: float, shares: FloatArray) -> KindProfile:
    right = trials.right_AU[row, at]
    costs = trials.cost_usd_AU[row, at]
    lengths = np.log1p(_known(trials.tokens_AU[row, at]))
    confidence = trials.confidence_AU[row, at]
    sure = np.array([logit(one, SUREST) for one in _known(confidence)])
    return KindProfile(
        n=int(at.sum()),
        accuracy=float((right.sum() + SHRINKAGE * mean) / (at.sum() + SHRINKAGE)),
        cost_usd=float(np.nanmean(costs)) if not np.isnan(costs).all() else 0.0,
        log_tokens=float(lengths.mean()) if lengths.size else 0.0,
        log_tokens_sd=float(lengths.std() + LEAST_SD) if lengths.size else 1.0,
        no_result=float((trials.results_AU[row, at] < 0).sum() / (at.sum() + SHRINKAGE)),
        confidence=float(sure.mean()) if sure.size else 0.0,
        confidence_sd=float(sure.std() + LEAST_SD) if sure.size else 1.0,
        levels=_levels(confidence, right, shares),
    )


def _known(values: FloatArray) -> FloatArray:
    return values[~np.isnan(values)]


def _edges(confidence: FloatArray) -> FloatArray:
    return np.quantile(confidence, np.arange(1, N_LEVELS) / N_LEVELS)


def _counts(confidence: FloatArray, right: FloatArray) -> FloatArray:
    """Levels x (right, wrong): how many of each are in each third of these confidences."""
    level = np.searchsorted(_edges(confidence), confidence, side="right")
    return np.array([[right[level == n].sum(), (1 - right[level == n]).sum()] for n in range(N_LEVELS)])


def _level_shares(trials: Trials) -> FloatArray:
    """The same over all arms and kinds, as shares of right and of wrong results."""
    total = np.ones((N_LEVELS, 2))
    kinds = np.array(trials.kinds)
    for row in range(len(trials.arms)):
        for kind in dict.fromkeys(trials.kinds):
            at = ~np.isnan(trials.right_AU[row]) & ~np.isnan(trials.confidence_AU[row]) & (kinds == kind)
            if at.sum() >= LEAST_ROWS:
                total += _counts(trials.confidence_AU[row, at], trials.right_AU[row, at])
    return np.asarray(total / total.sum(axis=0))


def _levels(confidence: FloatArray, right: FloatArray, shares: FloatArray) -> tuple[Level, ...]:
    at = ~np.isnan(confidence)
    if at.sum() < LEAST_ROWS:
        return ()
    confidence, right = confidence[at], right[at]
    edges = _edges(confidence)
    level = np.searchsorted(edges, confidence, side="right")
    counted = _counts(confidence, right) + LEVEL_ROWS * shares
    counted = counted / counted.sum(axis=0)
    return tuple(
        Level(
            0.0 if n == 0 else float(edges[n - 1]),
            float(np.median(confidence[level == n])),
            float(counted[n, 0]),
            float(counted[n, 1]),
        )
        for n in range(N_LEVELS)
        if (level == n).any()
    )
