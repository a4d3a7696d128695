"""Prefect's task around the training of one policy: starts the process, waits, stores the curve, registers the new
version.

Each step is done once however often the task is run: the process resumes at its checkpoint, the lake drops a unit that
it has, and a version that this run has registered is found again.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from prefect import runtime, task
from prefect.cache_policies import NO_CACHE

from r2.errors import ConfigError, TrainingError
from r2.lifeline import end, spawn
from r2.policies.registry import Policy, PolicyCard, Registry, git_commit
from r2.records.tables import CurveRow
from r2.training.curve import MetricsFile, MetricValue
from r2.training.launch import training_command
from r2.training.sft.settings import SftSettings
from storage.lake.lake import Lake
from storage.runs.sessions import add_session, session_row
from tasks.training.sft_process import PolicyResult, PolicySpec, read_result
from tasks.training.waiting import exit_code_of

LEAST_VALID_PLANS = 0.5
"""Share of valid plans from which a first version is promoted unasked. Ours."""


@dataclass(frozen=True, slots=True)
class TrainedPolicy:
    """A policy of a run: its version in the registry, how it did, and whether its name now means it."""

    policy: Policy
    result: PolicyResult
    is_promoted: bool


@task(name="sft-policy", task_run_name="sft-{spec.kind}", cache_policy=NO_CACHE, persist_result=False)
def sft_policy(spec: PolicySpec, data_sha256: dict[str, str]) -> TrainedPolicy:
    """Trains, stores, registers. TrainingError if the process fails: the same command resumes it at its last
    checkpoint."""
    result = read_result(spec.work_dir) or _run(spec)
    name = spec.settings.policy_name(spec.kind)
    points = MetricsFile(spec.work_dir / "curve.jsonl").points()
    rows = curve_rows(spec.run_id, name, points, result, spec.settings.steps)
    Lake(spec.settings.lake).commit(spec.run_id, f"curve-{name}", {"curves": rows})
    policy = register(spec, result, points, data_sha256)
    registry = Registry(spec.settings.policies_dir)
    is_first = registry.current(name) is None
    if spec.settings.promote or (is_first and not plans_poorly(policy)):
        reason = "first version" if is_first else "asked for with --promote"
        registry.promote(name, policy.card.version, reason, {"metrics": result.metrics})
    return TrainedPolicy(policy, result, registry.current(name) == policy.card.version)


def plans_poorly(policy: Policy) -> bool:
    """Whether less than `LEAST_VALID_PLANS` of its plans for held-out problems can be read and executed: it is not
    promoted unasked. False where that was not measured."""
    return float(policy.card.metrics.get("valid_plan", 1.0)) < LEAST_VALID_PLANS


def curve_rows(
    run_id: str, policy: str, points: Sequence[MetricValue], result: PolicyResult, last_step: int
) -> list[CurveRow]:
    """The curve's points as rows of phase `sft`, and the held-out metrics as rows of phase
    `held_out` at the last step."""
    rows = [CurveRow(run_id, "sft", policy, 0, p.step, p.metric, p.value, p.logged_at) for p in points]
    at = max((p.logged_at for p in points), default=time.time())
    return rows + [
        CurveRow(run_id, "held_out", policy, 0, last_step, metric, value, at)
        for metric, value in sorted(result.metrics.items())
    ]


def register(
    spec: PolicySpec, result: PolicyResult, points: Sequence[MetricValue], data_sha256: dict[str, str]
) -> Policy:
    """The version of this run: the one that is there, else a new one with its card."""
    settings, registry = spec.settings, Registry(spec.settings.policies_dir)
    name = settings.policy_name(spec.kind)
    for known in registry.versions(name):
        policy = registry.load(f"{name}@{known}")
        if policy.card.config.get("run_id") == spec.run_id:
            return policy
    losses = [p.value for p in points if p.metric == "loss"]
    trained_s = sum(p.value for p in points if p.metric == "step_s")
    metrics = {**result.metrics, "n_rows": result.n_rows, "n_held_out": result.n_held_out}
    if losses:
        metrics["last_loss"] = sum(losses[-10:]) / len(losses[-10:])
    parent = registry.load(settings.start).ref if settings.start else ""
    card = PolicyCard(
        name=name,
        kind=spec.kind,
        base=settings.base,
        prompt_mode=settings.prompt_mode,
        parent=parent,
        data_sha256=data_sha256,
        seed=settings.seed,
        config={"run_id": spec.run_id, **settings.identity(), "learning_rate": settings.rate},
        metrics=metrics,
        git_commit=git_commit(),
        cost_usd=result.paid_usd,
        wall_s=trained_s,
    )
    return registry.create(name, card, lambda folder: _copy(spec.weights, folder))


def how_far(spec: PolicySpec) -> str:
    """Where a policy that was stopped stands: its newest step, and the checkpoint that it is resumed from."""
    name, settings = spec.settings.policy_name(spec.kind), spec.settings
    if spec.weights.exists():
        return f"{name}: trained, not yet examined"
    step = max((point.step for point in MetricsFile(spec.work_dir / "curve.jsonl").points()), default=0)
    saved = [int(path.name.removeprefix("checkpoint-")) for path in spec.work_dir.glob("checkpoint-*[0-9]")]
    kept = f"resumed from step {max(saved)}" if saved else "begun anew, no checkpoint was due yet"
    return f"{name}: step {step} of {settings.steps}, to be {kept}"


def record_training(
    run_id: str,
    kind: str,
    settings: SftSettings,
    *,
    n_rows: int,
    cost_usd: float,
    session_cost_usd: float,
    status: str,
    started_at: float,
) -> None:
    """Adds the session's row to `runs`; the rows trained on count as requested, and as answered
    once training is done."""
    n_done = n_rows if status == "completed" else 0
    lake = Lake(settings.lake)
    row = session_row(
        lake,
        run_id,
        flow_run_id=str(runtime.flow_run.id or ""),
        kind=kind,
        method=kind,
        input_path=settings.problems or settings.labels if settings.policy == "specialist" else settings.labels,
        pool_path=settings.pool or "",
        config=settings.model_dump(mode="json"),
        status=status,
        n_requested=n_rows,
        n_answered=n_done,
        n_deferred=n_rows - n_done,
        cost_usd=cost_usd,
        session_cost_usd=session_cost_usd,
        started_at=started_at,
    )
    add_session(lake, row)


def _run(spec: PolicySpec) -> PolicyResult:
    """The training process, to its end."""
    spec.work_dir.mkdir(parents=True, exist_ok=True)
    path = spec.work_dir / "spec.json"
    path.write_bytes(orjson.dumps(spec.model_dump(mode="json"), option=orjson.OPT_INDENT_2))
    settings = spec.settings
    command = training_command(
        "tasks.training.sft_process", path, accelerate_config=settings.accelerate_config, launcher=settings.launcher
    )
    process = spawn(command)
    code = exit_code_of(process)
    end(process)
    name = spec.settings.policy_name(spec.kind)
    if code == 2:
        raise ConfigError(f"policy {name}: it cannot be trained as asked; the line above says why.")
    result = read_result(spec.work_dir)
    if code or result is None:
        raise TrainingError(
            f"policy {name}: the training process ended with code {code} (log: {spec.work_dir / 'trainer.log'}). "
            "The same command resumes it at its last checkpoint."
        )
    return result


def _copy(source: Path, target: Path) -> None:
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)
