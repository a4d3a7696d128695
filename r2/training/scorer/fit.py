"""Fitting a scorer to trials: profiles, the text's difficulty, the two heads, and their calibration.

Each unit gives states: random sets of the arms that ran on it, one to four. The result head starts from what ease says
(r2/training/scorer/ease.py); its nets learn what is missing there to tell which of a state's results is right
(cross-entropy with "none"). The arm head learns whether a further arm is. Both are shown a text's difficulty as a model
gives it which had not seen the text, since that is what they will be shown in use. How much of the nets' say is added,
and the temperature, is fitted on every unit with a net that had not seen it; the nets that are kept are trained on all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from r2.answering.scored_unit import plan_kind
from r2.answering.scorer import (
    ARM_FEATURES,
    EASE,
    OTHER,
    RESULT_FEATURES,
    SUREST,
    ArmProfile,
    FloatArray,
    IntArray,
    Kind,
    KindProfile,
    Linear,
    Net,
    Scorer,
    States,
    UnitView,
    arm_features,
    length_deviation,
    logit,
    result_features,
    softmax_with_none,
)
from r2.problem import Problem
from r2.training.scorer.ease import Eases, fit_eases
from r2.training.scorer.pairs import count_pairs, shortlists_of
from r2.training.scorer.profiles import arm_profiles
from r2.training.scorer.steps import mean_steps
from r2.training.scorer.text import TextModel, fit_text
from r2.training.scorer.trials import Trials

N_STATES = 12
"""Of each unit."""
MOST_ASKED = 4
"""Attempts in a state."""
N_FURTHER = 2
"""Arms of each state that the arm head learns from."""
HIDDEN = 12
N_NETS = 2
PENALTY = 1e-3
"""Of the squared weights, per row."""
STEPS = 40
"""Of L-BFGS. Few: stopping early is what keeps it from learning rows by heart (chosen on recorded answers)."""
TEMPERATURES = (1.0, 3.0)
"""Among them the calibration is sought. None below 1: what is rarely seen to fail would be claimed never to."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of what the nets add, tried on units that they had not seen."""
N_FOLDS = 5
"""Of units, each calibrated on with a net that was fitted on the others."""


@dataclass(frozen=True, slots=True)
class Quality:
    """On units that the weights had not seen, before calibration and after: expected calibration error of the
    best-supported result (ten bins of equal size), the area under the ROC curve within each kind, and cross-entropy in
    nats. `n` states."""

    n: int
    ece: float
    ece_uncalibrated: float
    auroc: dict[str, float]
    loss: float


@dataclass(frozen=True, slots=True)
class _Rows:
    """States of all units, filled up to `MOST_ASKED` results. `target`: the number of the right result, or the number
    of results where none is."""

    x: FloatArray
    there: NDArray[np.bool_]
    target: IntArray
    unit: IntArray
    views: Sequence[tuple[int, States]]


def fit_scorer(
    trials: Trials, *, seed: int = 0, n_states: int = N_STATES, n_nets: int = N_NETS
) -> tuple[Scorer, Quality]:
    """A scorer, and how good it is on held-out questions. ConfigError as of `Trials`.

    On one core: the matrices are small, and threads that wait for each other between them take more than they give.
    """
    with threadpool_limits(1):  # type: ignore[no-untyped-call, unused-ignore]
        return _fitted(trials, seed, n_states, n_nets)


def _fitted(trials: Trials, seed: int, n_states: int, n_nets: int) -> tuple[Scorer, Quality]:
    profiles = arm_profiles(trials)
    text = fit_text(trials, _accuracies(trials, profiles), seed)
    eases = fit_eases(trials, text.unseen, [*dict.fromkeys(trials.kinds), OTHER])
    profiles = {arm: _with_ease(arm, profile, eases) for arm, profile in profiles.items()}
    start = _unfitted(trials, profiles, text, eases)
    rows = _rows(start, trials, text.unseen, np.random.default_rng(seed), n_states)
    fold = np.random.default_rng(seed + 1).permutation(trials.n_units)[rows.unit] % N_FOLDS
    share, temperature, quality = _calibrated(_unseen(rows, fold, seed), rows, trials.kinds)
    nets = tuple(_fit_net(rows, np.ones(len(rows.x), np.bool_), seed + n).times(share) for n in range(n_nets))
    scorer = replace(start, nets=nets, temperature=temperature)
    head = _fit_arm_head(scorer, trials, text.unseen, rows, np.random.default_rng(seed + 2))
    return replace(scorer, arm_head=head), quality


