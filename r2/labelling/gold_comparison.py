"""A decomposer's plans beside gold plans: what the parser keeps, how near the plans are, and how both score. Pure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from r2.errors import PlanParseError
from r2.labelling.plan_match import match_plan
from r2.labelling.plan_scores import lexical_coherence, mean_coherence
from r2.plan import Plan, format_plan, parse_plan
from r2.problem import Problem


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over `n` values with the half width of its normal 95 % interval; NaN for none."""

    value: float
    half_width: float
    n: int


@dataclass(frozen=True, slots=True)
class GoldComparison:
    """Means over the questions whose text held a plan; `round_trip` over all gold plans: parsed from their canonical
    text unchanged."""

    n: int
    n_parsed: int
    n_direct: int
    round_trip: Mean
    gold_steps: Mean
    steps: Mean
    step_error: Mean
    absolute_step_error: Mean
    coverage: Mean
    order: Mean
    gold_coherence: Mean
    coherence: Mean


def compare(rows: Sequence[tuple[Problem, Plan, str]]) -> GoldComparison:
    """`rows`: problem, its gold plan, and the decomposer's text. Coherence is the lexical one, 1 - mean Coe, lower is
    better."""
    round_trips = [_survives(gold) for _, gold, _ in rows]
    parsed = [(problem, gold, plan) for problem, gold, text in rows if (plan := _parsed(text)) is not None]
    matches = [match_plan(problem.question, plan, gold) for problem, gold, plan in parsed]
    return GoldComparison(
        n=len(rows),
        n_parsed=len(parsed),
        n_direct=sum(plan.is_direct for _, _, plan in parsed),
        round_trip=_mean([float(kept) for kept in round_trips]),
        gold_steps=_mean([_n_steps(gold) for _, gold, _ in rows]),
        steps=_mean([_n_steps(plan) for _, _, plan in parsed]),
        step_error=_mean([match.step_error for match in matches]),
        absolute_step_error=_mean([abs(match.step_error) for match in matches]),
        coverage=_mean([match.coverage for match in matches]),
        order=_mean([match.order for match in matches if match.order is not None]),
        gold_coherence=_mean([_coherence(problem, gold) for problem, gold, _ in rows]),
        coherence=_mean([_coherence(problem, plan) for problem, _, plan in parsed]),
    )


def _parsed(text: str) -> Plan | None:
    try:
        return parse_plan(text)
    except PlanParseError:
        return None


def _survives(plan: Plan) -> bool:
    return _parsed(format_plan(plan)) == plan


def _coherence(problem: Problem, plan: Plan) -> float:
    return 1 - mean_coherence(lexical_coherence(problem.question, plan))


def _n_steps(plan: Plan) -> int:
    return max(1, len(plan.subtasks))


def _mean(values: Sequence[float]) -> Mean:
    if not values:
        return Mean(math.nan, math.nan, 0)
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return Mean(statistics.fmean(values), 1.96 * spread / math.sqrt(len(values)), len(values))
