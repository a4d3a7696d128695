"""Does the router earn its keep? Everything a report says about a set of methods, computed from their outcomes. Pure.

`compare` turns outcomes on the same problems into one `Comparison`: accuracy and cost with paired intervals, cost saved
at equal accuracy against the best constant model, what random mixing and hindsight would have reached, where the calls
went, and the curves of the set. `verdict` (r2/evaluation/verdict.py) says it in one sentence, losses first. The
evaluation flow stores `to_json`; the report reads `from_json`. Formulas name their source: RouteLLM (arXiv:2406.18665),
RouterBench (arXiv:2403.12031), LLMRouterBench; the rest is ours. What cannot be defined (a gap of zero, a reference
that costs nothing) is None, never infinite.
"""

from collections.abc import Collection, Sequence

import numpy as np

from r2.errors import ConfigError
from r2.evaluation.comparison import (
    AccuracyVerdict,
    Comparison,
    CostSaved,
    Curve,
    Estimate,
    MethodSummary,
    Versus,
    from_json,
    to_json,
)
from r2.evaluation.intervals import Interval, resampled_means
from r2.evaluation.outcomes import MethodOutcomes, oracle_of
from r2.evaluation.summaries import Setting
from r2.evaluation.verdict import verdict

__all__ = [
    "MARGIN",
    "AccuracyVerdict",
    "Comparison",
    "CostSaved",
    "Curve",
    "Estimate",
    "Interval",
    "MethodOutcomes",
    "MethodSummary",
    "Versus",
    "compare",
    "from_json",
    "to_json",
    "verdict",
]

MARGIN = 0.02
"""Accuracy that may be lost and still be called no worse; ours."""


def compare(
    outcomes: Sequence[MethodOutcomes],
    *,
    constants: Collection[str] = (),
    subject: str | None = None,
    seed: int = 0,
    n_bootstrap: int = 2000,
    tau: float = 1.0,
    margin: float = MARGIN,
    cost_weight: float = 0.0,
) -> Comparison:
    """Compares methods that answered the same problems.

    `constants` are labels of methods that ask one model always; `subject` is the label of the router to be judged.
    `cost_weight` is the accuracy one USD per problem is worth in the headroom's utility. All intervals use the same
    resamples of the problems. Raises ConfigError for no methods, no problems, a label used twice or unknown, and
    methods whose problems differ.
    """
    _check(outcomes, constants, subject)
    columns = [one.is_correct for one in outcomes] + [one.cost_usd for one in outcomes]
    means = resampled_means(np.stack(columns, axis=1), n_bootstrap, seed)
    fixed = [one for one in outcomes if one.label in set(constants)]
    setting = Setting(
        outcomes=outcomes,
        is_constant=tuple(one.label in set(constants) for one in outcomes),
        subject=subject,
        accuracies_BM=means[:, : len(outcomes)],
        costs_BM=means[:, len(outcomes) :],
        points=[(one.mean_cost_usd, one.accuracy) for one in outcomes],
        oracle=oracle_of(fixed) if fixed else None,
        tau=tau,
        margin=margin,
        cost_weight=cost_weight,
    )
    methods = tuple(setting.summary(i) for i in range(len(outcomes)))
    halves = [(m.accuracy.interval.high - m.accuracy.interval.low) / 2 for m in methods if m.accuracy.interval]
    oracle = setting.oracle
    return Comparison(
        n_problems=outcomes[0].n_problems,
        n_by_difficulty={d: outcomes[0].difficulty.count(d) for d in dict.fromkeys(outcomes[0].difficulty)},
        n_bootstrap=n_bootstrap,
        seed=seed,
        tau=tau,
        margin=margin,
        subject=subject,
        best_constant=None if setting.best is None else outcomes[setting.best].label,
        cheapest_constant=None if setting.weak is None else outcomes[setting.weak].label,
        oracle_accuracy=None if oracle is None else oracle.accuracy,
        oracle_usd_per_1k=None if oracle is None else 1000 * oracle.mean_cost_usd,
        accuracy_half_width=max(halves, default=0.0),
        methods=methods,
        curves=tuple(setting.curves()),
        cheap_constant=None if setting.cheap is None else outcomes[setting.cheap].label,
    )


def _check(outcomes: Sequence[MethodOutcomes], constants: Collection[str], subject: str | None) -> None:
    if not outcomes or not outcomes[0].n_problems:
        raise ConfigError("nothing to compare: no methods, or no problems answered. Run the evaluation first.")
    labels = [one.label for one in outcomes]
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        raise ConfigError(f"two methods are called {repeated[0]!r}; each operating point needs its own label")
    if unknown := sorted({*constants, *([subject] if subject is not None else [])} - set(labels)):
        raise ConfigError(f"no method is called {unknown[0]!r}. Methods: {', '.join(labels)}.")
    for one in outcomes:
        if one.problem_ids != outcomes[0].problem_ids:
            raise ConfigError(
                f"methods {outcomes[0].label!r} and {one.label!r} did not answer the same problems in the same order; "
                "paired intervals need that. Keep the problems all methods have."
            )
