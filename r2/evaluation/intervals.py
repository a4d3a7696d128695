"""Bootstrap intervals over problems, paired: every method sees the same resamples, so differences keep what methods
share.

Percentile intervals (Efron and Tibshirani 1993, ch. 13) from `n` problems drawn with replacement. A resample is a row
of counts divided by n; means of any number of columns under it are one matrix product, made in chunks so that memory
stays small.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from r2.evaluation.outcomes import FloatArray

LEVEL = 0.95
_CHUNK = 250


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided 95 % interval."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def resampled_means(columns_PC: FloatArray, n_bootstrap: int = 2000, seed: int = 0) -> FloatArray:
    """Means of each column under each resample of the rows: resamples x columns.

    The draws depend on the seed and the number of rows alone, so two calls on the same problems are paired.
    """
    n = columns_PC.shape[0]
    chance = np.random.default_rng(seed)
    means = np.empty((n_bootstrap, columns_PC.shape[1]))
    for start in range(0, n_bootstrap, _CHUNK):
        size = min(_CHUNK, n_bootstrap - start)
        drawn = chance.integers(0, n, (size, n))
        counts = np.bincount((drawn + n * np.arange(size)[:, None]).ravel(), minlength=size * n).reshape(size, n)
        means[start : start + size] = counts @ columns_PC / n
    return means


def percentile_interval(values: Sequence[float] | FloatArray) -> Interval | None:
    """The middle 95 % of the resampled values; None where some are undefined (a division by zero) or there are none."""
    array = np.asarray(values, np.float64)
    if not array.size or not np.isfinite(array).all():
        return None
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(array, [tail, 100 - tail])
    return Interval(float(low), float(high))


def paired_interval(values: FloatArray, others: FloatArray, n_bootstrap: int = 2000, seed: int = 0) -> Interval | None:
    """Interval of mean(values) - mean(others) over the same problems."""
    return percentile_interval(resampled_means((values - others)[:, None], n_bootstrap, seed)[:, 0])


def wilson_interval(n_right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a share, 95 % by default. Raises ValueError for n = 0."""
    if n == 0:
        raise ValueError("no interval for zero trials")
    share = n_right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)