def claims(
    scorer: Scorer, trials: Trials, *, seed: int = 0, n_states: int = N_STATES
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Of random states of trials that the scorer has not seen: P(the best-supported result is wrong) as it claims, and
    whether it is. The arms of the trials must be among the scorer's."""
    difficulty = [scorer.difficulty(p, kind) for p, kind in zip(trials.problems, trials.kinds, strict=True)]
    rows = _rows(scorer, trials, np.array(difficulty), np.random.default_rng(seed), n_states)
    p = scorer.p_of(rows.x, rows.there)
    return 1 - p.max(axis=1), p.argmax(axis=1) != rows.target


def _accuracies(trials: Trials, profiles: dict[str, ArmProfile]) -> FloatArray:
    return np.array([[profiles[arm].at(kind).accuracy for kind in trials.kinds] for arm in trials.arms])


def _with_ease(arm: str, profile: ArmProfile, eases: Eases) -> ArmProfile:
    kinds = {name: replace(its, ease=eases.arms.get(name, {}).get(arm)) for name, its in profile.kinds.items()}
    return replace(profile, kinds=kinds)


def _unfitted(trials: Trials, profiles: dict[str, ArmProfile], text: TextModel, eases: Eases) -> Scorer:
    """With kinds, profiles and text; its heads say nothing yet."""
    names = [*dict.fromkeys(trials.kinds), OTHER]
    steps = mean_steps(trials)
    shortlists = shortlists_of(trials, names)
    kinds = {}
    for name in names:
        its = name if name in text.weights else OTHER
        accuracy = float(np.mean([logit(one.at(name).accuracy) for one in profiles.values()]))
        pairs, kappa = count_pairs(trials, profiles, name)
        kinds[name] = Kind(accuracy, kappa, text.weights[its], text.mean[its], text.sd[its], pairs, shortlists[name])
        kinds[name] = replace(
            kinds[name],
            steps=steps.get(plan_kind(name), {}),
            spread=eases.spread.get(name, 0.0),
            text=eases.text.get(name, 0.0),
        )
    n, m = len(RESULT_FEATURES), 2 * len(ARM_FEATURES) + 1
    silent = Net(np.zeros(n), np.ones(n), np.zeros((n, 1)), np.zeros(1), np.zeros(1), 0.0)
    head = Linear(np.zeros(m), np.ones(m), np.zeros(m), 0.0)
    return Scorer(kinds, profiles, (silent,), head, n_questions=trials.n_units)


def _rows(scorer: Scorer, trials: Trials, difficulty: FloatArray, rng: np.random.Generator, n_states: int) -> _Rows:
    """`difficulty`: of each unit's text, as a model gives it which had not seen the unit."""
    profiles = {arm: scorer.arms[arm] for arm in trials.arms}
    view_of = _views(scorer, trials, difficulty, profiles)
    found: list[tuple[FloatArray, NDArray[np.bool_], IntArray]] = []
    units: list[int] = []
    views: list[tuple[int, States]] = []
    for unit in range(trials.n_units):
        tried = np.flatnonzero(~np.isnan(trials.right_AU[:, unit]))
        if not len(tried):
            continue
        states, target = _drawn(trials, unit, tried, profiles, rng, n_states)
        if states.results.max() < 0:  # nobody gave any result
            continue
        x, there = result_features(view_of(unit), states)
        found.append((_filled(x), _filled(there), np.where(target < 0, MOST_ASKED, target)))
        units += [unit] * len(target)
        views.append((unit, states))
    x, there, target = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _Rows(x, there, target, np.array(units), views)


def _views(
    scorer: Scorer, trials: Trials, difficulty: FloatArray, profiles: Mapping[str, ArmProfile]
) -> Callable[[int], UnitView]:
    """Each unit as the heads see it."""
    of_kind = {kind: scorer.view(Problem("", ""), kind, profiles) for kind in dict.fromkeys(trials.kinds)}
    return lambda unit: replace(of_kind[trials.kinds[unit]], difficulty=float(difficulty[unit]))


def _filled(array: NDArray) -> NDArray:  # type: ignore[type-arg]
    """With as many results as there can be."""
    missing = MOST_ASKED - array.shape[1]
    return np.pad(array, [(0, 0), (0, missing), *[(0, 0)] * (array.ndim - 2)])


def _drawn(
    trials: Trials,
    unit: int,
    tried: IntArray,
    profiles: Mapping[str, ArmProfile],
    rng: np.random.Generator,
    n_states: int,
) -> tuple[States, IntArray]:
    """Random states of a unit, and the number of the right result in each (-1: none)."""
    sizes = rng.integers(1, min(MOST_ASKED, len(tried)) + 1, n_states)
    shape = (n_states, int(sizes.max()))
    arms, results = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    lengths, confidences = np.full(shape, np.nan), np.full(shape, np.nan)
    target = np.full(n_states, -1)
    at = [profile.at(trials.kinds[unit]) for profile in profiles.values()]
    for row, size in enumerate(sizes):
        numbers: dict[int, int] = {}
        for column, arm in enumerate(rng.choice(tried, size, replace=False)):
            code = int(trials.results_AU[arm, unit])
            arms[row, column] = arm
            if code >= 0:
                results[row, column] = numbers.setdefault(code, len(numbers))
                if trials.right_AU[arm, unit] >= 0.5 and target[row] < 0:
                    target[row] = results[row, column]
            lengths[row, column], confidences[row, column] = _evidence(trials, arm, unit, at[arm])
    return States(arms, results, lengths, confidences), target


def _evidence(trials: Trials, arm: int, unit: int, profile: KindProfile) -> tuple[float, float]:
    tokens, confidence = trials.tokens_AU[arm, unit], trials.confidence_AU[arm, unit]
    return (
        np.nan if np.isnan(tokens) else length_deviation(profile, tokens),
        np.nan if np.isnan(confidence) else logit(confidence, SUREST),
    )


def _fit_net(rows: _Rows, at: NDArray[np.bool_], seed: int) -> Net:
    x, there, target = rows.x[at], rows.there[at], rows.target[at]
    shown = x[there]
    mean, sd = shown.mean(axis=0), shown.std(axis=0) + 1e-3
    z = (x - mean) / sd
    given = x[..., EASE]
    n_in, n = z.shape[-1], len(z)
    truth = np.zeros((n, MOST_ASKED))
    is_one = target < MOST_ASKED
    truth[np.flatnonzero(is_one), target[is_one]] = 1.0
    rng = np.random.default_rng(seed)
    start = np.concatenate(
        [rng.normal(0, 0.5 / np.sqrt(n_in), n_in * HIDDEN), np.zeros(HIDDEN), np.zeros(HIDDEN), [0.0]]
    )

    def parts(w: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, float]:
        a = n_in * HIDDEN
        return w[:a].reshape(n_in, HIDDEN), w[a : a + HIDDEN], w[a + HIDDEN : a + 2 * HIDDEN], float(w[-1])

    def loss(w: FloatArray) -> tuple[float, FloatArray]:
        first, bias, second, out = parts(w)
        inner = np.tanh(z @ first + bias)
        p = softmax_with_none(given + inner @ second + out, there)
        none = 1 - p.sum(axis=1)
        its = np.where(is_one, (p * truth).sum(axis=1), none)
        of_score = np.where(there, p - truth, 0.0) / n
        of_inner = of_score[..., None] * second * (1 - inner**2)
        gradient = np.concatenate(
            [
                np.einsum("brf,brh->fh", z, of_inner, optimize=True).ravel() + 2 * PENALTY * first.ravel(),
                of_inner.sum(axis=(0, 1)),
                np.einsum("br,brh->h", of_score, inner) + 2 * PENALTY * second,
                [of_score.sum()],
            ]
        )
        value = -np.log(np.maximum(its, 1e-12)).mean() + PENALTY * ((first**2).sum() + (second**2).sum())
        return float(value), gradient

    found = minimize(  # type: ignore[no-untyped-call, unused-ignore]
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}
    )
    first, bias, second, out = parts(found.x)
    return Net(mean, sd, first, bias, second, out)


