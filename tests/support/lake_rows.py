"""Rows for the storage tests: a problem with two subtasks and three calls whose sums agree, units of them, and a small
whole lake."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from r2.records.tables import (
    CallRow,
    Candidate,
    CandidateRow,
    CurveRow,
    FeedbackRow,
    JobRow,
    RewardRow,
    RunRow,
    SubtaskRow,
    TrajectoryRow,
)
from storage.lake.lake import Lake
from storage.lake.places import SCHEMA_FILE
from storage.lake.schema import TABLES

NOON = 1_780_000_200.0
"""2026-05-28 20:30:00 UTC, in epoch seconds."""

RUN = RunRow(
    run_id="run-a",
    session=0,
    flow_run_id="",
    kind="answer",
    method="r2",
    input_path="questions.jsonl",
    pool_path="pool.toml",
    config="{}",
    code_version="0.1.0",
    status="completed",
    n_requested=2,
    n_answered=2,
    n_failed=0,
    n_deferred=0,
    n_calls_lost=0,
    cost_usd=0.0,
    session_cost_usd=0.0,
    wall_s=1.0,
    started_at=NOON,
    ended_at=NOON + 1,
)

CALL = CallRow(
    run_id="run-a",
    problem_id="p0",
    rollout=0,
    call_index=0,
    attempt=0,
    subtask_index=None,
    benchmark="arithmetic",
    purpose="decompose",
    request_sha="0" * 64,
    request_model="small",
    response_model="small-q4",
    response_id="r-0",
    status=200,
    finish_reason="stop",
    temperature=0.0,
    max_output_tokens=64,
    input_tokens=100,
    cached_input_tokens=20,
    output_tokens=10,
    usage_source="provider",
    cost_usd=0.0001,
    price_version="2026-11-01:1/0.5/2",
    latency_s=0.5,
    queue_s=0.1,
    retry_after_s=None,
    is_replayed=False,
    error_type=None,
    error_message=None,
    input_messages='[["user","2+3"]]',
    output_text="5",
    raw_body=b"{}",
    started_at=NOON,
)

SUBTASK = SubtaskRow(
    run_id="run-a",
    problem_id="p0",
    rollout=0,
    subtask_index=0,
    benchmark="arithmetic",
    depends_on=(),
    subtask_text="2+3",
    output_text="5",
    allocated_model="small",
    model="small",
    tier="small",
    candidates=(Candidate("small", -0.1, 0.9, 0.0001), Candidate("large", None, None, 0.001)),
    is_escalated=False,
    is_fallback=False,
    input_tokens=100,
    output_tokens=10,
    cost_usd=0.0001,
    latency_s=0.6,
    error_type=None,
    started_at=NOON,
)

TRAJECTORY = TrajectoryRow(
    run_id="run-a",
    problem_id="p0",
    rollout=0,
    input_index=0,
    method="r2",
    benchmark="arithmetic",
    status="answered",
    input="2+3+4",
    target="9",
    answer="9",
    is_correct=True,
    plan="1. 2+3\n2. add 4",
    n_subtasks=2,
    n_calls=3,
    n_attempts=3,
    n_escalations=0,
    input_tokens=300,
    cached_input_tokens=60,
    output_tokens=30,
    cost_usd=0.0012,
    router_cost_usd=0.0001,
    latency_s=1.8,
    failed_checks="",
    error_type=None,
    error_message=None,
    started_at=NOON,
)

JOB = JobRow(
    run_id="run-a",
    job_id="0" * 32,
    request_model="large",
    provider_id="batch_1",
    state="expired",
    reason=None,
    is_rescued=False,
    n_rows=5,
    n_answered=3,
    n_failed=0,
    n_again=2,
    n_live=0,
    n_unused=0,
    n_absent=0,
    n_twice=0,
    n_foreign=0,
    worst_usd=0.5,
    cost_usd=0.03,
    live_usd=0.06,
    submitted_at=NOON,
    ended_at=NOON + 5400,
)
CURVE = CurveRow("run-a", "sft", "decomposer", 0, 0, "loss", 2.5, NOON)
FEEDBACK = FeedbackRow("run-a", "p0", 0, False, "anna", "verdicts.csv", NOON, "it should be 10")

Tables = dict[str, list[Any]]


def problem(index: int, run_id: str = "run-a", rollout: int = 0, **changes: Any) -> Tables:
    """Problem `p<index>`: decomposed by small for 0.0001 USD, subtask 0 by small for 0.0001, subtask 1 by large for
    0.001."""
    key: Any = {"run_id": run_id, "problem_id": f"p{index}", "rollout": rollout, "started_at": NOON + index}
    trajectory = replace(TRAJECTORY, **key, input_index=index, **changes)
    subtasks = [
        replace(SUBTASK, **key),
        replace(
            SUBTASK,
            **key,
            subtask_index=1,
            depends_on=(0,),
            allocated_model="small",
            model="large",
            tier="large",
            cost_usd=0.001,
            is_escalated=True,
        ),
    ]
    calls = [
        replace(CALL, **key),
        replace(CALL, **key, call_index=1, subtask_index=0, purpose="solve"),
        replace(
            CALL,
            **key,
            call_index=2,
            subtask_index=1,
            purpose="solve",
            request_model="large",
            cost_usd=0.001,
            price_version="2026-11-01:10/5/20",
            latency_s=1.5,
        ),
    ]
    return {"trajectories": [trajectory], "subtasks": subtasks, "calls": calls}


def labelled(tables: Tables) -> Tables:
    """The same problems as labelling stores them: two candidate plans, the second the target, and two allocations, the
    first the target."""
    rows = [
        CandidateRow(
            run_id=t.run_id,
            problem_id=t.problem_id,
            rollout=t.rollout,
            kind=kind,
            trial_index=index,
            benchmark=t.benchmark,
            plan=t.plan,
            n_subtasks=2,
            models=("small", model),
            tiers=("small", tier),
            confidences=(0.95, 0.4) if kind == "allocation" else (),
            confidence_source="logprobs" if kind == "allocation" else None,
            conciseness=1.0 if kind == "plan" else None,
            practicality=0.5 if kind == "plan" else None,
            coherence=0.25 if kind == "plan" else None,
            score=0.5 + 0.1 * index if kind == "plan" else None,
            judge="lexical" if kind == "plan" else None,
            output_tokens=10,
            answer="9",
            is_correct=is_right,
            cost_usd=0.001,
            is_target=is_target,
            error_type=None,
        )
        for t in tables["trajectories"]
        for kind, index, model, tier, is_right, is_target in (
            ("allocation", 0, "large", "large", True, True),
            ("allocation", 1, "small", "small", False, False),
            ("plan", 0, "large", "large", False, False),
            ("plan", 1, "large", "large", True, True),
        )
    ]
    return {**tables, "candidates": rows}


def rewarded(tables: Tables) -> Tables:
    """The same problems as rollouts of training: each right, at a cost of 0.2 of the reference."""
    terms = (("cost", -0.6, 0.2), ("right", 1.0, 1.0))
    rows = [
        RewardRow(t.run_id, t.problem_id, t.rollout, term, weight, value)
        for t in tables["trajectories"]
        for term, weight, value in terms
    ]
    return {**tables, "rewards": rows}


def bad_row(index: int, run_id: str = "run-a") -> Tables:
    """An input row that could not be read: failed before anything was called."""
    tables = problem(
        index,
        run_id,
        0,
        status="failed",
        answer=None,
        is_correct=None,
        target=None,
        plan="",
        n_subtasks=0,
        n_calls=0,
        n_attempts=0,
        input_tokens=0,
        cached_input_tokens=0,
        output_tokens=0,
        cost_usd=0.0,
        router_cost_usd=0.0,
        latency_s=0.0,
        error_type="bad_row",
        error_message=f"line {index + 1}: no question",
    )
    return {"trajectories": tables["trajectories"], "subtasks": [], "calls": []}


def unit_of(indices: Iterable[int], run_id: str = "run-a") -> Tables:
    """The problems with these input indices as one unit."""
    return together(*(problem(index, run_id) for index in indices))


def together(*parts: Tables) -> Tables:
    """Several problems' rows as one unit."""
    return {
        name: [row for part in parts for row in part.get(name, [])] for name in ("trajectories", "subtasks", "calls")
    }


