"""Prefect's task around the training of one policy: starts the process, waits, and settles what it leaves
(trained_policy.py). However often the task is run, the process resumes at its checkpoint.
"""

import orjson
from prefect import runtime, task
from prefect.cache_policies import NO_CACHE

from r2.errors import ConfigError, TrainingError
from r2.lifeline import end, spawn
from r2.training.curve import MetricsFile
from r2.training.launch import training_command
from r2.training.sft.settings import SftSettings
from storage.lake.lake import Lake
from storage.runs.sessions import add_session, session_row
from tasks.training.scorer_policy import train_scorer
from tasks.training.sft_process import PolicyResult, PolicySpec, read_result
from tasks.training.trained_policy import TrainedPolicy, trained_policy
from tasks.training.waiting import exit_code_of


@task(name="sft-policy", task_run_name="sft-{spec.kind}", cache_policy=NO_CACHE, persist_result=False)
def sft_policy(spec: PolicySpec, data_sha256: dict[str, str]) -> TrainedPolicy:
    """Trains, stores, registers. TrainingError if the process fails: the same command resumes it at its last
    checkpoint."""
    train = train_scorer if spec.kind == "scorer" else _run
    return trained_policy(spec, read_result(spec.work_dir) or train(spec), data_sha256)


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
        input_path=_input_of(settings),
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


def _input_of(settings: SftSettings) -> str:
    if settings.policy == "scorer":
        return ",".join(settings.outcomes) or settings.lake
    return settings.problems or settings.labels if settings.policy == "specialist" else settings.labels


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
