"""What an allocator learns from on a table of recorded answers: which models it is shown, as cards; the label of each
question; and what every choice earns. Pure; numpy alone.

A table has no pool file, so the cards are counted on its rows: accuracy by benchmark, and as the price what a question
costs on average. Models that no price of a right answer makes the best of any benchmark are not shown.
"""

from collections.abc import Sequence

import numpy as np

from r2.answering.scorer import FloatArray, IntArray
from r2.evaluation.recorded.fixed import best_by_benchmark
from r2.evaluation.recorded.method import VALUES
from r2.evaluation.recorded.table import OutcomeTable
from r2.ledger import Price
from r2.roster import TIERS, ModelCard

NO_LABEL = -1
PRICES = (5.0, 100.0)
"""Prices of a right answer, in multiples of `cost_ref`, between which somebody must be the best to be shown."""


def shown_arms(table: OutcomeTable) -> tuple[str, ...]:
    """Models that some price makes the best of some benchmark, cheapest first."""
    at_prices = [by for v, by in zip(VALUES, best_by_benchmark(table), strict=False) if PRICES[0] <= v <= PRICES[1]]
    wanted = {model for models in at_prices for model in models.values()}
    cost = table.cost_usd_MP.mean(axis=1)
    return tuple(sorted(wanted, key=lambda model: (cost[table.models.index(model)], model)))


def cards_of(table: OutcomeTable, arms: Sequence[str]) -> dict[str, ModelCard]:
    """Each arm as the allocator is shown it. The price stands for a thousand questions of the table: what a question
    costs says more than what a token does, where some models write five times as much."""
    rows = [table.models.index(arm) for arm in arms]
    usd_per_1k = 1000 * table.cost_usd_MP[rows].mean(axis=1)
    groups = np.array(table.benchmarks)
    order = np.argsort(np.argsort(usd_per_1k, kind="stable"), kind="stable")
    cards = {}
    for place, (arm, row) in enumerate(zip(arms, rows, strict=True)):
        usd = float(usd_per_1k[place])
        skills = {str(group): float(table.is_correct_MP[row, groups == group].mean()) for group in np.unique(groups)}
        tier = TIERS[len(TIERS) * int(order[place]) // len(arms)]
        cards[arm] = ModelCard(arm, tier, Price(usd, usd, usd, "", "recorded answers"), skills=skills)
    return cards


def cheapest_right(table: OutcomeTable, arms: Sequence[str]) -> IntArray:
    """Each question's label: the place in `arms` of the cheapest that was right (paper: the label of SFT), `NO_LABEL`
    where none was."""
    rows = [table.models.index(arm) for arm in arms]
    is_right = table.is_correct_MP[rows] >= 0.5
    cost = np.where(is_right, table.cost_usd_MP[rows], np.inf)
    return np.where(is_right.any(axis=0), cost.argmin(axis=0), NO_LABEL)


def rewards_of(table: OutcomeTable, arms: Sequence[str], v_usd: float) -> FloatArray:
    """1[right] - cost / v of each arm on each question: questions x arms."""
    rows = [table.models.index(arm) for arm in arms]
    return np.asarray((table.is_correct_MP[rows] - table.cost_usd_MP[rows] / v_usd).T)
