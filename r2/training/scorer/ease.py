"""Fitting how units of a kind differ in ease, and what each arm makes of it (r2/answering/ease.py): expectation and
maximisation over a grid of eases.

Strong arms hardly ever err: of them counts say next to nothing. So at all kinds together it is learned how an arm's
usual confidence goes with being right, and an arm's curve is drawn to that line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from r2.answering.ease import GRID, Ease, FloatArray, likelihoods, log_sum, prior_of
from r2.answering.scorer import OTHER, SUREST, logit
from r2.training.scorer.trials import Trials

ROUNDS = 12
NEAR = 0.7
"""Standard deviation of arms around the line that confidences give, in logits; and around their own counts where no
confidence is known."""
TOLD_ROWS = 20.0
"""Rows that say that a confidence tells nothing beyond ease."""
LEAST_REST = 0.3
MOST_TEXT = 0.95
LEAST_ROWS = 8
POOLED_ROWS = 4.0
"""Rows that the share of all arms counts for in one arm's."""


@dataclass(frozen=True, slots=True)
class Eases:
    """By kind: the spread, how far the text tells ease, and each arm that was seen there."""

    spread: Mapping[str, float]
    text: Mapping[str, float]
    arms: Mapping[str, Mapping[str, Ease]]


@dataclass(slots=True)
class _Kind:
    """`right`, `confidence`: arms x units; NaN where nothing is known. `arms`: arms x 5, as of `Ease`."""

    right: FloatArray
    confidence: FloatArray
    difficulty: FloatArray
    usual: FloatArray
    seen: NDArray[np.bool_]
    arms: FloatArray
    spread: float = 1.0
    text: float = 0.3

    def expected(self) -> FloatArray:
        """Units x eases: how probable each is."""
        if_right, if_wrong = likelihoods(self.arms[:, None], self.spread, self.confidence)
        known = ~np.isnan(self.right)[..., None]
        is_right = np.nan_to_num(self.right)[..., None]
        logs = np.where(known, is_right * if_right + (1 - is_right) * if_wrong, 0.0).sum(axis=0)
        logs = logs + prior_of(self.difficulty, self.text)
        return np.asarray(np.exp(logs - log_sum(logs)[:, None]))

    def fit_confidences(self, weights: FloatArray) -> None:
        """Each arm's confidences, by weighted least squares on (1, ease, right)."""
        mean, square = weights @ GRID, weights @ GRID**2
        for row in np.flatnonzero(self.seen):
            at = ~np.isnan(self.confidence[row]) & ~np.isnan(self.right[row])
            if at.sum() < LEAST_ROWS:
                continue
            c, y, e, e2 = self.confidence[row, at], self.right[row, at], mean[at], square[at]
            one = np.ones_like(c)
            left = np.array(
                [
                    [one.sum(), e.sum(), y.sum()],
                    [e.sum(), e2.sum() + 1.0, (e * y).sum()],
                    [y.sum(), (e * y).sum(), (y * y).sum() + TOLD_ROWS],
                ]
            )
            right = np.array([c.sum(), (e * c).sum(), (y * c).sum()])
            left[2, 2] += TOLD_ROWS * (y.mean() > 0.999)
            sure, slope, told = np.linalg.solve(left, right)
            off = c - sure - slope * e - told * y
            rest = np.sqrt((off**2 + slope**2 * (e2 - e**2)).mean())
            self.arms[row, 1:] = sure, slope, told, max(LEAST_REST, float(rest))

    def fit_text(self, weights: FloatArray) -> None:
        mean = weights @ GRID
        found = float((mean * self.difficulty).sum() / ((self.difficulty**2).sum() + 10.0))
        self.text = min(MOST_TEXT, max(0.0, found))


def fit_eases(trials: Trials, difficulty: FloatArray, kinds: Sequence[str]) -> Eases:
    """`difficulty`: of each unit's text, as a model gives it which had not seen it. Kinds of which no arm has
    `LEAST_ROWS` rows are left out."""
    parts = {name: _kind(trials, difficulty, name) for name in kinds}
    parts = {name: part for name, part in parts.items() if part.seen.any()}
    for _ in range(ROUNDS if parts else 0):
        shares = [part.expected() for part in parts.values()]
        for part, weights in zip(parts.values(), shares, strict=True):
            part.fit_confidences(weights)
            part.fit_text(weights)
        _fit_curves(list(parts.values()), shares)
    return Eases(
        {name: part.spread for name, part in parts.items()},
        {name: part.text for name, part in parts.items()},
        {
            name: {trials.arms[row]: Ease(*map(float, part.arms[row])) for row in np.flatnonzero(part.seen)}
            for name, part in parts.items()
        },
    )


