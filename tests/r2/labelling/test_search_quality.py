"""Searched allocations against exhaustive search where every answer is known; `benchmarks/bench_search.py` does it on
200 plans."""

from benchmarks.bench_search import InProcess, cheapest_by_exhaustion, plans, searched
from r2.answering.protocol import Router
from r2.pool.file.config import load_pool
from r2.settings import Labelling, Reasoning
from tests.support.paths import ROOT

POOL = ROOT / "pools/simulated.toml"


def test_searched_allocations_cost_little_more_than_the_cheapest_right_ones_for_a_fraction_of_the_executions():
    pool = load_pool(POOL)
    roster = pool.roster()
    router = Router(roster, roster.strongest, roster.strongest, None, Reasoning(method="label"))
    complete = InProcess(pool)
    found_usd = best_usd = 0.0
    n_searched = n_exhaustive = n_plans = 0
    for problem, plan in plans(60, seed=4):
        n_steps = max(1, len(plan.subtasks))
        if n_steps == 4:  # ten thousand executions each: left to the benchmark
            continue
        best = cheapest_by_exhaustion(problem, plan, router, complete)
        found, n = searched(problem, plan, router, Labelling(), complete)
        assert (found is None) == (best is None), problem.question
        if found is not None and best is not None:
            assert found >= best - 1e-15
            found_usd, best_usd, n_plans = found_usd + found, best_usd + best, n_plans + 1
        n_searched, n_exhaustive = n_searched + n, n_exhaustive + len(roster.solvers) ** n_steps
    assert n_plans >= 40
    assert found_usd <= 1.15 * best_usd
    assert n_searched <= n_exhaustive / 4
