"""Flow: label problems for training. The same plan, shards and journals as answering; the same parameters resume it.

By hand: `r2 label --problems scan --limit 200`, or
`python -m flows.label_plans configs/simulated/1_label_plans.toml`.
"""

import sys
from pathlib import Path

import uvloop
from prefect import flow, runtime
from prefect.artifacts import acreate_table_artifact

from flows.answer_questions import answer_what_is_open
from flows.support.embedded_api import embedded_api
from flows.support.ending import as_command
from flows.support.running import logged, rounded, tag_run, told
from r2.atomic import check_folder
from r2.settings import LabelSettings, load_label_settings
from storage.lake.address import lake_folder
from storage.lake.lake import Lake
from storage.runs.label_sets import LabelSets, LabelSummary
from storage.runs.plan import read_plan
from tasks.answering.progress import Progress
from tasks.answering.run_tasks import plan_file
from tasks.labelling.finished import LabelResult, answering_of
from tasks.labelling.label_tasks import finish_labels


def _run_name() -> str:
    settings = LabelSettings.model_validate(runtime.flow_run.parameters["settings"])
    return f"label {settings.problems} on {Path(settings.pool).stem}"


@flow(name="label-plans", flow_run_name=_run_name, persist_result=False, validate_parameters=True)
async def label_plans(settings: LabelSettings) -> LabelResult:
    """Labels the problems that are not settled yet and writes both sets from all that are. Dropped
    problems are data."""
    await tag_run("method:label", f"pool:{Path(settings.pool).stem}", f"problems:{settings.problems}")
    check_folder(Path(settings.out), "--out")
    answering = answering_of(settings)
    run_dir = plan_file(answering)
    plan = read_plan(run_dir, answering)
    with Lake(settings.lake).run_lock(plan.run_id):
        progress = await answer_what_is_open(plan)
        summary, sets = finish_labels(run_dir, progress, settings)
    await told(_publish(summary, sets, progress))
    return LabelResult(summary, sets, progress, lake_folder(settings.lake))


async def _publish(summary: LabelSummary, sets: LabelSets, progress: Progress) -> None:
    """What Prefect's UI shows: kept and dropped and why, cost, executions, how the scores are spread, and a line of its
    log."""
    counts: dict[str, float] = {"problems kept": summary.n_kept}
    counts |= {f"problems dropped: {reason}": n for reason, n in summary.dropped.items()}
    counts |= {
        "problems deferred": progress.n_deferred,
        "executions per searched plan": summary.executions_per_plan,
        "decomposer rows": sum(sets.decomposer.values()),
        "allocator rows": sum(sets.allocator.values()),
        "reused calls": summary.n_reused,
    }
    usd = {
        "paid": summary.cost_usd,
        **{f"paid for {purpose}": usd for purpose, usd in summary.cost_by_purpose_usd.items()},
        "paid in this session": progress.session_cost_usd,
        "saved by reused calls": summary.saved_usd,
    }
    description = f"run {summary.run_id}"
    counted = [{"what": what, "number": number} for what, number in counts.items()]
    await acreate_table_artifact(key="label-plans-summary", table=rounded(counted), description=description)
    costs = [{"what": what, "USD": value} for what, value in usd.items()]
    await acreate_table_artifact(key="label-plans-cost", table=rounded(costs), description=description)
    spread = [
        {"score": score, "lower quartile": low, "median": middle, "upper quartile": high}
        for score, (low, middle, high) in summary.score_quantiles.items()
    ]
    await acreate_table_artifact(key="label-plans-scores", table=rounded(spread), description=description)
    await logged(
        f"{summary.run_id}: of {progress.n_requested} problems {summary.n_kept} labelled, "
        f"{sum(summary.dropped.values())} dropped, {progress.n_deferred} deferred",
        f"{summary.cost_usd:.6f} USD, {progress.session_cost_usd:.6f} of it in this session; {summary.saved_usd:.6f} "
        f"saved by {summary.n_reused} reused calls",
    )


def _by_hand() -> None:
    with embedded_api():
        done = uvloop.run(label_plans(load_label_settings(Path(sys.argv[1]), {})))
    print(f"{done.summary.n_kept} of {done.summary.n_problems} labelled -> {done.sets.out}")


if __name__ == "__main__":
    as_command(_by_hand)
