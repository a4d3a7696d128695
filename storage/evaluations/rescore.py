"""Stored runs scored again without a call: costs under another price table, answers read by today's parser, judged by
today's checks.

Usage and texts are facts and stay; what follows from them is computed anew and set beside the old values. Old rows are
never changed: the result is a Parquet file in `<lake>/_rescored/`, and for an evaluation its comparison too. Called by
`r2 rescore`.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from r2.atomic import replacing, write_atomically
from r2.call import ROUTER_PURPOSES
from r2.errors import ConfigError, LakeError
from r2.evaluation.comparison import Comparison, to_json
from r2.evaluation.outcomes import MethodOutcomes
from r2.evaluation.settings import EvaluateSettings
from r2.ledger import Price, Usage, cost_usd
from r2.methods import cot
from r2.pool.client.dialects.schemas import unwrapped
from r2.pool.client.wire import ParsedReply, parse_body
from r2.problem import Problem
from r2.problems.benchmark import judge, result_in
from r2.problems.own_check import OwnCheck, Verdict, is_judge, own_checks
from r2.roster import Roster
from r2.settings import Reasoning
from storage.evaluations.store import evaluation_dir, is_evaluation, read_comparison, read_evaluation
from storage.evaluations.summary import compared, outcomes_of_rows
from storage.lake.lake import Lake
from storage.lake.manifest import make_folder
from storage.lake.stores import store_of
from storage.runs.plan import RunPlan, read_plan, run_dir_of

Parser = Callable[[Problem, str], str]
"""What a model's text comes to, for a problem."""

_CALLS = (
    "problem_id",
    "rollout",
    "call_index",
    "attempt",
    "purpose",
    "request_model",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "cost_usd",
    "saved_usd",
    "error_type",
    "output_text",
    "raw_body",
    "cache_write_tokens",
)
_TRAJECTORIES = (
    "problem_id",
    "rollout",
    "answer",
    "is_correct",
    "check_score",
    "check_error",
    "error_type",
    "cost_usd",
    "latency_s",
    "router_cost_usd",
    "value",
)
_ANSWERING = ("solve", "final", "program")


@dataclass(frozen=True, slots=True)
class RescoredRow:
    """One trajectory, old and new. `utility` is right - lambda_usd * USD - lambda_s * seconds (docs/method.md, section
    1; ours)."""

    run_id: str
    problem_id: str
    rollout: int
    old_answer: str | None
    answer: str | None
    old_is_correct: bool | None
    is_correct: bool | None
    old_cost_usd: float
    cost_usd: float
    old_router_cost_usd: float
    router_cost_usd: float
    old_utility: float
    utility: float
    check_score: float | None = None
    check_error: str | None = None
    """Of the user's own check, where one judged."""
    judge_cost_usd: float = 0.0
    """Of `cost_usd`, what was paid for judging: no part of what a method costs."""

    @property
    def is_changed(self) -> bool:
        """Another answer, or another judgement; prices change every row and are not meant."""
        return (self.answer, self.is_correct) != (self.old_answer, self.old_is_correct)


@dataclass(frozen=True, slots=True)
class RescoreResult:
    """A run or an evaluation, scored again."""

    rows: tuple[RescoredRow, ...]
    path: Path
    old: Comparison | None = None
    new: Comparison | None = None
    """Of an evaluation, before and after."""

    def changed(self) -> list[RescoredRow]:
        return [row for row in self.rows if row.is_changed]


def rescore_run(
    lake: Lake,
    run_id: str,
    *,
    prices: Roster | None = None,
    parser: Parser | None = None,
    check: OwnCheck | None = None,
    lambda_usd: float = 0.0,
    lambda_s: float = 0.0,
) -> Iterator[RescoredRow]:
    """A run's trajectories in input order. `prices` None: as stored; `parser` None: answers as stored, and only judged
    again. A chain of thought is charged as the pool's entry for it (`Roster.step_by_step`), whoever was asked then.
    `check` None: judged as the run was, by the benchmark's check or by a check of the user's own; a judge's verdicts
    stay as they are, and an answer that reads otherwise now has none.

    Raises ConfigError for a run that the lake does not have, or a model that `prices` lacks.
    """
    plan = _plan(lake, run_id)
    problems = _problems(plan)
    if check is None:
        asked = plan.settings.reasoning
        check, _ = own_checks(Reasoning(check=asked.check, rubric=asked.rubric if is_judge(asked.check) else None))
    table = None if prices is None else _price_table(prices, plan.settings.reasoning.method)
    trajectories = (row for batch in lake.iter_rows("trajectories", run_id, _TRAJECTORIES) for row in batch.to_pylist())
    calls = (row for batch in lake.iter_rows("calls", run_id, _CALLS) for row in batch.to_pylist())
    by_problem = groupby(calls, key=lambda row: (row["problem_id"], row["rollout"]))
    ahead = next(by_problem, None)
    for old in trajectories:
        mine: list[dict[str, Any]] = []
        if ahead is not None and ahead[0] == (old["problem_id"], old["rollout"]):
            mine = list(ahead[1])
            ahead = next(by_problem, None)
        yield _rescored(run_id, old, mine, problems, table, parser, check, lambda_usd, lambda_s)


