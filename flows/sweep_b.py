"""Flow: the same problems answered once per value of the cost knob `b`, and the b to use for a budget or an accuracy.

Each value is an ordinary run; calls that several values share (every plan, most steps) are made and paid once. The same
parameters resume it. By hand: `r2 policy sweep --pool P --problems S`, or `python -m flows.sweep_b SETTINGS.toml`.
"""

import asyncio
import sys
from pathlib import Path

import uvloop
from prefect import flow, runtime
from prefect.artifacts import acreate_table_artifact

from flows.support.embedded_api import embedded_api
from flows.support.ending import as_command
from flows.support.running import logged, rounded, tag_run, told
from flows.support.terminal import stopped_by_signals
from r2.evaluation.compare import compare
from r2.evaluation.operating_points import own_mode
from r2.evaluation.sweep import Sweep, SweepMeasurement, SweepSettings, answers_digest, concluded, points_of
from r2.pool.file.config import load_pool
from r2.settings import Reasoning, load
from storage.evaluations.sweeps import write_sweep
from storage.lake.address import lake_folder
from tasks.evaluation.evaluate_method import OpenEvaluation, evaluate_method, open_evaluation, plan_evaluated
from tasks.evaluation.finish_evaluation import outcomes_on
from tasks.evaluation.plan_evaluation import planned_sweep


def _run_name() -> str:
    settings = SweepSettings.model_validate(runtime.flow_run.parameters["settings"])
    return f"sweep b, {', '.join(settings.problems)} on {Path(settings.pool).stem}"


@flow(name="sweep-b", flow_run_name=_run_name, persist_result=False, validate_parameters=True)
async def sweep_b(settings: SweepSettings) -> Sweep:
    """Runs what is not answered yet, and concludes from what is."""
    await tag_run("sweep", f"pool:{Path(settings.pool).stem}", *(f"problems:{text}" for text in settings.problems))
    pool = load_pool(settings.pool)
    planned = planned_sweep(settings)
    settings, sweep_id, root = planned.settings, planned.sweep_id, lake_folder(settings.lake)
    wanted: dict[float | None, Reasoning] = {b: settings.at(b) for b in settings.b}
    if settings.reference is not None:
        wanted[None] = own_mode(settings, pool.roster()[settings.reference]).reasoning
    async with open_evaluation(sweep_id, settings, pool) as opened:
        with stopped_by_signals(opened):
            runs = await _answer(settings, opened, planned.file, wanted)
        paid_usd, stop_reason = opened.paid_usd, opened.stop_reason
    ids = [problem.problem_id for problem in planned.problems]
    outcomes = outcomes_on(root, ids, dict.fromkeys(ids, ""), {run: (run, "r2", "b") for run in runs.values()})
    points: tuple[SweepMeasurement, ...] = ()
    reference: float | None = None
    if runs:
        comparison = compare([outcomes[run_id] for run_id in dict.fromkeys(runs.values())])
        reference = comparison[runs[None]].accuracy.value if None in runs else None
        points = points_of(comparison, {b: run for b, run in runs.items() if b is not None}, outcomes)
    status = "completed" if len(runs) == len(wanted) else stop_reason or "incomplete"
    digest = answers_digest(pool, settings.reasoning)
    sweep = concluded(sweep_id, status, settings, len(ids), points, reference, paid_usd, digest, sorted(pool.policies))
    write_sweep(root, sweep)
    await told(_publish(sweep))
    return sweep


async def _publish(sweep: Sweep) -> None:
    """What Prefect's UI shows: the points, and a line of its log."""
    table = [
        {
            "b": p.b,
            "accuracy": p.accuracy,
            "low 95%": p.accuracy_low,
            "high 95%": p.accuracy_high,
            "USD per 1k": p.usd_per_1k,
            "calls per problem": p.calls_per_problem,
        }
        for p in sweep.points
    ]
    description = f"sweep {sweep.sweep_id}"
    await acreate_table_artifact(key="sweep-b-points", table=rounded(table), description=description)
    await logged(
        f"{sweep.sweep_id}: {sweep.n_problems} problems at {len(sweep.points)} values of b, {sweep.status}; "
        f"{sweep.paid_usd:.6f} USD paid"
    )


async def _answer(
    settings: SweepSettings, opened: OpenEvaluation, path: Path, wanted: dict[float | None, Reasoning]
) -> dict[float | None, str]:
    """Run ids of the values whose every problem is settled; None stands for the reference."""
    gate = asyncio.Semaphore(settings.methods_in_flight)

    async def one(b: float | None, reasoning: Reasoning) -> tuple[float | None, str] | None:
        async with gate:
            plan = plan_evaluated(settings, opened.pool, path, reasoning)
            label = f"reference {settings.reference}" if b is None else f"b = {b:g}"
            return (b, plan.run_id) if await evaluate_method(str(plan.run_dir), label) else None

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(b, reasoning)) for b, reasoning in wanted.items()]
    return dict(pair for task in tasks if (pair := task.result()) is not None)


def _by_hand() -> None:
    with embedded_api():
        done = uvloop.run(sweep_b(load(SweepSettings, Path(sys.argv[1]), {})))
    print(f"{done.sweep_id}: {len(done.points)} points")


if __name__ == "__main__":
    as_command(_by_hand)