def worked_lake(root: Path) -> Path:
    """Run a: p0 right, p1 wrong, p2 a bad row, one failed attempt. Runs b and c: one problem each
    over the same input."""
    lake = Lake(root)
    p0, p1 = problem(0), problem(1, is_correct=False, answer="8")
    failed = replace(
        CALL,
        problem_id="p1",
        call_index=1,
        attempt=1,
        subtask_index=0,
        purpose="solve",
        status=500,
        error_type="server_error",
        error_message="status 500",
        input_tokens=0,
        cached_input_tokens=0,
        output_tokens=0,
        cost_usd=0.0,
        output_text=None,
    )
    p1["trajectories"] = [replace(p1["trajectories"][0], n_attempts=4)]
    p1["calls"].append(failed)
    lake.commit("run-a", "00000-0", together(p0, p1))
    lake.commit("run-a", "00000-1", bad_row(2))
    sessions = [
        replace(RUN, status="budget_stopped", n_requested=3, n_answered=1, n_deferred=2, cost_usd=0.0012),
        replace(
            RUN, session=1, status="completed_with_errors", n_requested=3, n_answered=2, n_failed=1, cost_usd=0.0024
        ),
    ]
    lake.commit("run-a", "session-0000", {"runs": sessions[:1]})
    lake.commit("run-a", "session-0001", {"runs": sessions[1:]})
    lake.commit("run-b", "00000-0", problem(0, "run-b"))
    lake.commit(
        "run-b", "session-0000", {"runs": [replace(RUN, run_id="run-b", n_requested=1, n_answered=1, cost_usd=0.0012)]}
    )
    lake.commit("run-c", "00000-0", problem(0, "run-c", is_correct=False))
    lake.commit(
        "run-c", "session-0000", {"runs": [replace(RUN, run_id="run-c", n_requested=1, n_answered=1, cost_usd=0.0012)]}
    )
    return root


