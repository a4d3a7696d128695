"""How probable each result is where units of a kind differ in how easy they are: the evidence that the scorer's result
head starts from (docs/method.md, section 11; ours). Pure; numpy alone.

Units of one kind are easier or harder, which nobody sees: ease is N(text * difficulty of the text, 1 - text^2). An arm
is right with a probability that rises with ease, and is surer where ease is higher. Given a unit's ease, arms err
independently of each other; two wrong results are the same with probability kappa. So one attempt, however sure, is
worth what such attempts were worth, several that agree add up, and one that disagrees, or is unsure, makes the unit a
hard one for all. Fitted by r2/training/scorer/ease.py.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
GRID: Final = np.linspace(-4.0, 4.0, 17)
"""Eases that stand for all."""
LEAST_SD: Final = 0.3
"""Of ease, given the text, however telling that is."""


@dataclass(frozen=True, slots=True)
class Ease:
    """One arm at one kind. logit P(right) = `right` + the kind's spread * ease; the logit of its confidence is normal
    around `sure` + `slope` * ease, and `told` more where it is right, with the standard deviation `rest`."""

    right: float
    sure: float = 0.0
    slope: float = 0.0
    told: float = 0.0
    rest: float = 1.0


def prior_of(difficulty: FloatArray, text: float) -> FloatArray:
    """Log probabilities over `GRID`, on a further axis, where texts are as easy as `difficulty` says."""
    sd = max(LEAST_SD, float(np.sqrt(max(0.0, 1.0 - text**2))))
    found = -0.5 * ((GRID - text * difficulty[..., None]) / sd) ** 2
    return np.asarray(found - log_sum(found)[..., None])


def log_sum(logs: FloatArray) -> FloatArray:
    """ln of the sum of exp over the last axis."""
    top = logs.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(logs - top).sum(axis=-1)) + top[..., 0])


def likelihoods(arms: FloatArray, spread: float, confidences: FloatArray) -> tuple[FloatArray, FloatArray]:
    """ln of how likely a right attempt with this confidence (a logit, NaN: not known) is at each ease, and a wrong one:
    the shape of `confidences`, with ease as a further axis. `arms`: the five numbers of each attempt's `Ease`, as the
    last axis."""
    right, sure, slope, told, rest = (arms[..., n, None] for n in range(5))
    logits = right + spread * GRID
    if_right, if_wrong = -np.logaddexp(0.0, -logits), -np.logaddexp(0.0, logits)
    known = ~np.isnan(confidences)[..., None]
    off = np.where(known, np.nan_to_num(confidences)[..., None] - sure - slope * GRID, 0.0)
    return (
        if_right - 0.5 * np.where(known, ((off - told) / rest) ** 2, 0.0),
        if_wrong - 0.5 * np.where(known, (off / rest) ** 2, 0.0),
    )