def _plan(lake: Lake, run_id: str) -> RunPlan:
    try:
        return read_plan(run_dir_of(lake.root, run_id))
    except LakeError:
        known = ", ".join(lake.manifest.run_ids()) or "none"
        raise ConfigError(f"{lake.root} has no run {run_id!r} with its plan. Runs: {known}.") from None


def _price_table(pool: Roster, method: str) -> dict[str, Price]:
    """Entry that was asked -> what it is charged for a call of the method."""
    if method == cot.METHOD.name:
        return {name: pool[pool.step_by_step(name)].price for name in pool.by_name}
    return {name: card.price for name, card in pool.by_name.items()}


def _problems(plan: RunPlan) -> dict[str, Problem]:
    return {
        problem.problem_id: problem for shard in plan.shards for problem, bad in plan.rows(shard.index) if bad is None
    }


def _rescored(
    run_id: str,
    old: Mapping[str, Any],
    calls: Sequence[Mapping[str, Any]],
    problems: Mapping[str, Problem],
    prices: Mapping[str, Price] | None,
    parser: Parser | None,
    check: OwnCheck | None,
    lambda_usd: float,
    lambda_s: float,
) -> RescoredRow:
    total = router = judging = 0.0
    saved = sum(call["saved_usd"] or 0.0 for call in calls)
    router_saved = sum(call["saved_usd"] or 0.0 for call in calls if call["purpose"] in ROUTER_PURPOSES)
    old_usd = old["cost_usd"] + saved  # what it cost, whoever paid
    for call in calls:
        usd = _cost_usd(call, prices)
        total += usd
        router += usd if call["purpose"] in ROUTER_PURPOSES else 0.0
        judging += usd if call["purpose"] == "judge" else 0.0
    answer = old["answer"]
    problem = problems.get(old["problem_id"])
    is_read = (
        old["answer"] is not None or old["error_type"] == "empty"
    )  # others ended without a text that would be the answer
    if parser is not None and problem is not None and is_read and old["value"] is None:  # JSON was taken as it is
        answer = _answer(problem, old["answer"], calls, parser)
    verdict = Verdict(None)
    is_correct = old["is_correct"]
    if problem is not None and check is not None:
        verdict = _verdict(problem, answer, old, check)
        is_correct = verdict.is_right
    elif problem is not None and problem.target is not None:
        is_correct = answer is not None and judge(problem, answer) is True
    return RescoredRow(
        run_id=run_id,
        problem_id=old["problem_id"],
        rollout=old["rollout"],
        old_answer=old["answer"],
        answer=answer,
        old_is_correct=old["is_correct"],
        is_correct=is_correct,
        old_cost_usd=old_usd,
        cost_usd=total,
        old_router_cost_usd=old["router_cost_usd"] + router_saved,
        router_cost_usd=router,
        old_utility=bool(old["is_correct"]) - lambda_usd * old_usd - lambda_s * old["latency_s"],
        utility=bool(is_correct) - lambda_usd * total - lambda_s * old["latency_s"],
        check_score=verdict.score,
        check_error=verdict.error,
        judge_cost_usd=judging,
    )


def _verdict(problem: Problem, answer: str | None, old: Mapping[str, Any], check: OwnCheck) -> Verdict:
    """What the check says now. A judge is not asked again: its verdict on the same answer stands."""
    if check.says is None:
        is_same = answer == old["answer"]
        return (
            Verdict(old["check_score"], old["check_error"]) if is_same else Verdict(None, "another answer was judged")
        )
    if answer is None or not check.can_judge(problem):
        return Verdict(0.0 if check.can_judge(problem) else None)
    return check.says(problem, answer, None)


def _cost_usd(call: Mapping[str, Any], prices: Mapping[str, Price] | None) -> float:
    """Of one attempt; an attempt without usage from the provider was charged by its stored worst-case usage."""
    if prices is None or call["purpose"] == "program":  # which costs seconds, whatever tokens cost
        return float(call["cost_usd"] + (call["saved_usd"] or 0.0))
    price = prices.get(call["request_model"])
    if price is None:
        raise ConfigError(
            f"--prices: no price for {call['request_model']!r}, which was called. The table has {', '.join(prices)}."
        )
    usage = Usage(
        call["input_tokens"],
        call["cached_input_tokens"],
        call["output_tokens"],
        cache_write_tokens=call["cache_write_tokens"] or 0,
    )
    return cost_usd(price, usage)


