"""Queries over the lake that a report needs, for one or several runs, each under the name it has in the report.

Every function takes a connection on which `choose` has named the runs. Only rows that the manifest counts are seen; the
texts of calls are read for the few cases that are shown, never for a whole run.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import duckdb

from r2.call import ROUTER_PURPOSES
from storage.report.content import Case, CurveSample, Escalation, ReportCall, ReportSubtask, Share, Spend

N_CASES = 20
_TEXT_BUDGET = 900_000
"""Characters of prompts and answers that all cases of a page may hold together: it stays below 3 MB and opens on a
phone."""
_DIFFICULTY = """case when t.n_subtasks = 0 then 'direct' when t.n_subtasks = 2 then '2 subtasks'
    when t.n_subtasks <= 4 then '3-4 subtasks'
    else '5 and more' end"""


def choose(db: duckdb.DuckDBPyConnection, runs: Iterable[tuple[str, str]]) -> None:
    """Names the runs a report is about: (run id, name of the method in the report), over rows of the table `chosen`."""
    db.execute("create or replace temp table chosen (run_id varchar, name varchar)")
    if pairs := list(runs):
        db.executemany("insert into chosen values (?, ?)", pairs)


def models_by_price(db: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    """(model, its price version) of every model that was called, cheapest output token first.

    A price version begins with `DATE:INPUT/CACHED/OUTPUT` in USD per million tokens; a model without one comes last.
    """
    rows = db.execute(
        """
        select request_model, max(price_version),
               max(try_cast(split_part(regexp_extract(price_version, ':([^>]*)', 1), '/', 3) as double)) as output_usd
        from calls where run_id in (select run_id from chosen) group by 1 order by output_usd nulls last, 1
        """
    ).fetchall()
    return [(model, version) for model, version, _ in rows]


def shares_by_difficulty(db: duckdb.DuckDBPyConnection) -> tuple[Share, ...]:
    """Which model got the answering calls on problems whose plan has so many subtasks: the stand-in for difficulty of
    an ordinary run."""
    rows = db.execute(
        f"""
        with levels as (
            select run_id, problem_id, rollout, {_DIFFICULTY} as difficulty, t.n_subtasks from trajectories t
            where status = 'answered'
        ), counted as (
            select run_id, difficulty, count(*) as n, min(n_subtasks) as place from levels group by all
        )
        select name, difficulty, request_model, any_value(n),
               count(*) / sum(count(*)) over (partition by name, difficulty)
        from calls join levels using (run_id, problem_id, rollout) join counted using (run_id, difficulty)
        join chosen using (run_id)
        where error_type is null and not list_contains(?, purpose)
        group by 1, 2, 3 order by 1, any_value(place), 3
        """,
        [[*sorted(ROUTER_PURPOSES), "program"]],
    ).fetchall()
    return tuple(Share(*row) for row in rows)


def spend(db: duckdb.DuckDBPyConnection) -> tuple[Spend, ...]:
    """Cost by purpose and model; attempts that failed are in it, for some are charged."""
    rows = db.execute(
        """
        select c.name, purpose, request_model, count(*), sum(cost_usd) from calls join chosen c using (run_id)
        group by 1, 2, 3 order by 1, 5 desc, 2, 3
        """
    ).fetchall()
    return tuple(
        Spend(name, purpose, model, purpose in ROUTER_PURPOSES, n, usd) for name, purpose, model, n, usd in rows
    )


def escalations(db: duckdb.DuckDBPyConnection) -> tuple[Escalation, ...]:
    """Subtasks passed on, from which model to which."""
    rows = db.execute(
        """
        select c.name, allocated_model, model, sum(n_escalated)::bigint, sum(n_fallbacks)::bigint, sum(cost_usd)
        from escalations join chosen c using (run_id) group by 1, 2, 3 order by 1, 4 desc, 5 desc, 2, 3
        """
    ).fetchall()
    return tuple(Escalation(*row) for row in rows)


def curves(db: duckdb.DuckDBPyConnection, run_id: str | None = None) -> tuple[tuple[CurveSample, ...], tuple[str, ...]]:
    """Metrics of training over steps counted through all rounds, and the runs they are of: the one named, else the
    newest of each policy."""
    rows = db.execute(
        """
        with newest as (
            select policy, phase, arg_max(run_id, logged_at) as run_id from curves
            where ?::varchar is null or run_id = ? group by 1, 2
        )
        select policy, phase, metric,
               dense_rank() over (partition by policy, phase, metric order by round, step) - 1 as place,
               avg(value), any_value(run_id)
        from curves join newest using (policy, phase, run_id) where isfinite(value)
        group by policy, phase, metric, round, step order by metric, policy, phase, place
        """,
        [run_id, run_id],
    ).fetchall()
    return tuple(CurveSample(*row[:5]) for row in rows), tuple(dict.fromkeys(row[5] for row in rows))


def latencies_by_model(db: duckdb.DuckDBPyConnection) -> list[tuple[str, float, float, int]]:
    """(model, p50, p95, attempts) of successful attempts, from sending to the last byte."""
    return db.execute(
        """
        select request_model, quantile_cont(latency_s, 0.5), quantile_cont(latency_s, 0.95), count(*)
        from calls where run_id in (select run_id from chosen) and error_type is null group by 1 order by 2, 1
        """
    ).fetchall()


def top_model(db: duckdb.DuckDBPyConnection, name: str) -> tuple[str, float, int] | None:
    """(model, share, calls) of the model that got most of the answering calls; the router's own
    calls are not counted."""
    rows = db.execute(
        """
        select request_model, count(*) / sum(count(*)) over (), sum(count(*)) over ()::bigint
        from calls join chosen c using (run_id)
        where c.name = ? and not list_contains(?, purpose) and error_type is null
        group by 1 order by 2 desc, 1 limit 1
        """,
        [name, [*sorted(ROUTER_PURPOSES), "program"]],
    ).fetchall()
    return rows[0] if rows else None


def failed(db: duckdb.DuckDBPyConnection, name: str) -> tuple[int, int]:
    """(problems without an answer, problems) of a method."""
    [(n_failed, n)] = db.execute(
        "select count(*) filter (status = 'failed'), count(*) from trajectories join chosen using (run_id) where "
        "name = ?",
        [name],
    ).fetchall()
    return n_failed, n


def without_propensity(db: duckdb.DuckDBPyConnection, name: str) -> tuple[int, int]:
    """(subtasks whose choice has no probability, subtasks) of a method."""
    [(n_blind, n)] = db.execute(
        """
        select count(*) filter (len(list_filter(
                   candidates, lambda c: c.model = allocated_model and c.propensity is not null
               )) = 0), count(*)
        from subtasks join chosen using (run_id) where name = ?
        """,
        [name],
    ).fetchall()
    return n_blind, n


def estimated_share(db: duckdb.DuckDBPyConnection) -> float:
    """Share of the successful attempts whose tokens had to be estimated."""
    [(share,)] = db.execute(
        """
        select coalesce(avg((usage_source = 'estimated')::int), 0) from calls
        where run_id in (select run_id from chosen) and error_type is null
        """
    ).fetchall()
    return float(share)


def code_versions(db: duckdb.DuckDBPyConnection) -> list[str]:
    """Versions of this package that the runs were made with."""
    rows = db.execute(
        "select distinct code_version from runs where run_id in (select run_id from chosen) order by 1"
    ).fetchall()
    return [version for (version,) in rows if version]


def regressions(
    db: duckdb.DuckDBPyConnection, pairs: Iterable[tuple[str, str]]
) -> list[tuple[str, str, int, str, float]]:
    """Problems that the first run of a pair has wrong and the second right, most expensive first, each once.

    Rows are (run id, problem id, rollout, the second's answer, what the second paid).
    """
    db.execute("create or replace temp table paired (mine varchar, other varchar)")
    if given := list(pairs):
        db.executemany("insert into paired values (?, ?)", given)
    return db.execute(
        """
        select m.run_id, m.problem_id, m.rollout, coalesce(o.answer, ''), o.cost_usd
        from paired join trajectories m on m.run_id = mine
        join trajectories o on o.run_id = other and o.problem_id = m.problem_id and o.rollout = m.rollout
        where o.is_correct and not coalesce(m.is_correct, false)
        qualify row_number() over (partition by m.problem_id order by m.cost_usd desc, m.run_id) = 1
        order by m.cost_usd desc, m.problem_id
        """
    ).fetchall()


def cases(
    db: duckdb.DuckDBPyConnection, name: str, keys: Iterable[tuple[str, str, int]], others: Mapping[str, str]
) -> tuple[Case, ...]:
    """The trajectories of the method with these (run id, problem id, rollout), whole, in the order given.

    Texts longer than the page can carry are cut, and say by how much. `others` has a line for a problem id.
    """
    wanted = list(keys)
    db.execute("create or replace temp table shown (place int, run_id varchar, problem_id varchar, rollout smallint)")
    if not wanted:
        return ()
    db.executemany("insert into shown values (?, ?, ?, ?)", [(i, *key) for i, key in enumerate(wanted)])
    trajectories = db.execute(
        """
        select t.run_id, problem_id, t.rollout, benchmark, input, target, answer, is_correct, cost_usd, plan,
               failed_checks,
               coalesce(error_type || ': ' || coalesce(error_message, ''), '')
        from trajectories t join shown using (run_id, problem_id, rollout) order by place
        """
    ).fetchall()
    subtasks: dict[tuple[str, str, int], list[ReportSubtask]] = {}
    for *key, index, text, output, allocated, model, is_escalated, cost_usd, error in db.execute(
        """
        select s.run_id, problem_id, rollout, subtask_index, subtask_text, output_text, allocated_model, model,
               is_escalated,
               cost_usd, coalesce(error_type, '')
        from subtasks s join shown using (run_id, problem_id, rollout) order by subtask_index
        """
    ).fetchall():
        line = ReportSubtask(index, text, output, allocated, model, is_escalated, cost_usd, error)
        subtasks.setdefault((key[0], key[1], key[2]), []).append(line)
    rows = db.execute(
        """
        select c.run_id, problem_id, rollout, purpose, subtask_index, attempt, request_model, response_model, status,
               finish_reason,
               input_tokens, output_tokens, cost_usd, latency_s, input_messages, output_text,
               coalesce(error_type || ': ' || coalesce(error_message, ''), '')
        from calls c join shown using (run_id, problem_id, rollout) order by place, call_index, attempt
        """
    ).fetchall()
    limit = _text_limit([len(row[14]) + len(row[15] or "") for row in rows])
    calls: dict[tuple[str, str, int], list[ReportCall]] = {}
    for row in rows:
        messages, output, error = row[14:]
        shown = tuple((role, _cut(text, limit)) for role, text in json.loads(messages))
        fields: tuple[Any, ...] = (*row[3:14], shown, None if output is None else _cut(output, limit), error)
        calls.setdefault(row[:3], []).append(ReportCall(*fields))
    return tuple(
        Case(
            problem_id,
            benchmark,
            name,
            _cut(question, limit),
            target,
            None if answer is None else _cut(answer, limit),
            is_correct,
            cost_usd,
            plan,
            failed_checks,
            error,
            tuple(subtasks.get((run_id, problem_id, rollout), ())),
            tuple(calls.get((run_id, problem_id, rollout), ())),
            others.get(problem_id, ""),
        )
        for (
            run_id,
            problem_id,
            rollout,
            benchmark,
            question,
            target,
            answer,
            is_correct,
            cost_usd,
            plan,
            failed_checks,
            error,
        ) in trajectories
    )


def _text_limit(lengths: list[int]) -> int:
    """The longest text that may be shown whole, so that all calls fit the budget."""
    for limit in (20_000, 8_000, 3_000, 1_200):
        if sum(min(length, 2 * limit) for length in lengths) <= _TEXT_BUDGET:
            return limit
    return 400


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]} [... {len(text) - limit} more characters]"