def _unseen(rows: _Rows, fold: IntArray, seed: int) -> FloatArray:
    """States x results: what a net adds that was fitted without the unit's fold."""
    found = np.zeros(rows.there.shape)
    for n in range(N_FOLDS):
        at = fold == n
        if at.any() and not at.all():
            found[at] = _fit_net(rows, ~at, seed + n).scores(rows.x[at])
    return found


def _calibrated(beside: FloatArray, rows: _Rows, kinds: Sequence[str]) -> tuple[float, float, Quality]:
    """(how much of what nets add is added, temperature, quality), from what they add to units they had not seen."""
    x, there, target = rows.x, rows.there, rows.target
    numbers = np.arange(len(x))

    def p_at(share: float, temperature: float) -> FloatArray:
        return softmax_with_none((x[..., EASE] + share * beside) / temperature, there)

    def loss(share: float, temperature: float) -> float:
        p = p_at(share, temperature)
        all_p = np.concatenate([p, 1 - p.sum(axis=1, keepdims=True)], axis=1)
        return float(-np.log(np.maximum(all_p[numbers, target], 1e-12)).mean())

    found = [(*_best_temperature(partial(loss, share)), share) for share in SHARES]
    lowest, temperature, share = min(found)
    p, before = p_at(share, temperature), p_at(share, 1.0)
    best = p.argmax(axis=1)
    is_right = (best == target).astype(float)
    its_kind = np.array(kinds)[rows.unit]
    auroc = {
        str(kind): float(roc_auc_score(is_right[its_kind == kind], p[numbers, best][its_kind == kind]))
        for kind in np.unique(its_kind)
        if len(np.unique(is_right[its_kind == kind])) == 2
    }
    told = ece(p[numbers, best], is_right), ece(before[numbers, best], is_right)
    return share, temperature, Quality(len(x), *told, auroc, lowest)