def _kind(trials: Trials, difficulty: FloatArray, name: str) -> _Kind:
    at = np.array([name in (OTHER, kind) for kind in trials.kinds])
    right = np.where(trials.results_AU[:, at] >= 0, trials.right_AU[:, at], np.nan)
    confidence = trials.confidence_AU[:, at]
    p = np.clip(confidence, SUREST, 1 - SUREST)
    confidence = np.log(p / (1 - p))
    n = (~np.isnan(right)).sum(axis=1)
    share = (np.nansum(right, axis=1) + 1.0) / (n + 2.0)
    arms = np.array([[logit(float(one), SUREST), 0.0, 0.0, 0.0, 1.0] for one in share])
    usual = np.full(len(right), np.nan)
    for row in range(len(right)):
        known = confidence[row][~np.isnan(confidence[row])]
        if len(known) >= LEAST_ROWS:
            usual[row] = known.mean()
            arms[row, 1:] = known.mean(), 0.7 * known.std(), 0.0, max(LEAST_REST, 0.7 * float(known.std()))
    return _Kind(right, confidence, difficulty[at], usual, n >= LEAST_ROWS, arms)


def _own(hits: FloatArray, tries: FloatArray) -> FloatArray:
    """Logits of the arms' shares right, drawn to that of all of them: by `POOLED_ROWS` rows, or as many as half an
    error is expected in, so that where nobody ever erred all arms' rows say so."""
    p_wrong = (tries.sum() - hits.sum() + 0.5) / (tries.sum() + 1.0)
    rows = max(POOLED_ROWS, 0.5 / p_wrong)
    return np.asarray(np.log((hits + rows * (1 - p_wrong)) / (tries - hits + rows * p_wrong)))


def _fit_curves(parts: Sequence[_Kind], shares: Sequence[FloatArray]) -> None:
    """Each arm's `right` at each kind, the kinds' spreads, and the line that confidences give."""
    n_arms = len(parts[0].right)
    hits = np.array([np.nan_to_num(part.right) @ w for part, w in zip(parts, shares, strict=True)])
    tries = np.array([(~np.isnan(part.right)).astype(float) @ w for part, w in zip(parts, shares, strict=True)])
    usual = np.array([part.usual for part in parts])
    has_line = ~np.isnan(usual)
    usual = np.nan_to_num(usual)
    n = tries.sum(axis=2)
    own = np.stack([_own(hit, tried) for hit, tried in zip(hits.sum(axis=2), n, strict=True)])
    size = len(parts) * n_arms

    def loss(w: FloatArray) -> tuple[float, FloatArray]:
        right, log_spread = w[:size].reshape(len(parts), n_arms), w[size:-2]
        above, tilt = w[-2:]
        spread = np.exp(log_spread)
        logits = right[..., None] + spread[:, None, None] * GRID
        p = 0.5 * (1 + np.tanh(logits / 2))
        value = (tries * np.logaddexp(0.0, logits) - hits * logits).sum()
        of_logit = tries * p - hits
        off = (right - np.where(has_line, above + tilt * usual, own)) / NEAR**2
        value += 0.5 * NEAR**2 * (off**2).sum() + 0.5 * (log_spread**2).sum() + 0.5 * (above**2 + (tilt - 1) ** 2)
        of_spread = (of_logit * GRID).sum(axis=(1, 2)) * spread + log_spread
        lined = np.where(has_line, off, 0.0)
        ends = [above - lined.sum(), tilt - 1 - (lined * usual).sum()]
        return float(value), np.concatenate([(of_logit.sum(axis=2) + off).ravel(), of_spread, ends])

    start = np.concatenate(
        [np.array([part.arms[:, 0] for part in parts]).ravel(), np.log([part.spread for part in parts]), [0.0, 1.0]]
    )
    found = minimize(  # type: ignore[no-untyped-call, unused-ignore]
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 60}
    )
    for part, right, log_spread in zip(
        parts, found.x[:size].reshape(len(parts), n_arms), found.x[size:-2], strict=True
    ):
        part.arms[:, 0], part.spread = right, float(np.exp(log_spread))
