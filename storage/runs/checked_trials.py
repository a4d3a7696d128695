"""What the runs of a lake say of who is right: each answer to a whole question that has a check or feedback, as a trial
for a scorer (r2/training/scorer/trials.py). Feedback (`r2 feedback`) counts before the check.

A trial is one entry of today's pool that was asked the question itself, in the words of its prompt mode or step by
step. Counted are the methods that ask so, in `r2 answer` and in evaluations; an entry whose endpoint, model or options
are others today is left out, and so are answers in free text, of which nobody can say which are the same. Confidence is
read from the bodies as they came, where log-probabilities were asked for.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import orjson

from r2.answering.confidence import token_confidence
from r2.answering.open_unit import STEP_BY_STEP, entry_of
from r2.answering.scored_unit import question_kind
from r2.call import Completion
from r2.errors import LakeError
from r2.pool.client.wire import ParsedReply, parse_body
from r2.pool.file.config import PoolConfig
from r2.pool.file.identity import answering_digests
from r2.problem import Problem
from r2.problems.benchmark import benchmark_of, checked_part, is_free, judge, result_in
from r2.problems.result_keys import result_key
from r2.problems.split import question_key, split_of
from r2.settings import Reasoning
from r2.training.scorer.trials import Trial
from storage.runs.plan import RunPlan, read_plan, run_dir_of
from storage.sql.query import connect, damage_named

STEP_BY_STEP_METHODS: Final = ("cot",)
OWN_MODE_METHODS: Final = (
    "r2",
    "random",
    "start",
    "rule",
    "query_router",
    "agreement_cascade",
    "confidence_cascade",
    "program",
)

_CALLS: Final = """
    select t.run_id, t.problem_id, t.rollout, t.method, t.answer, t.decisions,
           coalesce(f.is_right, t.is_correct) as is_correct,
           coalesce(f.is_right <> t.is_correct, false) as is_overruled,
           c.request_model, c.purpose, c.output_text, c.output_tokens, c.error_type, c.raw_body,
           c.cost_usd + coalesce(c.saved_usd, 0) as cost_usd
    from trajectories as t join calls as c using (run_id, problem_id, rollout)
    left join feedback_verdicts as f using (run_id, problem_id, rollout)
    where coalesce(f.is_right, t.is_correct) is not null and t.phase is null
          and t.started_at >= to_timestamp(?) and (? or list_contains(?, t.run_id)) and t.n_subtasks = 0
          and list_contains(?, t.method) and c.purpose in ('solve', 'program')
    order by t.started_at, t.run_id, t.problem_id, t.rollout, c.call_index, c.attempt
"""
_ABOUT: Final = ("run_id", "problem_id", "rollout")


@dataclass(frozen=True, slots=True)
class CheckedTrials:
    """In the order of asking. `left_out`: why checked answers are no trials, as words, with how many."""

    trials: tuple[Trial, ...]
    left_out: dict[str, int]


@dataclass(frozen=True, slots=True)
class Among:
    """Which answers are looked at: since a moment (epoch seconds), of some runs, to some questions or to all but some
    (`question_key`). None: all."""

    since: float = 0.0
    run_ids: frozenset[str] | None = None
    only: frozenset[str] | None = None
    without: frozenset[str] = frozenset()

    def has(self, problem: Problem) -> bool:
        if self.only is None and not self.without:
            return True
        key = question_key(problem)
        return key not in self.without and (self.only is None or key in self.only)

    def bounds(self) -> list[Any]:
        """For the query."""
        return [self.since, self.run_ids is None, sorted(self.run_ids or ())]


EVERYTHING: Final = Among()


def checked_trials(
    lake: Path,
    pool: PoolConfig,
    *,
    split_seed: int,
    test_share: float,
    alpha: float | None = None,
    among: Among = EVERYTHING,
) -> CheckedTrials:
    """The trials on the `train` side of the split (r2/problems/split.py). `alpha`: the quantile of token probabilities
    that is the confidence; None: the usual one. LakeError for a lake that is not there."""
    alpha = Reasoning().confidence_quantile if alpha is None else alpha
    digests = answering_digests(pool)
    plans: dict[str, RunPlan | None] = {}
    problems: dict[str, dict[str, Problem]] = {}
    found: list[Trial] = []
    left_out: Counter[str] = Counter()
    with connect(lake, views=["feedback_verdicts"]) as db, damage_named(lake):
        read = db.execute(_CALLS, [*among.bounds(), [*STEP_BY_STEP_METHODS, *OWN_MODE_METHODS]])
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
            elif problem.asked is not None or (is_free(problem) and not problem.choices):
                left_out["in free text, or asked in the row's own way"] += 1
            else:
                same = entries_of_today(plan, pool, digests)
                found += _trials(problem, plan, asked, pool, same, alpha, left_out)
    return CheckedTrials(tuple(found), dict(left_out))


def planned(lake: Path, run_id: str) -> tuple[RunPlan | None, dict[str, Problem]]:
    """A run's plan and its problems by id; None and nothing where the plan is gone."""
    try:
        plan = read_plan(run_dir_of(lake, run_id))
        rows = (row for shard in plan.shards for row in plan.rows(shard.index))
        return plan, {problem.problem_id: problem for problem, bad in rows if bad is None}
    except LakeError:
        return None, {}


