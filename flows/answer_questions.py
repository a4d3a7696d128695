"""Flow: answer a file of questions. Plan, answer every open shard, close; the same parameters resume it.

By hand: `r2 answer FILE`, or `python -m flows.answer_questions SETTINGS.toml`. From a program: `answer_rows`.
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import uvloop
from prefect import flow, runtime
from prefect.artifacts import acreate_link_artifact, acreate_table_artifact

from flows.support.embedded_api import embedded_api
from flows.support.ending import as_command
from flows.support.progress_artifact import progress_artifact
from flows.support.run_open import has_begun, run_held, run_open
from flows.support.running import logged, rounded, tag_run, told
from r2.settings import AnswerSettings, load_settings
from storage.evaluations.promise import promised
from storage.lake.address import lake_folder
from storage.runs.answers import check_out
from storage.runs.given_rows import AnswersTable, keep_rows, read_answers
from storage.runs.job_files import JobFiles
from storage.runs.plan import RunPlan, read_plan
from storage.runs.summary import RunSummary
from tasks.answering.answer_shard import answer_shard
from tasks.answering.finished import RunResult, finished_run, is_finished
from tasks.answering.hub_input import input_as_file
from tasks.answering.plan_file import said_before
from tasks.answering.progress import Progress, progress_so_far
from tasks.answering.reopen_run import reopen_run
from tasks.answering.routing import routed_run
from tasks.answering.run_tasks import finish_run, plan_file
from tasks.answering.session import RunSession
from tasks.answering.simulated import warning

MOST_JOBS_SHOWN = 1000
"""Batch jobs in a run's artifact, the newest."""


def _run_name() -> str:
    settings = AnswerSettings.model_validate(runtime.flow_run.parameters["settings"])
    return f"{settings.reasoning.method} {Path(settings.input).name} on {Path(settings.pool).stem}"


@flow(name="answer-questions", flow_run_name=_run_name, persist_result=False, validate_parameters=True)
async def answer_questions(settings: AnswerSettings, retry_failed: bool = False) -> RunResult:
    """Answers the rows of `settings.input` that are not settled yet; with `retry_failed` also those that an earlier
    session settled as failed. Failed rows are data; only broken infrastructure raises."""
    await tag_run(
        f"method:{settings.reasoning.method}",
        f"pool:{Path(settings.pool).stem}",
        f"input:{Path(settings.input).name}",
        *(f"{name}={value}" for name, value in settings.tags.items()),
    )
    settings = await asyncio.to_thread(input_as_file, settings)
    check_out(settings.out, Path(settings.input), settings.more_columns)
    if promise := promised(settings):
        settings = promise.settings
    run_dir = plan_file(settings)
    plan = read_plan(run_dir, settings)
    with run_held(plan):
        n_reopened = reopen_run(run_dir) if retry_failed else 0
        progress = await answer_what_is_open(plan, said_before(settings, plan))
        summary, written = finish_run(run_dir, progress, settings.out, settings.more_columns)
    await told(_publish(summary, progress, run_dir, written))
    return RunResult(summary, progress, lake_folder(settings.lake), written, progress.wall_s, n_reopened, warning(plan))


def answer_rows(rows: Iterable[Mapping[str, object]], **settings: Any) -> AnswersTable:
    """Answers a list of rows, which have the columns of a question file, and returns the answers as an Arrow table in
    the same order, with the columns of a Parquet answers file.

    `settings` are fields of `AnswerSettings`, but for `input` and `out`. The rows are kept in the lake: the same rows
    with the same settings go on where they stopped, and pay for nothing twice. ConfigError for settings that cannot be
    used. Not for a running event loop: there `answer_questions` is awaited.
    """
    chosen = load_settings(None, {**settings, "input": "rows"}, are_flags=False)
    source = keep_rows(rows, lake_folder(chosen.lake))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "answers.parquet"
        chosen = chosen.model_copy(update={"input": str(source), "out": str(out)})
        chosen, _ = routed_run(chosen)
        if promise := promised(chosen):
            chosen = promise.settings
        if finished_run(chosen) is None:
            with embedded_api():
                uvloop.run(answer_questions(chosen))
        return read_answers(out)


