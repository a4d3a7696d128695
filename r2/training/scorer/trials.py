"""What a scorer is trained on: units of work, and what the arms that were asked about them came to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from r2.answering.scorer import FloatArray, IntArray
from r2.errors import ConfigError
from r2.problem import Problem


@dataclass(frozen=True, slots=True)
class Trials:
    """Matrices are arms x units. `right_AU` is 0..1, NaN where the arm was not asked; so are `cost_usd_AU`,
    `tokens_AU` and `confidence_AU` where nothing is known. `results_AU` numbers each unit's distinct results, -1 where
    there is none. `weights` names arms that ask the same model."""

    arms: tuple[str, ...]
    problems: tuple[Problem, ...]
    kinds: tuple[str, ...]
    right_AU: FloatArray
    cost_usd_AU: FloatArray
    tokens_AU: FloatArray
    confidence_AU: FloatArray
    results_AU: IntArray
    weights: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for arm, row in zip(self.arms, self.right_AU, strict=True):
            if np.isnan(row).all():
                raise ConfigError(f"{arm}: it has no outcome, so nothing can be learned of it. Leave it out.")
        if not len(self.problems):
            raise ConfigError("no question has an outcome: nothing can be learned")
        seen = self.right_AU[~np.isnan(self.right_AU)]
        if seen.min() == seen.max():
            what = "right" if seen.max() > 0 else "wrong"
            raise ConfigError(
                f"every one of {seen.size} outcomes is {what}: a scorer learns from answers of both kinds. Give "
                "questions that some model answers right and some model wrong."
            )

    @property
    def n_units(self) -> int:
        return len(self.problems)

    def part(self, units: Iterable[int]) -> "Trials":
        """These units alone, in this order."""
        at = list(units)
        return replace(
            self,
            problems=tuple(self.problems[i] for i in at),
            kinds=tuple(self.kinds[i] for i in at),
            right_AU=self.right_AU[:, at],
            cost_usd_AU=self.cost_usd_AU[:, at],
            tokens_AU=self.tokens_AU[:, at],
            confidence_AU=self.confidence_AU[:, at],
            results_AU=self.results_AU[:, at],
        )
