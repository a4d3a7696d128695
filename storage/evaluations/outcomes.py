"""Outcomes of an evaluation's runs, read from the lake."""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from r2.call import ROUTER_PURPOSES, UNASKED_PURPOSES
from r2.evaluation.outcomes import MethodOutcomes, from_seeds


def outcomes_of(
    db: duckdb.DuckDBPyConnection,
    label: str,
    method: str,
    run_ids: Sequence[str],
    problem_ids: Sequence[str],
    difficulty: Mapping[str, str],
    sweep: str = "",
) -> MethodOutcomes | None:
    """How the runs (one per seed) did on these problems, in this order; None where one of them has not settled them
    all.

    A failed problem is wrong, and so is one that the user's own check gave no verdict on. A connection of
    `storage.sql.query.connect`.
    """
    columns: dict[str, list[list[float]]] = {name: [] for name in _ARRAYS}
    for run_id in run_ids:
        rows = {row[0]: row[1:] for row in db.execute(_OUTCOMES, [run_id, run_id]).fetchall()}
        if any(problem_id not in rows for problem_id in problem_ids):
            return None
        for i, name in enumerate(_ARRAYS):
            columns[name].append([float(rows[problem_id][i]) for problem_id in problem_ids])
    by_difficulty: dict[str, dict[str, float]] = {}
    calls: dict[str, float] = {}
    for problem_id, model, n in db.execute(_CALLS, [list(run_ids), sorted(_NOT_SOLVING)]).fetchall():
        if problem_id not in difficulty:
            continue
        calls[model] = calls.get(model, 0) + n
        of_band = by_difficulty.setdefault(difficulty[problem_id], {})
        of_band[model] = of_band.get(model, 0) + n
    arrays: dict[str, Any] = {name: list(zip(*seeds, strict=True)) for name, seeds in columns.items()}
    return from_seeds(
        label,
        method,
        problem_ids,
        [difficulty[problem_id] for problem_id in problem_ids],
        **arrays,
        model_calls=calls,
        model_calls_by_difficulty=by_difficulty,
        sweep=sweep,
    )


def charged(db: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> tuple[float, int]:
    """(USD, calls) that the runs' problems were charged; calls that several of them share count for each."""
    [(usd, n)] = db.execute(
        "select coalesce(sum(cost_usd), 0), coalesce(sum(n_calls), 0)::bigint from trajectories where "
        "list_contains(?, run_id)",
        [list(run_ids)],
    ).fetchall()
    return float(usd), int(n)


_NOT_SOLVING = ROUTER_PURPOSES | UNASKED_PURPOSES


_ARRAYS = ("is_correct_PS", "cost_usd_PS", "latency_s_PS", "n_calls_PS", "n_tokens_PS", "router_cost_usd_PS")


_OUTCOMES = """
    with judging as (
        select problem_id, sum(cost_usd) as cost_usd, count(distinct call_index) as n_calls,
               sum(input_tokens + output_tokens) as tokens
        from calls where run_id = ? and purpose = 'judge' group by problem_id
    )
    select problem_id, coalesce(is_correct, false)::int, t.cost_usd - coalesce(j.cost_usd, 0), latency_s,
           t.n_calls - coalesce(j.n_calls, 0), input_tokens + output_tokens - coalesce(j.tokens, 0), router_cost_usd
    from trajectories as t left join judging as j using (problem_id) where t.run_id = ?
"""
"""Without the calls of whoever judges the answers: they are no part of answering, and no method is charged for them."""


_CALLS = """
    select problem_id, request_model, count(*) from calls
    where list_contains(?, run_id) and error_type is null and not list_contains(?, purpose)
    group by all order by all
"""
