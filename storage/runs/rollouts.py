"""A training's rows in the lake: rollouts with their reward terms, curves, and the results on held-out problems.

Written by the process of a round (tasks/training/grpo_process.py), one unit per checkpoint. A unit that is there
already is not written again: a step that is done twice after a kill has the same rollouts.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from r2.answering.protocol import Trajectory
from r2.records.rows import to_rows
from r2.records.tables import CurveRow, RewardRow, TrajectoryRow
from r2.roster import Roster
from r2.training.curve import MetricsFile
from r2.training.grpo.batch import Rollout
from storage.lake.lake import Lake
from storage.lake.schema import Row
from storage.runs.sessions import add_session, session_row


def commit_rollouts(
    lake: Lake,
    run_id: str,
    rolled: Sequence[Rollout],
    roster: Roster,
    weights: Mapping[str, float],
    number: int,
    policy: str,
) -> None:
    """One unit with the rollouts of some steps. Those whose problem was deferred (a budget, a stop) are left out:
    nothing was settled."""
    tables: dict[str, list[Row]] = {"trajectories": [], "subtasks": [], "calls": [], "rewards": []}
    for one in rolled:
        if one.scored.trajectory.outcome.status == "deferred":
            continue
        row, subtasks, calls = to_rows(run_id, "r2", one.scored.trajectory, roster, one.draw.rollout)
        tables["trajectories"].append(replace(row, phase="grpo", round=number, step=one.step, policy=policy))
        tables["subtasks"] += subtasks
        tables["calls"] += calls
        tables["rewards"] += [
            RewardRow(run_id, row.problem_id, row.rollout, term, weight, one.scored.terms.value(term))
            for term, weight in weights.items()
        ]
    if tables["trajectories"]:
        steps = [one.step for one in rolled]
        lake.commit(run_id, f"steps-{min(steps):05d}-{max(steps):05d}", tables)


def commit_curve(lake: Lake, run_id: str, role: str, number: int, path: Path) -> dict[str, float]:
    """The metrics of every step as rows; returns those of the last one."""
    points = MetricsFile(path).points()
    rows = [
        CurveRow(run_id, "grpo", role, number, max(0, point.step - 1), point.metric, point.value, point.logged_at)
        for point in points
    ]
    if rows:
        lake.commit(run_id, "curve", {"curves": rows})
    last = max((point.step for point in points), default=0)
    return {point.metric: point.value for point in points if point.step == last}


def close_rollouts(lake: Lake, run_id: str, config: Mapping[str, Any], session_cost_usd: float, wall_s: float) -> None:
    """The session of a round in the table `runs`. `cost_usd` is what its rollouts are charged; `session_cost_usd` what
    was paid: equal calls are charged to each rollout and paid once."""
    counts = {"answered": 0, "failed": 0}
    charged_usd = 0.0
    for batch in lake.iter_rows("trajectories", run_id, ["status", "cost_usd"]):
        for status, cost in zip(batch["status"].to_pylist(), batch["cost_usd"].to_pylist(), strict=True):
            counts[status] += 1
            charged_usd += cost
    row = session_row(
        lake,
        run_id,
        flow_run_id="",
        kind="grpo",
        method="r2",
        input_path=str(config["problems"]),
        pool_path=str(config["pool"]),
        config=config,
        status="completed_with_errors" if counts["failed"] else "completed",
        n_requested=sum(counts.values()),
        n_answered=counts["answered"],
        n_failed=counts["failed"],
        cost_usd=charged_usd,
        session_cost_usd=session_cost_usd,
        started_at=time.time() - wall_s,
    )
    add_session(lake, row)


def commit_held_out(
    lake: Lake,
    run_id: str,
    number: int,
    before: Mapping[str, float],
    after: Mapping[str, float],
    old: Sequence[Trajectory],
    new: Sequence[Trajectory],
    roster: Roster,
    old_name: str,
    new_name: str,
) -> None:
    """Held-out trajectories of a round: rollout 0 with the versions before it, rollout 1 with those after; and their
    means as curve points."""
    tables: dict[str, list[Row]] = {"trajectories": [], "subtasks": [], "calls": [], "curves": []}
    sides = [(0, old_name, old, before)] if new is old else [(0, old_name, old, before), (1, new_name, new, after)]
    for rollout, name, trajectories, summary in sides:
        for trajectory in trajectories:
            if trajectory.outcome.status == "deferred":
                continue
            row, subtasks, calls = to_rows(run_id, "r2", trajectory, roster, rollout)
            marked: TrajectoryRow = replace(row, phase="held_out", round=number, policy=name)
            tables["trajectories"].append(marked)
            tables["subtasks"] += subtasks
            tables["calls"] += calls
        tables["curves"] += [
            CurveRow(run_id, "held_out", name, number, rollout, metric, value, time.time())
            for metric, value in summary.items()
        ]
    lake.commit(run_id, "held-out", tables)
