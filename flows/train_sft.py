"""Flow: supervised training of a decomposer, an allocator, a specialist or a scorer. The same parameters resume a run.

By hand: `r2 sft --labels labels`, or `python -m flows.train_sft configs/gpu/sft.toml`.
"""

import sys
import time
from pathlib import Path

from prefect import flow, runtime
from prefect.artifacts import create_table_artifact

from flows.support.embedded_api import embedded_api
from flows.support.ending import as_command
from flows.support.running import logged_now, rounded, told_now
from flows.support.terminal import stopped_by_signals
from r2.errors import StoppedError
from r2.training.sft.settings import PolicyKind, SftSettings, load_sft_settings
from storage.lake.lake import Lake
from tasks.training.sft_policy import how_far, record_training, sft_policy
from tasks.training.sft_process import read_result
from tasks.training.sft_run import SftResult, sft_run
from tasks.training.trained_policy import TrainedPolicy
from tasks.training.waiting import Trainings


def _run_name() -> str:
    settings = SftSettings.model_validate(runtime.flow_run.parameters["settings"])
    on = "" if settings.policy == "scorer" else f" on {Path(settings.base).name}"
    return f"sft {settings.policy}{on}"


@flow(name="train-sft", flow_run_name=_run_name, persist_result=False, validate_parameters=True)
def train_sft(settings: SftSettings) -> SftResult:
    """Trains what is not trained yet, one process after the other, and registers each policy."""
    started_at = time.time()
    run = sft_run(settings)
    settings, run_id = run.settings, run.run_id
    n_rows = sum(run.n_rows.values())
    done: list[TrainedPolicy] = []
    partners: dict[PolicyKind, Path] = {}
    status, session_usd, reached = "failed", 0.0, ""
    with Lake(settings.lake).run_lock(run_id), stopped_by_signals(Trainings()):
        try:
            for kind in settings.kinds:
                spec = run.spec(kind, partners)
                is_new = read_result(spec.work_dir) is None
                try:
                    done.append(sft_policy(spec, run.data_sha256[kind]))
                except StoppedError:
                    status, reached = "interrupted", how_far(spec)
                    break
                session_usd += done[-1].result.paid_usd if is_new else 0.0
                partners = {**partners, kind: spec.weights}
            else:
                status = "completed"
        finally:
            paid_usd = sum(trained.result.paid_usd for trained in done)
            record_training(
                run_id,
                "sft",
                settings,
                n_rows=n_rows,
                cost_usd=paid_usd,
                session_cost_usd=session_usd,
                status=status,
                started_at=started_at,
            )
    told_now(lambda: _publish(run_id, done))
    return SftResult(run_id, done, time.time() - started_at, reached, run.remarks)


def _publish(run_id: str, done: list[TrainedPolicy]) -> None:
    """What Prefect's UI shows: each policy with what it cost, its metrics, and lines of its log."""
    policies = [
        {
            "policy": trained.policy.ref,
            "promoted": trained.is_promoted,
            "rows": trained.result.n_rows,
            "held out": trained.result.n_held_out,
            "training seconds": trained.policy.card.wall_s,
            "USD paid to the pool": trained.result.paid_usd,
        }
        for trained in done
    ]
    metrics = [
        {"policy": trained.policy.ref, "metric": metric, "value": value}
        for trained in done
        for metric, value in trained.result.metrics.items()
    ]
    description = f"run {run_id}"
    create_table_artifact(key="train-sft-policies", table=rounded(policies), description=description)
    create_table_artifact(key="train-sft-metrics", table=rounded(metrics), description=description)
    lines = [
        f"{trained.policy.ref}: trained on {trained.result.n_rows} rows, {trained.result.paid_usd:.6f} USD paid to the "
        f"pool, {'promoted' if trained.is_promoted else 'not promoted'}"
        for trained in done
    ]
    logged_now(*lines)


def _by_hand() -> None:
    with embedded_api():
        finished = train_sft(load_sft_settings(Path(sys.argv[1]), {}))
    print(", ".join(trained.policy.ref for trained in finished.policies))


if __name__ == "__main__":
    as_command(_by_hand)
