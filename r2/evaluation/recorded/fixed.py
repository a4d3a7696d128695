"""The simplest methods on recorded answers: one model always, the best one, and the best one of each benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2.evaluation.recorded.method import VALUES, TableMethod, TablePolicy, cost_ref_of
from r2.evaluation.recorded.table import OutcomeTable, Question

BEST_CONSTANT, RULE = "best constant", "rule:benchmark"


@dataclass(frozen=True, slots=True)
class _Constant:
    """Each setting is a model that is asked always."""

    settings: Sequence[str]

    def play(self, question: Question, setting: int) -> str:
        return question.ask(self.settings[setting]).arm


@dataclass(frozen=True, slots=True)
class _ByBenchmark:
    settings: Sequence[str]
    models: Sequence[dict[str, str]]
    """By setting: benchmark -> model."""
    otherwise: Sequence[str]
    """By setting: the model for a benchmark that was not fitted on."""

    def play(self, question: Question, setting: int) -> str:
        benchmark = question.problem.benchmark or "all"
        return question.ask(self.models[setting].get(benchmark, self.otherwise[setting])).arm


def constant(model: str) -> TableMethod:
    """The row of one model."""
    return TableMethod(model, "constant", lambda table: _Constant((model,)))


def best_constant() -> TableMethod:
    """One model always, chosen on the rows it is fitted on."""
    return TableMethod(BEST_CONSTANT, "constant", lambda table: _Constant(table.models))


def benchmark_rule() -> TableMethod:
    """Each benchmark to the model of the highest v * accuracy - cost on it; the last setting takes the most accurate
    one, whatever it costs."""
    return TableMethod(RULE, "rule", _fit_rule)


def _fit_rule(table: OutcomeTable) -> TablePolicy:
    every = np.ones(table.n_problems, np.bool_)
    otherwise = [_best(table, every, v_usd) for v_usd in _prices(table)]
    return _ByBenchmark((*(f"v = {value:g}" for value in VALUES), "most accurate"), best_by_benchmark(table), otherwise)


def best_by_benchmark(table: OutcomeTable) -> list[dict[str, str]]:
    """For each price of `VALUES`, and last at any cost: benchmark -> the model of the highest v * accuracy - cost."""
    groups = np.array(table.benchmarks)
    return [
        {group: _best(table, groups == group, v_usd) for group in dict.fromkeys(table.benchmarks)}
        for v_usd in _prices(table)
    ]


def _prices(table: OutcomeTable) -> list[float]:
    return [value * cost_ref_of(table) for value in (*VALUES, np.inf)]


def _best(table: OutcomeTable, rows: NDArray[np.bool_], v_usd: float) -> str:
    accuracy = table.is_correct_MP[:, rows].mean(axis=1)
    cost = table.cost_usd_MP[:, rows].mean(axis=1)
    if np.isinf(v_usd):
        return table.models[min(range(len(accuracy)), key=lambda i: (-accuracy[i], cost[i]))]
    return table.models[int(np.argmax(v_usd * accuracy - cost))]
