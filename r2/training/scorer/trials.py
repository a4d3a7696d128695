"""What a scorer is trained on: units of work, and what the arms that were asked about them came to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from r2.answering.scorer import FloatArray, IntArray
from r2.errors import ConfigError
from r2.problem import Problem


@dataclass(frozen=True, slots=True)
class Trial:
    """One arm asked about one unit. `result`: its key, equal for results that are the same; None: the reply gave none.
    `confidence` None: its endpoint gave no log-probabilities, or was not asked for them. `within` tells apart units of
    the same text: the question that a step belongs to."""

    problem: Problem
    kind: str
    arm: str
    is_right: bool
    result: str | None
    cost_usd: float
    output_tokens: int
    confidence: float | None = None
    within: str = ""


@dataclass(frozen=True, slots=True)
class Trials:
    """Matrices are arms x units. `right_AU` is 0..1, NaN where the arm was not asked; so are `cost_usd_AU`,
    `tokens_AU` and `confidence_AU` where nothing is known. `results_AU` numbers each unit's distinct results, -1 where
    there is none. `weights` names arms that ask the same model; `prices`: USD per million tokens in and out, of arms
    where they are known."""

    arms: tuple[str, ...]
    problems: tuple[Problem, ...]
    kinds: tuple[str, ...]
    right_AU: FloatArray
    cost_usd_AU: FloatArray
    tokens_AU: FloatArray
    confidence_AU: FloatArray
    results_AU: IntArray
    weights: Mapping[str, str] = field(default_factory=dict)
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for arm, row in zip(self.arms, self.right_AU, strict=True):
            if np.isnan(row).all():
                raise ConfigError(f"{arm}: it has no outcome, so nothing can be learned of it. Leave it out.")
        if not len(self.problems):
            raise ConfigError("no question has an outcome: nothing can be learned")
        self._check_numbers()
        seen = self.right_AU[~np.isnan(self.right_AU)]
        if seen.min() == seen.max():
            what = "right" if seen.max() > 0 else "wrong"
            raise ConfigError(
                f"every one of {seen.size} outcomes is {what}: a scorer learns from answers of both kinds. Give "
                "questions that some model answers right and some model wrong."
            )

    def _check_numbers(self) -> None:
        """Outcomes and confidences are in 0..1; costs and tokens are not negative; nothing is infinite."""
        for what, values, most in (
            ("outcome", self.right_AU, 1.0),
            ("cost in USD", self.cost_usd_AU, np.inf),
            ("number of tokens", self.tokens_AU, np.inf),
            ("confidence", self.confidence_AU, 1.0),
        ):
            bad = ~np.isnan(values) & ((values < 0) | (values > most) | np.isinf(values))
            if bad.any():
                arm, unit = np.argwhere(bad)[0]
                raise ConfigError(
                    f"{self.arms[arm]}, question {self.problems[unit].problem_id}: {values[arm, unit]:g} is no {what}. "
                    "Correct the row, or leave it out."
                )
        unpriced = ~np.isnan(self.right_AU) & np.isnan(self.cost_usd_AU)
        if unpriced.any():
            arm, unit = np.argwhere(unpriced)[0]
            raise ConfigError(
                f"{self.arms[arm]}, question {self.problems[unit].problem_id}: its outcome has no cost in USD (NaN). "
                "A router weighs costs: give it, 0 where the call is free."
            )

    @property
    def n_trials(self) -> int:
        return int((~np.isnan(self.right_AU)).sum())

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


def trials_from(
    found: Iterable[Trial],
    weights: Mapping[str, str] | None = None,
    prices: Mapping[str, tuple[float, float]] | None = None,
) -> Trials:
    """Trials as matrices. Of several trials of one arm at one unit the last one counts that has a confidence; the last
    one where none has. ConfigError as of `Trials`."""
    kept: dict[tuple[str, ...], dict[str, Trial]] = {}
    for trial in found:
        its = kept.setdefault(_unit(trial), {})
        if trial.arm not in its or its[trial.arm].confidence is None or trial.confidence is not None:
            its[trial.arm] = trial
    arms = tuple(dict.fromkeys(arm for its in kept.values() for arm in its))
    places = {arm: place for place, arm in enumerate(arms)}
    shape = (len(arms), len(kept))
    right, cost, tokens, confidence = (np.full(shape, np.nan) for _ in range(4))
    results = np.full(shape, -1, np.int64)
    for unit, its in enumerate(kept.values()):
        numbers: dict[str, int] = {}
        for arm, trial in its.items():
            at = places[arm], unit
            right[at], cost[at], tokens[at] = trial.is_right, trial.cost_usd, trial.output_tokens
            if trial.confidence is not None:
                confidence[at] = trial.confidence
            if trial.result is not None:
                results[at] = numbers.setdefault(trial.result, len(numbers))
    firsts = [next(iter(its.values())) for its in kept.values()]
    return Trials(
        arms,
        tuple(one.problem for one in firsts),
        tuple(one.kind for one in firsts),
        right,
        cost,
        tokens,
        confidence,
        results,
        {arm: name for arm, name in (weights or {}).items() if arm in places},
        {arm: price for arm, price in (prices or {}).items() if arm in places},
    )


def _unit(trial: Trial) -> tuple[str, ...]:
    problem = trial.problem
    return (trial.kind, trial.within, problem.benchmark, problem.question, problem.context, *problem.choices)