def _best_temperature(loss: Callable[[float], float]) -> tuple[float, float]:
    """(the lowest loss, its temperature)."""
    found = minimize_scalar(  # type: ignore[no-untyped-call, unused-ignore]
        loss, bounds=TEMPERATURES, method="bounded"
    )
    return float(found.fun), float(found.x)


def ece(p: FloatArray, is_right: FloatArray, n_bins: int = 10) -> float:
    """Expected calibration error: mean over bins of equal size of |mean p - share right|, weighted by their rows."""
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, n_bins) if len(part)]
    return float(sum(len(part) * abs(p[part].mean() - is_right[part].mean()) for part in parts) / len(p))


def _fit_arm_head(
    scorer: Scorer, trials: Trials, difficulty: FloatArray, rows: _Rows, rng: np.random.Generator
) -> Linear:
    profiles = {arm: scorer.arms[arm] for arm in trials.arms}
    view_of = _views(scorer, trials, difficulty, profiles)
    found_x: list[FloatArray] = []
    found_y: list[float] = []
    start = 0
    for unit, states in rows.views:
        view = view_of(unit)
        x, there = result_features(view, states)
        target = rows.target[start : start + len(x)]
        start += len(x)
        if not there.any():
            continue
        p = scorer.p_of(x, there)
        its = arm_features(view, x, p, states)
        tried = np.flatnonzero(~np.isnan(trials.right_AU[:, unit]))
        for row in range(len(x)):
            if not there[row].any():
                continue
            rest = tried[~np.isin(tried, states.arms[row])]
            best = int(p[row].argmax())
            is_best_right = float(best == target[row])
            for arm in rng.permutation(rest)[:N_FURTHER]:
                found_x.append(np.concatenate([its[row, arm], [is_best_right], its[row, arm] * is_best_right]))
                is_right = float(trials.right_AU[arm, unit] >= 0.5)
                found_y.append(is_right)
    if len(set(found_y)) < 2:
        m = 2 * len(ARM_FEATURES) + 1
        rate = float(np.mean(found_y)) if found_y else 0.5
        return Linear(np.zeros(m), np.ones(m), np.zeros(m), logit(rate))
    matrix = np.array(found_x)
    mean, sd = matrix.mean(axis=0), matrix.std(axis=0) + 1e-3
    z, y = (matrix - mean) / sd, np.array(found_y)
    fitted = LogisticRegression(C=1.0, max_iter=500).fit(z, y)  # type: ignore[no-untyped-call, unused-ignore]
    return Linear(mean, sd, fitted.coef_[0].astype(np.float64), float(fitted.intercept_[0]))
