"""Grouped search against exhaustive search, on the simulated pool, where every answer can be known.

    python benchmarks/bench_search.py [--plans 200] [--pool pools/simulated.toml]

Prints, for plans of 1 to 4 subtasks, the cost of the searched allocation over that of the cheapest right one, and the
executions of both. Models answer in process: the same request has the same answer, so an allocation's outcome is a
fact.
"""

import argparse
import asyncio
import itertools
import random
import statistics
from collections.abc import Sequence

import orjson

from r2.answering.drive import drive
from r2.answering.protocol import Router
from r2.call import Attempt, Call, Completion
from r2.labelling.execution import Memory, execute, remembered, side_by_side
from r2.labelling.search import cheapest_right, probe, search_allocation
from r2.ledger import cost_usd
from r2.plan import Plan
from r2.pool.client.wire import BadBody, parse_body, request_body
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.simulated.mind import gold_steps
from r2.pool.simulated.server import Conditions, SimulatedServer
from r2.problem import Problem
from r2.problems import arithmetic, scan, words
from r2.settings import Labelling, Reasoning


class InProcess:
    """Completes calls with the simulated models, priced as the pool file says, without a socket."""

    def __init__(self, pool: PoolConfig) -> None:
        self.pool, self.server = pool, SimulatedServer(pool, Conditions(faults={}))
        self.n_calls = 0

    async def complete(self, call: Call) -> Completion:
        self.n_calls += 1
        table = self.pool.models[call.model]
        body = orjson.loads(request_body(call, table, table.endpoint.partition(":")[2]))
        parsed = parse_body(orjson.dumps(self.server.complete(body)[1]))
        assert not isinstance(parsed, BadBody) and parsed.usage is not None
        price = self.pool.roster()[call.model].price
        attempt = Attempt(call.model, 0, 200, 0.0, usage=parsed.usage, cost_usd=cost_usd(price, parsed.usage))
        return Completion(parsed.text, call.model, (attempt,), parsed.finish_reason, parsed.token_logprobs)


def plans(n: int, seed: int) -> list[tuple[Problem, Plan]]:
    """As many plans of each length from 1 to 4 subtasks: arithmetic, word problems and SCAN commands with their gold
    plans."""
    questions = [
        *arithmetic.generate(n * 6, seed, max_operations=5),
        *words.generate(n, seed),
        *scan.generate(n * 4, seed),
    ]
    random.Random(seed).shuffle(questions)
    wanted = dict.fromkeys((1, 2, 3, 4), n // 4)
    chosen = []
    for problem in questions:
        plan, _ = gold_steps(problem.question)
        length = max(1, len(plan.subtasks))
        if wanted.get(length, 0):
            wanted[length] -= 1
            chosen.append((problem, plan))
    return chosen


def cheapest_by_exhaustion(problem: Problem, plan: Plan, router: Router, complete: InProcess) -> float | None:
    """Cost of the cheapest right one of all allocations, None if none is right."""
    names = [card.name for card in router.roster.solvers]
    memory = Memory()

    def everything():
        costs = []
        for models in itertools.product(names, repeat=max(1, len(plan.subtasks))):
            run = yield from remembered(execute(problem, plan, models, router), memory)
            if run.is_correct:
                costs.append(run.cost_usd)
        return min(costs, default=None)

    return asyncio.run(drive(problem, everything(), complete.complete)).outcome


def searched(problem: Problem, plan: Plan, router: Router, settings: Labelling, complete: InProcess):
    """(cost of the target or None, executions): M_eval's execution for the probe is one of them."""

    def search():
        memory = Memory()
        m_eval = [settings.m_eval or router.roster.middle] * max(1, len(plan.subtasks))
        [run] = yield from side_by_side([execute(problem, plan, m_eval, router, with_logprobs=True)], memory)
        if run.error_type is not None:
            return None, 1
        confidences, _ = yield from probe(problem, run, router, settings, memory)
        tried = yield from search_allocation(
            problem, plan, confidences, router, settings, memory, run if run.is_correct else None
        )
        best = cheapest_right(tried)
        return (None if best is None else tried[best].cost_usd), len({tuple(m_eval), *(one.models for one in tried)})

    return asyncio.run(drive(problem, search(), complete.complete)).outcome


def report(rows: Sequence[tuple[int, float | None, float | None, int, int]]) -> None:
    print("subtasks  plans  found  cost ratio of sums  mean ratio  median  executions: search  exhaustive  share")
    for length in (1, 2, 3, 4, 0):
        mine = [row for row in rows if length in (0, row[0])]
        both = [(got, best) for _, got, best, _, _ in mine if got is not None and best is not None]
        n_right = sum(best is not None for _, _, best, _, _ in mine)
        ratios = [got / best for got, best in both]
        n_search, n_all = sum(row[3] for row in mine), sum(row[4] for row in mine)
        print(
            f"{length or 'all':>8}  {len(mine):5}  {len(both)}/{n_right}  "
            f"{sum(g for g, _ in both) / sum(b for _, b in both):18.3f}  "
            f"{statistics.fmean(ratios):10.3f}  {statistics.median(ratios):6.3f}  {n_search / len(mine):18.2f}  "
            f"{n_all / len(mine):10.1f}  {n_search / n_all:.4f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=int, default=200)
    parser.add_argument("--pool", default="pools/simulated.toml")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-misses", type=int, default=Labelling().max_misses)
    arguments = parser.parse_args()
    pool = load_pool(arguments.pool)
    roster = pool.roster()
    router = Router(roster, roster.strongest, roster.strongest, None, Reasoning(method="label"))
    settings = Labelling(max_misses=arguments.max_misses)
    complete = InProcess(pool)
    rows = []
    for problem, plan in plans(arguments.plans, arguments.seed):
        n_steps = max(1, len(plan.subtasks))
        best = cheapest_by_exhaustion(problem, plan, router, complete)
        got, n_executions = searched(problem, plan, router, settings, complete)
        rows.append((n_steps, got, best, n_executions, len(roster.solvers) ** n_steps))
    report(rows)


if __name__ == "__main__":
    main()
