"""Pairs of arms, counted on trials: how telling it is that two agree, and who is right where they do not; and the arms
of a kind that are worth considering together.

Attempts are far from independent: two models of one family err alike (docs/method.md, section 10). So a pair's counts
are shrunk towards what would be so if they were independent, and not taken for it.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from r2.answering.scorer import OTHER, ArmProfile, Pair, independent
from r2.evaluation.cascades import agreement_cascades
from r2.training.scorer.trials import Trials

PAIR_ROWS = 8.0
"""Rows that independence counts for in a pair's shares."""
KAPPA_ROWS = 12.0
"""Rows that the kind's kappa counts for in a pair's."""
FEW = 4.0
"""Rows that the usual kappa counts for in a kind's."""
USUAL_KAPPA = 0.25
LEAST, MOST = 0.01, 0.99
LEAST_ROWS = 20
"""Of a kind, for a shortlist of its own."""
MOST_LISTED = 6
MOST_OWN = 4
"""Of them, arms that are listed for their use at the kind itself; the others for their use over all kinds."""
SLACK = 0.02
"""Cascades count that are at most so much less accurate than the best single arm."""
N_RESAMPLES = 10
"""Draws of the rows, with replacement, that cascades are sought on: one search alone finds arms that were lucky."""
MAX_LENGTH = 3


def count_pairs(
    trials: Trials, profiles: Mapping[str, ArmProfile], kind: str
) -> tuple[dict[str, dict[str, Pair]], float]:
    """(each pair of arms at this kind, the kind's kappa). `OTHER`: over all kinds."""
    at = _of_kind(trials, kind)
    right, results = trials.right_AU[:, at], trials.results_AU[:, at]
    n_arms = len(trials.arms)
    is_told = ~np.isnan(right) & (results >= 0)
    is_right = np.nan_to_num(right) >= 0.5
    counts = np.zeros((6, n_arms, n_arms))  # agree, agree and right, apart, apart and first right, both wrong, the same
    for row in range(n_arms):
        both = is_told[row] & is_told
        same = both & (results[row] == results)
        apart = both & ~same
        wrong = both & ~is_right[row] & ~is_right
        counts[:, row] = np.stack(
            [
                same.sum(axis=1),
                (same & is_right[row]).sum(axis=1),
                apart.sum(axis=1),
                (apart & is_right[row]).sum(axis=1),
                wrong.sum(axis=1),
                (wrong & same).sum(axis=1),
            ]
        )
    off = ~np.eye(n_arms, dtype=np.bool_)
    kappa = float((counts[5][off].sum() / 2 + FEW * USUAL_KAPPA) / (counts[4][off].sum() / 2 + FEW))
    kappa = min(MOST, max(LEAST, kappa))
    accuracy = [profiles[arm].at(kind).accuracy for arm in trials.arms]
    found: dict[str, dict[str, Pair]] = {arm: {} for arm in trials.arms}
    for i, one in enumerate(trials.arms):
        for j, other in enumerate(trials.arms):
            if i == j:
                continue
            its = float((counts[5, i, j] + KAPPA_ROWS * kappa) / (counts[4, i, j] + KAPPA_ROWS))
            prior = independent(accuracy[i], accuracy[j], its)
            found[one][other] = Pair(
                float((counts[1, i, j] + PAIR_ROWS * prior.agree) / (counts[0, i, j] + PAIR_ROWS)),
                float((counts[3, i, j] + PAIR_ROWS * prior.beats) / (counts[2, i, j] + PAIR_ROWS)),
                min(MOST, max(LEAST, its)),
            )
    return found, kappa


def shortlists_of(trials: Trials, kinds: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """For each of the kinds the arms of the best agreement cascades on resamples of the kind's rows, the most used
    first, and those of all rows; () where some arm was not asked everywhere, or there are few rows."""
    overall = _most_used(trials, OTHER)
    found = {}
    for kind in kinds:
        its = overall if kind == OTHER else _most_used(trials, kind)
        found[kind] = tuple(dict.fromkeys((*its[:MOST_OWN], *overall)))[:MOST_LISTED] if its else ()
    return found


def _most_used(trials: Trials, kind: str) -> list[str]:
    at = _of_kind(trials, kind)
    right, costs, results = trials.right_AU[:, at], trials.cost_usd_AU[:, at], trials.results_AU[:, at]
    if at.sum() < LEAST_ROWS or np.isnan(right).any() or np.isnan(costs).any():
        return []
    rng = np.random.default_rng(0)
    used: dict[int, float] = {}
    for _ in range(N_RESAMPLES):
        rows = rng.integers(0, right.shape[1], right.shape[1])
        cascades = agreement_cascades(right[:, rows], costs[:, rows], results[:, rows], max_length=MAX_LENGTH)
        best = float(right[:, rows].mean(axis=1).max())
        good = [one for one in cascades if one.accuracy >= best - SLACK]
        for arm in (arm for one in good for arm in one.order):
            used[arm] = used.get(arm, 0.0) + 1 / len(good)
    mean_costs = costs.mean(axis=1)
    return [trials.arms[arm] for arm in sorted(used, key=lambda arm: (-used[arm], mean_costs[arm], trials.arms[arm]))]


def _of_kind(trials: Trials, kind: str) -> NDArray[np.bool_]:
    if kind == OTHER:
        return np.ones(trials.n_units, np.bool_)
    return np.array([its == kind for its in trials.kinds])
