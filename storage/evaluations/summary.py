"""From an evaluation's runs to its comparison: outcomes from the lake, difficulty where no gold plan gives it, the
judged row.

Used by the last task of `r2 evaluate` and by `r2 rescore`, which compares the same runs under other prices or another
parser.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from r2.evaluation.compare import compare
from r2.evaluation.comparison import Comparison
from r2.evaluation.outcomes import MethodOutcomes
from r2.evaluation.settings import EvaluateSettings, terciles
from r2.methods import family_of
from storage.evaluations.outcomes import outcomes_of
from storage.evaluations.store import EvaluatedRow
from storage.sql.query import connect

UNKNOWN = "unknown"
"""Difficulty of a problem without a gold plan, until the constants have answered it."""


def difficulty_of(known: Mapping[str, str], constants: Sequence[MethodOutcomes]) -> tuple[dict[str, str], str]:
    """Every problem's difficulty, and where it is from: problems without a gold plan go by the share of constants that
    are right."""
    unknown = [name for name, band in known.items() if band == UNKNOWN]
    if not unknown:
        return dict(known), "steps of the gold plan"
    if not constants:
        return dict(known), "steps of the gold plan, where there is one"
    share = np.mean([one.is_correct for one in constants], axis=0)
    by_problem = dict(zip(constants[0].problem_ids, map(float, share), strict=True))
    thirds = terciles({name: by_problem[name] for name in unknown if name in by_problem})
    source = "terciles of the share of constants that are right"
    if len(unknown) < len(known):
        source = f"steps of the gold plan; {len(unknown)} problems without one by {source}"
    return {name: thirds.get(name, band) for name, band in known.items()}, source


def outcomes_of_rows(
    lake: Path, rows: Sequence[EvaluatedRow], problem_ids: Sequence[str], difficulty: Mapping[str, str]
) -> dict[str, MethodOutcomes]:
    """By name, the outcomes of finished rows on test problems."""
    with connect(lake, views=()) as db:
        found = {
            row.name: outcomes_of(db, row.name, row.method, row.test_runs, problem_ids, difficulty)
            for row in rows
            if row.is_finished
        }
    return {name: outcomes for name, outcomes in found.items() if outcomes is not None}


def compared(
    settings: EvaluateSettings, rows: Sequence[EvaluatedRow], outcomes: Sequence[MethodOutcomes], subject: str | None
) -> Comparison | None:
    """The comparison of what is finished, None where nothing is."""
    if not outcomes:
        return None
    labels = {one.label for one in outcomes}
    constants = [row.name for row in rows if row.is_constant and row.name in labels]
    dearest = max((one.mean_cost_usd for one in outcomes if one.label in constants), default=0.0)
    return compare(
        outcomes,
        constants=constants,
        subject=subject if subject in labels else None,
        margin=settings.margin,
        cost_weight=settings.cost_weight / dearest if dearest else 0.0,
    )


def subject_of(settings: EvaluateSettings, rows: Sequence[EvaluatedRow]) -> str | None:
    """The row that the verdict is about."""
    if settings.subject is not None:
        return settings.subject
    return next((row.name for row in reversed(rows) if family_of(row.method) == "ours"), None)
