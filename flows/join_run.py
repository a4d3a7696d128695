"""Flow: join a run of `answer_questions` beside other machines. One flow run a machine, placed by workers; ours is only
which shard is whose (docs/many_machines.md).

By hand: `r2 answer FILE --join`, or `r2 join RUN`.
"""

from pathlib import Path

from prefect import flow, runtime

from flows.support.joined_run import joined_file
from flows.support.progress_artifact import progress_artifact
from flows.support.running import logged, tag_run, told
from r2.settings import AnswerSettings
from storage.evaluations.promise import promised
from storage.runs.answers import check_out
from tasks.answering.finished import RunResult


def _run_name() -> str:
    settings = AnswerSettings.model_validate(runtime.flow_run.parameters["settings"])
    return f"join {settings.reasoning.method} {Path(settings.input).name} on {Path(settings.pool).stem}"


@flow(name="join-run", flow_run_name=_run_name, persist_result=False, validate_parameters=True)
async def join_run(settings: AnswerSettings) -> RunResult:
    """Joins the run of these settings, which the first machine plans, and works on it until no shard is open. Failed
    rows are data; only broken infrastructure raises."""
    await tag_run(
        f"method:{settings.reasoning.method}",
        f"pool:{Path(settings.pool).stem}",
        f"input:{Path(settings.input).name}",
        *(f"{name}={value}" for name, value in settings.tags.items()),
    )
    check_out(settings.out, Path(settings.input), settings.more_columns)
    if promise := promised(settings):
        settings = promise.settings
    result = await joined_file(settings, progress_artifact)
    summary, progress = result.summary, result.progress
    await told(
        logged(
            f"{summary.run_id}: of {progress.n_requested} questions {summary.n_answered} answered, {summary.n_failed} "
            f"failed, {progress.n_deferred} deferred; {progress.session_n_settled} of them by this machine",
            f"{summary.cost_usd:.6f} USD, {progress.session_cost_usd:.6f} of it by this machine",
        )
    )
    return result