def entries_of_today(plan: RunPlan, pool: PoolConfig, digests: dict[str, str]) -> frozenset[str]:
    """The entries that the run asked as the pool has them today."""
    if plan.pool_digest.startswith(pool.digest):
        return frozenset(pool.models)
    return frozenset(name for name, entry in plan.entries.items() if digests.get(name) == entry.answering)


def _trials(
    problem: Problem,
    plan: RunPlan,
    calls: Sequence[dict[str, Any]],
    pool: PoolConfig,
    same: frozenset[str],
    alpha: float,
    left_out: Counter[str],
) -> Iterator[Trial]:
    """Of one question, answered once: one for each entry that was asked."""
    by_entry: dict[str, list[dict[str, Any]]] = {}
    for call in calls:
        by_entry.setdefault(call["request_model"], []).append(call)
    for entry, its in by_entry.items():
        last = last_reply(its)
        if entry not in same or last is None:
            left_out["of an entry that is another today, or failed"] += 1
            continue
        arm = _arm(entry, calls[0], pool)
        if arm is None:
            left_out["of an entry that was asked in two ways for one question"] += 1
            continue
        is_alone = len(by_entry) == 1
        reply, said = last
        text = calls[0]["answer"] if is_alone else result_in(problem, said)
        is_right = bool(calls[0]["is_correct"]) if is_alone else _is_right(problem, plan, text, calls[0])
        if is_right is None:
            left_out["whose own check is not known"] += 1
            continue
        yield Trial(
            replace(problem, target=None, aliases=()),
            question_kind(problem),
            arm,
            is_right,
            _key(problem, text),
            sum(call["cost_usd"] for call in its),
            sum(call["output_tokens"] for call in its),
            confidence_of(reply, alpha),
        )


def _arm(entry: str, call: dict[str, Any], pool: PoolConfig) -> str | None:
    """The arm as the rule of sequential routing names it; None where that cannot be told."""
    if call["decisions"]:
        asked = {one["arm"] for one in orjson.loads(call["decisions"]) if one["arm"] and entry_of(one["arm"]) == entry}
        return next(iter(asked), entry) if len(asked) < 2 else None
    is_thinking = call["method"] in STEP_BY_STEP_METHODS and pool.models[entry].prompt_mode != "cot"
    return entry + STEP_BY_STEP if is_thinking else entry


def _is_right(problem: Problem, plan: RunPlan, text: str, call: dict[str, Any]) -> bool | None:
    """Of one of several results: the verdict on the answer where it is that, else the benchmark's check where that is
    quick, was the judge, and people do not say the opposite."""
    if (key := _key(problem, text)) is not None and key == _key(problem, call["answer"]):
        return bool(call["is_correct"])
    if call["is_overruled"] or plan.settings.reasoning.check is not None or benchmark_of(problem).is_slow:
        return None
    return judge(problem, text)


def _key(problem: Problem, text: str | None) -> str | None:
    part = None if text is None else checked_part(problem, text)
    return result_key(problem.benchmark, text if part is None else part)


def last_reply(calls: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], str] | None:
    """Of the calls to one entry for one unit, in their order: the last that a model answered, and what it came to,
    which is what its program printed where one was run after it ("" where that gave nothing). None: none answered."""
    replies = [at for at, call in enumerate(calls) if call["purpose"] != "program" and call["error_type"] is None]
    if not replies:
        return None
    reply, runs = calls[replies[-1]], [call for call in calls[replies[-1] :] if call["purpose"] == "program"]
    found = runs[-1] if runs else reply
    return reply, "" if found["error_type"] is not None else found["output_text"] or ""


def confidence_of(call: dict[str, Any], alpha: float) -> float | None:
    """How sure the model was, by the call's body as it came; None where log-probabilities were not asked for."""
    parsed = parse_body(call["raw_body"])
    if not isinstance(parsed, ParsedReply) or not parsed.token_logprobs:
        return None
    return token_confidence(Completion("", call["request_model"], (), "", parsed.token_logprobs), alpha)