def keys(lake: Lake, table: str) -> list[tuple[Any, ...]]:
    """(input index out of the problem's name, *order columns) of every row, as iter_rows gives them."""
    columns = ["problem_id", *TABLES[table].order]
    rows = (batch.to_pylist() for batch in lake.iter_rows(table, "run-a", columns))
    return [(int(row["problem_id"][1:]), *(row[c] for c in columns[1:])) for batch in rows for row in batch]


def seen_by_others(root: Path, table: str) -> list[tuple[Any, ...]]:
    """The same as a program reads it that knows nothing of the manifest and takes every file in the table's folder."""
    if not list((root / table).glob("*.parquet")):
        return []
    columns = ["problem_id", *TABLES[table].order]
    rows = pq.read_table(root / table, columns=columns).to_pylist()
    return [(int(row["problem_id"][1:]), *(row[c] for c in columns[1:])) for row in rows]


def rows_of(lake: Lake, table: str) -> Iterator[dict[str, Any]]:
    return itertools.chain.from_iterable(batch.to_pylist() for batch in lake.iter_rows(table, "run-a"))


def parts_in(root: Path) -> list[Path]:
    """Every file of rows, finished or not."""
    return [path for path in root.rglob("*.parquet*") if path.name != SCHEMA_FILE]


def indices(lake: Lake) -> list[int]:
    return [key[0] for key in keys(lake, "trajectories")]
