"""Logged trajectories of a run, with the probabilities their models were drawn from: what `r2/evaluation/offpolicy.py`
estimates from.

Stored propensities are the allocator's probabilities at temperature 1. A choice was drawn from them only if the
allocator sampled: at temperature T the probabilities are p ** (1 / T), normalised; at temperature 0, or with a cost
knob, the choice was certain, and is logged as such, so that an estimate which would need other choices is refused. Left
out: servers that cut the distribution (top_p, top_k) before they draw.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from r2.errors import LakeError
from r2.evaluation.logged import LoggedStep, LoggedTrajectory
from storage.lake.lake import Lake

_TRAJECTORY = ("problem_id", "rollout", "method", "benchmark", "status", "is_correct", "cost_usd", "saved_usd")
_SUBTASK = ("problem_id", "rollout", "subtask_index", "subtask_text", "benchmark", "allocated_model", "candidates")
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class OffPolicyLogs:
    """The usable trajectories in the order of the input, and reason -> how many were left out."""

    trajectories: tuple[LoggedTrajectory, ...]
    left_out: Mapping[str, int]


def by_benchmark(subtask_text: str, benchmark: str) -> str:
    """The kind of work a subtask is, where nothing better is known: its benchmark."""
    return benchmark


def read_offpolicy_logs(
    lake: Lake, run_id: str, *, method: str = "r2", skill_of: Callable[[str, str], str] = by_benchmark
) -> OffPolicyLogs:
    """The run's trajectories of `method` that an off-policy estimate can use.

    `skill_of` names the kind of work from a subtask's text and benchmark. Left out, and counted: rows that were not
    judged, rows without subtasks, and rows whose allocator gave no probability for its choice. Raises LakeError for a
    run without trajectories.
    """
    rows = [row for row in _rows(lake, "trajectories", run_id, _TRAJECTORY) if row["method"] == method]
    if not rows:
        known = ", ".join(lake.manifest.run_ids()) or "none"
        raise LakeError(f"run {run_id!r} has no trajectories of method {method!r} in {lake.root}. Runs: {known}.")
    temperatures = _allocator_temperatures(lake, run_id)
    knob = _cost_knob(lake, run_id)
    subtasks: dict[Key, list[dict[str, Any]]] = {}
    for row in _rows(lake, "subtasks", run_id, _SUBTASK):
        subtasks.setdefault((row["problem_id"], row["rollout"]), []).append(row)
    kept: list[LoggedTrajectory] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        key = (row["problem_id"], row["rollout"])
        steps = sorted(subtasks.get(key, []), key=lambda step: step["subtask_index"])
        temperature = 0.0 if knob else temperatures.get(key, 0.0)
        logged = [_step(step, temperature, skill_of) for step in steps]
        if row["is_correct"] is None:
            left_out["not judged: no target"] += 1
        elif not steps:
            left_out["no subtask was executed"] += 1
        elif None in logged:
            left_out["the allocator gave no probability for its choice"] += 1
        else:
            usable = tuple(step for step in logged if step is not None)
            worth_usd = row["cost_usd"] + (row["saved_usd"] or 0.0)
            kept.append(LoggedTrajectory(row["problem_id"], usable, float(row["is_correct"]), worth_usd))
    return OffPolicyLogs(tuple(kept), dict(left_out))


def at_temperature(propensities: Mapping[str, float], temperature: float, chosen: str) -> dict[str, float]:
    """The probabilities of sampling at `temperature`, from those at temperature 1; all on `chosen` at 0."""
    if temperature <= 0:
        return {chosen: 1.0}
    top = max(propensities.values())
    powered = {model: (p / top) ** (1 / temperature) for model, p in propensities.items()}
    total = sum(powered.values())
    return {model: p / total for model, p in powered.items()}


def _step(row: Mapping[str, Any], temperature: float, skill_of: Callable[[str, str], str]) -> LoggedStep | None:
    chosen = row["allocated_model"]
    listed = {one["model"]: one["propensity"] for one in row["candidates"] if one["propensity"]}
    if chosen not in listed:
        return None
    return LoggedStep(
        chosen, at_temperature(listed, temperature, chosen), skill_of(row["subtask_text"], row["benchmark"])
    )


def _allocator_temperatures(lake: Lake, run_id: str) -> dict[Key, float]:
    columns = ("problem_id", "rollout", "purpose", "temperature")
    rows = _rows(lake, "calls", run_id, columns)
    return {(row["problem_id"], row["rollout"]): row["temperature"] for row in rows if row["purpose"] == "allocate"}


def _cost_knob(lake: Lake, run_id: str) -> float:
    """`b` of the run's configuration; 0 where it names none."""
    for row in _rows(lake, "runs", run_id, ("config",)):
        config = orjson.loads(row["config"])
        return float(config.get("reasoning", config).get("b") or 0.0)
    return 0.0


def _rows(lake: Lake, table: str, run_id: str, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    return [row for batch in lake.iter_rows(table, run_id, columns) for row in batch.to_pylist()]
