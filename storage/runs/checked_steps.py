"""What the runs of a lake say of who is right at a step of a plan, and whose plans are right: trials for a scorer
(r2/training/scorer/steps.py says what counts as right), from every trajectory with a plan and a check or feedback.

Any method that plans counts: r2 itself, `start_steps`, `decompose_one`. The surest source is an evaluation on training
questions with `decompose_one:all` or `start_steps:all`, where each model is asked for the steps of the same plans.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import orjson

from r2.answering.open_unit import entry_of
from r2.errors import PlanParseError
from r2.plan import Plan, parse_plan
from r2.pool.file.config import PoolConfig
from r2.pool.file.identity import answering_digests
from r2.problem import Problem
from r2.problems.benchmark import is_free, result_in
from r2.problems.split import split_of
from r2.settings import Reasoning
from r2.training.scorer.steps import AskedPlan, AskedStep, plan_trials, step_trials
from storage.runs.checked_trials import (
    EVERYTHING,
    Among,
    CheckedTrials,
    confidence_of,
    entries_of_today,
    last_reply,
    planned,
)
from storage.runs.plan import RunPlan
from storage.sql.query import connect, damage_named

_ABOUT: Final = ("run_id", "problem_id", "rollout")
_CALLS: Final = """
    select t.run_id, t.problem_id, t.rollout, t.plan, t.n_subtasks, t.decisions,
           coalesce(f.is_right, t.is_correct) as is_correct,
           c.request_model, c.purpose, c.subtask_index, c.output_text, c.output_tokens, c.error_type, c.raw_body,
           c.cost_usd + coalesce(c.saved_usd, 0) as cost_usd,
           s.subtask_text, s.depends_on, s.output_text as settled
    from trajectories as t join calls as c using (run_id, problem_id, rollout)
    left join subtasks as s using (run_id, problem_id, rollout, subtask_index)
    left join feedback_verdicts as f using (run_id, problem_id, rollout)
    where coalesce(f.is_right, t.is_correct) is not null and t.phase is null
          and t.started_at >= to_timestamp(?) and (? or list_contains(?, t.run_id)) and t.method <> 'label'
          and (c.purpose = 'decompose' or (c.purpose in ('solve', 'program') and t.n_subtasks > 0))
    order by t.started_at, t.run_id, t.problem_id, t.rollout, c.call_index, c.attempt
"""


def checked_steps(
    lake: Path,
    pool: PoolConfig,
    *,
    split_seed: int,
    test_share: float,
    alpha: float | None = None,
    among: Among = EVERYTHING,
) -> CheckedTrials:
    """As `checked_trials`, of steps and of plans."""
    alpha = Reasoning().confidence_quantile if alpha is None else alpha
    digests = answering_digests(pool)
    plans: dict[str, RunPlan | None] = {}
    problems: dict[str, dict[str, Problem]] = {}
    steps: list[AskedStep] = []
    asked_plans: list[AskedPlan] = []
    left_out: Counter[str] = Counter()
    with connect(lake, views=["feedback_verdicts"]) as db, damage_named(lake):
        read = db.execute(_CALLS, among.bounds())
        names = [column[0] for column in read.description or ()]
        rows = (dict(zip(names, row, strict=True)) for row in iter(read.fetchone, None))
        for key, calls in groupby(rows, key=lambda row: tuple(row[name] for name in _ABOUT)):
            run_id, problem_id = str(key[0]), str(key[1])
            if run_id not in plans:
                plans[run_id], problems[run_id] = planned(lake, run_id)
            plan, problem = plans[run_id], problems[run_id].get(problem_id)
            asked = list(calls)
            if plan is None or problem is None:
                left_out["of a run whose plan is gone"] += 1
            elif split_of(problem.question, split_seed, test_share) == "test":
                left_out["to a question on the test side of the split"] += 1
            elif not among.has(problem):
                left_out["to a question that is held out"] += 1
            elif problem.asked is not None or is_free(problem):
                left_out["in free text, or asked in the row's own way"] += 1
            else:
                same = entries_of_today(plan, pool, digests)
                steps += _steps(problem, asked, same, alpha)
                asked_plans += _plans(problem, asked, same)
    return CheckedTrials((*step_trials(steps), *plan_trials(asked_plans)), dict(left_out))


def _steps(problem: Problem, calls: list[dict[str, Any]], same: frozenset[str], alpha: float) -> Iterator[AskedStep]:
    """What each entry said at each step; of several calls to one entry the last that was answered."""
    settled = {call["subtask_index"]: call["settled"] for call in calls if call["subtask_index"] is not None}
    last: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for call in calls:
        if call["purpose"] in ("solve", "program") and call["subtask_text"] is not None:
            last.setdefault((call["subtask_index"], call["request_model"]), []).append(call)
    for (index, entry), its in last.items():
        found = last_reply(its)
        if entry not in same or found is None:
            continue
        reply, said = found
        arm = _arm(entry, index, reply)
        if arm is None:
            continue
        text = result_in(problem, said) or None
        yield AskedStep(
            problem,
            reply["subtask_text"],
            tuple(settled.get(need) or "" for need in reply["depends_on"]),
            arm,
            text,
            text is not None and text == settled[index],
            index == reply["n_subtasks"] - 1,
            bool(reply["is_correct"]),
            sum(call["cost_usd"] for call in its),
            sum(call["output_tokens"] for call in its),
            confidence_of(reply, alpha),
        )


def _arm(entry: str, index: int, call: dict[str, Any]) -> str | None:
    """The arm as the rule of sequential routing names it; None where that cannot be told."""
    if not call["decisions"]:
        return entry
    asked = {
        one["arm"]
        for one in orjson.loads(call["decisions"])
        if one["arm"] and one["subtask_index"] == index and entry_of(one["arm"]) == entry
    }
    return next(iter(asked), entry) if len(asked) < 2 else None


def _plans(problem: Problem, calls: list[dict[str, Any]], same: frozenset[str]) -> Iterator[AskedPlan]:
    """What each decomposer wrote."""
    for call in calls:
        if call["purpose"] != "decompose" or call["error_type"] is not None or call["request_model"] not in same:
            continue
        yield AskedPlan(
            problem,
            call["request_model"],
            _plan_in(call["output_text"] or ""),
            _plan_in(call["plan"] or ""),
            bool(call["is_correct"]),
            call["cost_usd"],
            call["output_tokens"],
        )


def _plan_in(text: str) -> Plan | None:
    try:
        return parse_plan(text)
    except PlanParseError:
        return None