def _answer(problem: Problem, old_answer: str | None, calls: Sequence[Mapping[str, Any]], parser: Parser) -> str | None:
    """What the parser reads in the text that gave the stored answer: the last text that has it in it, else the last one
    of all."""
    texts = [text for call in calls if call["purpose"] in _ANSWERING and (text := _text(call)) is not None]
    having = [text for text in texts if old_answer is not None and old_answer in text]
    for text in reversed(having or texts):
        return parser(problem, text) or None
    return old_answer


def _text(call: Mapping[str, Any]) -> str | None:
    """The completion's text, read from the stored body where there is one; None for an attempt that failed."""
    if call["error_type"] is not None:
        return None
    parsed = parse_body(call["raw_body"]) if call["raw_body"] else None
    stored: str | None = call["output_text"]
    if not isinstance(parsed, ParsedReply) or unwrapped(parsed.text) == stored:
        return stored
    return parsed.text


def rescore(
    lake: Lake,
    name: str,
    *,
    prices: Roster | None = None,
    parser: Parser | None = result_in,
    check: OwnCheck | None = None,
    lambda_usd: float = 0.0,
    lambda_s: float = 0.0,
) -> RescoreResult:
    """A run, or all test runs of an evaluation with its comparison anew; written to
    `<lake>/_rescored/<name>-<digest>.parquet`."""
    evaluation = read_evaluation(lake.root, name) if is_evaluation(lake.root, name) else None
    run_ids = [name] if evaluation is None else [run for row in evaluation.rows for run in row.test_runs]
    rows = tuple(
        row
        for run_id in dict.fromkeys(run_ids)
        for row in rescore_run(
            lake, run_id, prices=prices, parser=parser, check=check, lambda_usd=lambda_usd, lambda_s=lambda_s
        )
    )
    path = _write(lake.root, name, rows)
    if evaluation is None:
        return RescoreResult(rows, path)
    settings = EvaluateSettings.model_validate(evaluation.settings)
    old = read_comparison(lake.root, name)
    ids = _test_ids(lake.root, name)
    stored = outcomes_of_rows(lake.root, evaluation.rows, ids, evaluation.difficulty)
    by_run: dict[str, dict[str, RescoredRow]] = {}
    for row in rows:
        by_run.setdefault(row.run_id, {})[row.problem_id] = row
    outcomes = [
        _with_new(stored[row.name], [by_run[run] for run in row.test_runs])
        for row in evaluation.rows
        if row.name in stored
    ]
    new = compared(settings, evaluation.rows, outcomes, evaluation.subject)
    if new is not None:
        write_atomically(path.with_suffix(".summary.json"), to_json(new))
    return RescoreResult(rows, path, old, new)


def _with_new(outcomes: MethodOutcomes, seeds: Sequence[Mapping[str, RescoredRow]]) -> MethodOutcomes:
    """The same outcomes with what was scored again, averaged over seeds; calls, tokens and seconds are facts."""

    def mean(value: Callable[[RescoredRow], float]) -> Any:
        return np.array([[value(rows[name]) for rows in seeds] for name in outcomes.problem_ids]).mean(axis=1)

    return dataclasses.replace(
        outcomes,
        is_correct=mean(lambda row: float(row.is_correct is True)),
        cost_usd=mean(lambda row: row.cost_usd - row.judge_cost_usd),
        router_cost_usd=mean(lambda row: row.router_cost_usd),
    )


def _test_ids(lake: Path, evaluation_id: str) -> list[str]:
    with (evaluation_dir(lake, evaluation_id) / "test.jsonl").open("rb") as file:
        return [orjson.loads(line)["id"] for line in file]


def _write(lake: Path, name: str, rows: Sequence[RescoredRow]) -> Path:
    """The rows as Parquet, named by their content: the same scores are the same file."""
    fields = [field.name for field in dataclasses.fields(RescoredRow)]
    columns = {field: [getattr(row, field) for row in rows] for field in fields}
    digest = hashlib.sha256(orjson.dumps(columns)).hexdigest()[:12]
    path = lake / "_rescored" / f"{name}-{digest}.parquet"
    make_folder(path.parent)
    with replacing(path) as file:
        pq.write_table(pa.table(columns), file, compression="zstd")
    store_of(lake).share(path)
    return path
