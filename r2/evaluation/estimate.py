"""What an evaluation or a sweep may cost at most, before it begins: every row at every point, as if no call were
shared. For `--dry-run`."""

from collections.abc import Sequence
from dataclasses import replace

from r2.answering.protocol import Router
from r2.evaluation.operating_points import constants_of, dev_runs, is_chosen_without_runs, own_mode, variants_of
from r2.evaluation.settings import EvaluateSettings
from r2.evaluation.sweep import SweepSettings
from r2.methods.estimate import CallEstimate, estimate_calls, rows_of
from r2.problem import Problem
from r2.settings import Reasoning


def estimate_evaluation(
    settings: EvaluateSettings,
    router: Router,
    dev: Sequence[Problem],
    test: Sequence[Problem],
) -> tuple[list[tuple[str, int, int]], list[CallEstimate]]:
    """((row, runs on dev problems, runs on test problems), ...) and the calls by purpose and model."""
    roster = router.roster
    constants = constants_of(settings, roster)
    variants = variants_of(settings, roster, router.decomposer, router.allocator)
    extra = dev_runs(settings, roster, variants)
    rows = [(v, 1, settings.seeds) for v in constants]
    rows += [(v, 1, 0) for v in extra if v.name not in {c.name for c in constants}]
    rows += [(v, 0 if is_chosen_without_runs(v) else len(v.values), settings.seeds) for v in variants]
    totals: dict[tuple[str, str], CallEstimate] = {}
    for variant, n_dev, n_test in rows:
        for side, n_runs in ((dev, n_dev), (test, n_test)):
            for call in _calls(variant.reasoning, router, side, n_runs) if n_runs else ():
                _add(totals, call)
    return [(v.name, n_dev, n_test) for v, n_dev, n_test in rows], list(totals.values())


def estimate_sweep(settings: SweepSettings, router: Router, problems: Sequence[Problem]) -> list[CallEstimate]:
    """The calls of every value of b, and of the reference."""
    points = [settings.at(b) for b in settings.b]
    if settings.reference is not None:
        points.append(own_mode(settings, router.roster[settings.reference]).reasoning)
    totals: dict[tuple[str, str], CallEstimate] = {}
    for reasoning in points:
        for call in _calls(reasoning, router, problems, 1):
            _add(totals, call)
    return list(totals.values())


def _add(totals: dict[tuple[str, str], CallEstimate], call: CallEstimate) -> None:
    key = (call.purpose, call.model)
    totals[key] = _sum(totals[key], call) if key in totals else call


def _calls(reasoning: Reasoning, router: Router, problems: Sequence[Problem], n_runs: int) -> list[CallEstimate]:
    mine = replace(
        router,
        settings=reasoning,
        decomposer=reasoning.decomposer or router.decomposer,
        allocator=reasoning.allocator or router.allocator,
    )
    prices = {name: card.price for name, card in router.roster.by_name.items()}
    return estimate_calls(mine, prices, [rows.times(n_runs) for rows in rows_of(problems, router)])


def _sum(one: CallEstimate, other: CallEstimate) -> CallEstimate:
    return replace(
        one,
        n_calls=one.n_calls + other.n_calls,
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        cost_usd=one.cost_usd + other.cost_usd,
    )
