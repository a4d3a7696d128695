"""Flow: train a decomposer and an allocator in alternating rounds of GRPO. The same parameters resume it at the last
checkpoint.

By hand: `r2 grpo --problems scan`, or `python -m flows.train_grpo configs/ablations/grpo_alternating.toml`. A Prefect
task is one round, in a process of its own.
"""

import sys
from pathlib import Path

from prefect import flow, runtime, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.support.embedded_api import embedded_api
from flows.support.ending import as_command
from flows.support.running import logged_now, rounded, told_now
from flows.support.terminal import stopped_by_signals
from r2.training.grpo.promotion import Decision
from r2.training.grpo.rounds import Rounds
from r2.training.grpo.settings import GrpoSettings, load_grpo_settings
from storage.lake.address import lake_folder
from storage.sql.query import write_database
from tasks.retry import may_help
from tasks.training.train_rounds import GrpoResult, round_table, run_in_process, train_rounds
from tasks.training.waiting import Trainings


def _run_name() -> str:
    settings = GrpoSettings.model_validate(runtime.flow_run.parameters["settings"])
    return f"grpo {settings.mode} on {Path(settings.pool).stem}"


@task(
    name="grpo-round",
    retries=1,
    retry_delay_seconds=30,
    retry_condition_fn=may_help,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def grpo_round(spec: Path) -> None:
    """Trains and compares what one round is to; a retry resumes at its last checkpoint."""
    run_in_process(spec)


@flow(name="train-grpo", flow_run_name=_run_name, persist_result=False, validate_parameters=True)
def train_grpo(settings: GrpoSettings) -> GrpoResult:
    """Does the rounds that are not settled yet. Each candidate is promoted, or not, by its held-out comparison."""

    def told(rounds: Rounds, decision: Decision) -> None:
        sys.stderr.write(
            f"round {rounds.state.number - 1}: {'promoted' if decision.is_promoted else 'not promoted'}: "
            f"{decision.reason}\n"
        )

    with stopped_by_signals(Trainings()):
        rounds = train_rounds(settings, grpo_round, told)
    if lake_folder(settings.lake).is_dir():
        write_database(lake_folder(settings.lake))
    told_now(lambda: _publish(rounds))
    return GrpoResult(rounds.state, rounds.run_dir, is_stopped=not rounds.is_done)


def _publish(rounds: Rounds) -> None:
    """What Prefect's UI shows: each round, and lines of its log."""
    table = rounded(round_table(rounds.state))
    create_table_artifact(key="train-grpo-rounds", table=table, description=f"run {rounds.state.run_id}")
    lines = [
        f"round {record['number']}: {'promoted' if record['decision']['is_promoted'] else 'not promoted'}, "
        f"{record['cost_usd']:.6f} USD paid"
        for record in rounds.state.settled
    ]
    logged_now(*lines)


def _by_hand() -> None:
    with embedded_api():
        result = train_grpo(load_grpo_settings(Path(sys.argv[1]), {}))
    print(", ".join(result.state.current.values()))


if __name__ == "__main__":
    as_command(_by_hand)
