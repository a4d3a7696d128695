"""How a method did on a set of problems, as arrays in one common problem order: what every metric is computed from.

`MethodOutcomes` holds one method at one operating point. `mix_of` and `oracle_of` make the outcomes of two policies
nobody ran (a random mixture of constant methods, and the best choice in hindsight) from stored ones, without a call.
Built by the evaluation flow and by `storage/sources/outcome_tables.py`; read by `r2/evaluation/compare.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from r2.errors import ConfigError

FloatArray = NDArray[np.float64]
_ARRAYS = ("is_correct", "cost_usd", "latency_s", "n_calls", "n_tokens", "router_cost_usd")


@dataclass(frozen=True, slots=True)
class MethodOutcomes:
    """One method at one operating point; each array has one entry per problem, in the order of `problem_ids`.

    Over several seeds each entry is the problem's mean over them (`from_seeds`), so `is_correct` is in 0..1 and the
    problem stays the unit that is resampled. `label` is unique in a comparison ("cot sim-8b"), `method` is its kind
    ("cot", "r2"). Operating points of one method (thresholds, cost knobs) share `sweep`; "" stands alone. `difficulty`
    is each problem's label. `model_calls` counts calls by pool entry, the router's own left out, summed over problems
    and seeds.
    """

    label: str
    method: str
    problem_ids: tuple[str, ...]
    difficulty: tuple[str, ...]
    is_correct: FloatArray
    cost_usd: FloatArray
    latency_s: FloatArray
    n_calls: FloatArray
    n_tokens: FloatArray
    router_cost_usd: FloatArray
    model_calls: Mapping[str, float] = field(default_factory=dict)
    model_calls_by_difficulty: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    n_seeds: int = 1
    sweep: str = ""

    def __post_init__(self) -> None:
        n = len(self.problem_ids)
        if len(self.difficulty) != n:
            raise ConfigError(f"method {self.label!r}: {len(self.difficulty)} difficulty labels for {n} problems")
        for name in _ARRAYS:
            array = np.asarray(getattr(self, name), np.float64)
            if array.shape != (n,):
                raise ConfigError(
                    f"method {self.label!r}, {name}: shape {array.shape}, expected ({n},), one per problem"
                )
            if not np.isfinite(array).all() or (array < 0).any():
                at = int(np.flatnonzero(~np.isfinite(array) | (array < 0))[0])
                raise ConfigError(
                    f"method {self.label!r}, {name}, problem {self.problem_ids[at]!r}: {array[at]}; expected a "
                    "number >= 0"
                )
            object.__setattr__(self, name, array)
        if n and self.is_correct.max() > 1:
            raise ConfigError(f"method {self.label!r}, is_correct: above 1; expected 0, 1 or a mean of them over seeds")

    @property
    def n_problems(self) -> int:
        return len(self.problem_ids)

    @property
    def accuracy(self) -> float:
        """Mean over problems; 0 without problems."""
        return float(self.is_correct.mean()) if self.n_problems else 0.0

    @property
    def mean_cost_usd(self) -> float:
        """USD per problem; 0 without problems."""
        return float(self.cost_usd.mean()) if self.n_problems else 0.0


def from_seeds(
    label: str,
    method: str,
    problem_ids: Sequence[str],
    difficulty: Sequence[str],
    *,
    is_correct_PS: ArrayLike,
    cost_usd_PS: ArrayLike,
    latency_s_PS: ArrayLike,
    n_calls_PS: ArrayLike,
    n_tokens_PS: ArrayLike,
    router_cost_usd_PS: ArrayLike,
    model_calls: Mapping[str, float] | None = None,
    model_calls_by_difficulty: Mapping[str, Mapping[str, float]] | None = None,
    sweep: str = "",
) -> MethodOutcomes:
    """Outcomes from arrays of problems x seeds, each problem averaged over its seeds. ConfigError for another shape."""
    arrays = [
        np.asarray(array, np.float64)
        for array in (is_correct_PS, cost_usd_PS, latency_s_PS, n_calls_PS, n_tokens_PS, router_cost_usd_PS)
    ]
    for name, array in zip(_ARRAYS, arrays, strict=True):
        if array.ndim != 2 or array.shape != arrays[0].shape or not array.shape[1]:
            raise ConfigError(f"method {label!r}, {name}: shape {array.shape}, expected problems x seeds as the others")
    means = {name: array.mean(axis=1) for name, array in zip(_ARRAYS, arrays, strict=True)}
    return MethodOutcomes(
        label=label,
        method=method,
        problem_ids=tuple(problem_ids),
        difficulty=tuple(difficulty),
        **means,
        model_calls=model_calls or {},
        model_calls_by_difficulty=model_calls_by_difficulty or {},
        n_seeds=arrays[0].shape[1],
        sweep=sweep,
    )


def mix_of(label: str, outcomes: Sequence[MethodOutcomes], shares: Sequence[float]) -> MethodOutcomes:
    """Expected outcomes of choosing one of `outcomes` at random, blind to the problem, with these
    probabilities. Exact."""
    first = outcomes[0]
    arrays = [
        np.sum([share * getattr(one, name) for one, share in zip(outcomes, shares, strict=True)], axis=0)
        for name in _ARRAYS
    ]
    arrays[0] = arrays[0].clip(0.0, 1.0)  # probabilities that sum to 1 + 1e-16
    return MethodOutcomes(label, "random", first.problem_ids, first.difficulty, *arrays)


def oracle_of(outcomes: Sequence[MethodOutcomes], label: str = "oracle") -> MethodOutcomes:
    """For each problem the outcome most often right, of them the cheapest; where none is ever right the cheapest of
    all.

    With 0/1 correctness that is the cheapest right one (RouterBench's oracle, arXiv:2403.12031). Hindsight: no router
    can know it. Ties in cost take the earlier in the sequence.
    """
    first = outcomes[0]
    correct_MP = np.array([one.is_correct for one in outcomes])
    cost_MP = np.array([one.cost_usd for one in outcomes])
    is_best = correct_MP >= correct_MP.max(axis=0)
    chosen = np.where(is_best, cost_MP, np.inf).argmin(axis=0)
    problems = np.arange(first.n_problems)
    arrays = [np.array([getattr(one, name) for one in outcomes])[chosen, problems] for name in _ARRAYS]
    return MethodOutcomes(label, "oracle", first.problem_ids, first.difficulty, *arrays)