async def answer_what_is_open(plan: RunPlan, said: Iterable[str] = ()) -> Progress:
    """Starts models only if something is left to answer; before that, says what is to be `said`."""
    progress = progress_so_far(plan)
    if is_finished(plan, progress) and not has_begun(plan):
        return progress
    async with run_open(plan, said) as session, progress_artifact(session):
        await _answer_open_shards(session)
        return session.progress


async def _answer_open_shards(session: RunSession) -> None:
    """A few shards at a time over one client, so that the tail of one does not drain the endpoints."""
    settings = session.plan.settings
    n_together = settings.shards_in_flight
    if session.lanes is not None:  # all open questions advance together, as far as files may be open
        n_together = max(n_together, min(64, session.max_open // settings.shard_size))
    gate = asyncio.Semaphore(n_together)

    async def answer(index: int) -> None:
        async with gate:
            await answer_shard(str(session.plan.run_dir), index)

    async with asyncio.TaskGroup() as shards:
        for index in session.left():
            shards.create_task(answer(index))


async def _publish(summary: RunSummary, progress: Progress, run_dir: Path, written: list[Path]) -> None:
    """What Prefect's UI shows of the run: its figures, its calls by model, a link to the answers, a line of its log."""
    low, high = summary.accuracy_interval or (None, None)
    row = {
        "method": summary.method,
        "requested": progress.n_requested,
        "answered": summary.n_answered,
        "failed": summary.n_failed,
        "deferred": progress.n_deferred,
        "accuracy": summary.accuracy,
        "accuracy low 95%": low,
        "accuracy high 95%": high,
        "judged": summary.n_judged,
        "USD": summary.cost_usd,
        "USD of the router": summary.router_cost_usd,
        "USD in this session": progress.session_cost_usd,
        "USD saved by reused calls": summary.saved_usd,
        "USD per 1k questions": summary.usd_per_1k,
        "calls": summary.n_calls,
        "reused calls": summary.n_reused,
        "calls per question": summary.calls_per_question,
    }
    models = [
        {"model": name, "calls": n, "USD": summary.cost_by_model_usd[name]}
        for name, n in summary.calls_by_model.items()
    ]
    description = f"run {summary.run_id}"
    jobs = jobs_shown(run_dir)
    if jobs:
        await acreate_table_artifact(key="answer-questions-jobs", table=rounded(jobs), description=description)
    await acreate_table_artifact(key="answer-questions-summary", table=rounded([row]), description=description)
    await acreate_table_artifact(key="answer-questions-models", table=rounded(models), description=description)
    for path in written:
        await acreate_link_artifact(
            key="answer-questions-answers",
            link=path.resolve().as_uri(),
            link_text=f"{path.name} ({run_dir.name})",
            description=description,
        )
    await logged(
        f"{summary.run_id}: of {progress.n_requested} questions {summary.n_answered} answered, {summary.n_failed} "
        f"failed, {progress.n_deferred} deferred",
        f"{summary.cost_usd:.6f} USD, {progress.session_cost_usd:.6f} of it in this session; {summary.saved_usd:.6f} "
        f"saved by {summary.n_reused} reused calls of {summary.n_calls}",
    )


def jobs_shown(run_dir: Path) -> list[dict[str, object]]:
    """The rows of the artifact that has the run's batch jobs, the newest last."""
    return [
        {
            "model": one.job.entry,
            "job": one.job.id,
            "state": one.end.state if one.end is not None else "waiting",
            "why": one.end.why if one.end is not None else "",
            "calls": one.job.n_rows,
            "answered": one.totals.n_answered,
            "live": one.totals.n_live,
            "hours": (one.end.ended_at - one.job.created_at) / 3600 if one.end is not None else None,
            "USD": one.totals.cost_usd,
            "USD live": one.totals.live_usd,
        }
        for one in JobFiles(run_dir / "jobs").records()[-MOST_JOBS_SHOWN:]
    ]


def _by_hand() -> None:
    with embedded_api():
        result = uvloop.run(answer_questions(routed_run(load_settings(Path(sys.argv[1]), {}))[0]))
    print(
        f"{result.summary.n_answered} answered, {result.summary.n_failed} failed -> {', '.join(map(str, result.out))}"
    )


if __name__ == "__main__":
    as_command(_by_hand)
