"""Flow: methods on the same problems. Dev problems choose operating points, test problems give the table; both are
ordinary runs.

Constants first, for they are what the others are held against; then the query router is fitted and every knob is tried
on dev problems; then each method at its chosen point on test problems. The same parameters resume it; a further method
pays for the calls that nobody made before. By hand: `r2 evaluate --problems scan`, or `python -m flows.evaluate_methods
configs/local/3_evaluate.toml`.
"""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import orjson
import uvloop
from prefect import flow, runtime
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

from flows.support.embedded_api import embedded_api
from flows.support.ending import as_command
from flows.support.running import logged, rounded, tag_run, told
from flows.support.terminal import stopped_by_signals
from r2.errors import ConfigError
from r2.evaluation.comparison import Comparison
from r2.evaluation.fitted import ChosenFit
from r2.evaluation.operating_points import (
    OperatingPoint,
    Variant,
    choose_point,
    constants_of,
    dev_runs,
    is_chosen_without_runs,
    measured,
    own_mode,
    variants_of,
)
from r2.evaluation.outcomes import MethodOutcomes
from r2.evaluation.settings import EvaluateSettings
from r2.methods import cot
from r2.methods.record import Fitted
from r2.methods.router import make_router
from r2.pool.file.config import load_pool
from r2.pool.file.price_check import dated_warnings
from r2.roster import Roster
from r2.settings import Reasoning, load
from storage.evaluations.store import DevRun, EvaluatedRow, Evaluation
from storage.lake.address import lake_folder
from tasks.blocking import to_end
from tasks.evaluation.evaluate_method import (
    OpenEvaluation,
    evaluate_method,
    is_settled,
    open_evaluation,
    plan_evaluated,
)
from tasks.evaluation.evaluation_tasks import plan_evaluation
from tasks.evaluation.finish_evaluation import finish_evaluation, outcomes_on
from tasks.evaluation.finished import EvaluationResult
from tasks.evaluation.fit_opponents import fit_opponents
from tasks.evaluation.fit_router import FittedRouter, fit_router
from tasks.evaluation.plan_evaluation import PlannedEvaluation


@dataclass(slots=True)
class _Row:
    """A row of the table on its way: what dev problems chose. `reasoning` None: something before it is not finished, so
    it cannot begin."""

    variant: Variant
    reasoning: Reasoning | None
    value: float | None = None
    rule: str = ""
    dev: tuple[DevRun, ...] = ()


@dataclass(slots=True)
class _Run:
    """A variant at a point on one side of the split, and whether all its problems are settled."""

    variant: Variant
    value: float | None
    run_id: str
    is_settled: bool


Wanted = Sequence[tuple[Variant, float | None, Reasoning]]


@dataclass(slots=True)
class _Session:
    """The running evaluation: what the steps of the flow share."""

    settings: EvaluateSettings
    planned: PlannedEvaluation
    opened: OpenEvaluation
    gate: asyncio.Semaphore
    dev_outcomes: dict[str, MethodOutcomes] = field(default_factory=dict)
    """By run id."""
    line: list[DevRun] = field(default_factory=list)
    """The constants on dev problems."""
    fitted_on: list[str] = field(default_factory=list)
    """Runs on dev problems that the query router is fitted on, and rules and cascades are chosen by."""
    fits: dict[Fitted, ChosenFit] = field(default_factory=dict)
    """What was chosen by them."""

    async def run(self, side: str, wanted: Wanted) -> list[_Run]:
        """Runs of variants at points, a few at a time over one client; in the order given."""
        path = self.planned.dev_file if side == "dev" else self.planned.test_file

        async def one(variant: Variant, value: float | None, reasoning: Reasoning) -> _Run:
            async with self.gate:
                plan = await to_end(plan_evaluated, self.settings, self.opened.pool, path, reasoning)
                if is_settled(plan):
                    return _Run(variant, value, plan.run_id, True)
                point = "" if value is None else f" {variant.knob}={value:g}"
                label = f"{variant.name}{point} on {side}"
                is_done = await evaluate_method(str(plan.run_dir), label)
                self._report(label, is_done)
                return _Run(variant, value, plan.run_id, is_done)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*what)) for what in wanted]
        return [task.result() for task in tasks]

    async def on_dev(self, wanted: Wanted) -> list[DevRun | None]:
        """The same on dev problems, and how each did; None for a run that is not finished."""
        runs = await self.run("dev", wanted)
        settled = [run for run in runs if run.is_settled]
        labels = {run.run_id: (_point_label(run), run.variant.kind, run.variant.name) for run in settled}
        root, planned = self.opened.lake.root, self.planned
        self.dev_outcomes |= await to_end(outcomes_on, root, planned.dev_ids, planned.difficulty, labels)
        return [self._point(run) if run.is_settled else None for run in runs]

    def _report(self, label: str, is_done: bool) -> None:
        """One JSON line on stderr for each run that this session worked on."""
        facts = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "run": label,
            "finished": is_done,
            "paid_usd": round(self.opened.paid_usd, 6),
            "calls_paid": self.opened.n_paid,
        }
        sys.stderr.write(orjson.dumps(facts).decode() + "\n")
        sys.stderr.flush()

    def _point(self, run: _Run) -> DevRun:
        outcomes = self.dev_outcomes[run.run_id]
        return DevRun(run.value, run.run_id, outcomes.accuracy, outcomes.mean_cost_usd)


def _point_label(run: _Run) -> str:
    return run.variant.name if run.value is None else f"{run.variant.name} {run.variant.knob}={run.value:g}"


def _run_name() -> str:
    settings = EvaluateSettings.model_validate(runtime.flow_run.parameters["settings"])
    return f"evaluate {', '.join(settings.problems) or 'a recording'} on {Path(settings.pool).stem}"


@flow(name="evaluate-methods", flow_run_name=_run_name, persist_result=False, validate_parameters=True)
async def evaluate_methods(settings: EvaluateSettings) -> EvaluationResult:
    """Compares methods. Failed problems are data; only broken infrastructure raises."""
    started = time.time()
    await tag_run("evaluate", f"pool:{Path(settings.pool).stem}", *(f"problems:{text}" for text in settings.problems))
    pool = load_pool(settings.pool)
    planned = plan_evaluation(settings)
    async with open_evaluation(planned.evaluation_id, settings, pool) as opened:
        for warning in [*opened.warnings, *dated_warnings(pool, datetime.now(UTC).date())]:
            sys.stderr.write(f"r2: {warning}\n")
        session = _Session(settings, planned, opened, asyncio.Semaphore(settings.methods_in_flight))
        with stopped_by_signals(opened):
            rows = await _evaluate(session)
        evaluation, comparison = finish_evaluation(
            settings, planned, opened, rows, session.dev_outcomes, session.fitted_on, started
        )
        session_paid_usd = opened.paid_usd - opened.paid_before_usd
    await told(_publish(evaluation, comparison))
    return EvaluationResult(evaluation, comparison, lake_folder(settings.lake), session_paid_usd)


async def _evaluate(session: _Session) -> list[EvaluatedRow]:
    """Constants, then what is fitted or chosen on dev problems, then everything on test problems."""
    settings, pool = session.settings, session.opened.pool
    roster = pool.roster()
    constants = constants_of(settings, roster)
    variants = variants_of(settings, roster, pool.router.decomposer, pool.router.allocator)
    for variant in [*constants, *variants]:
        if is_chosen_without_runs(variant):  # that is settled here
            continue
        router = make_router(pool, settings.answering("", variant.reasoning))  # a wrong setting is said at once
        if router.scorer_misfit:
            raise ConfigError(f"{router.scorer_misfit} The row would not be the scorer's: leave it out.")
    further = dev_runs(settings, roster, variants)
    first = {variant.name: variant for variant in [*constants, *further]}
    points = dict(zip(first, await session.on_dev([(v, None, v.reasoning) for v in first.values()]), strict=True))
    session.line = [point for v in constants if (point := points[v.name]) is not None]
    rows = [_Row(v, v.reasoning, dev=(point,)) if (point := points[v.name]) else _Row(v, None) for v in constants]
    if len(session.line) == len(constants):
        session.fitted_on = [point.run_id for v in further if (point := points[v.name]) is not None]
        fitted = _fitted(session, roster, [*constants, *variants], points)
        async with asyncio.TaskGroup() as group:
            tuning = [group.create_task(_tuned(session, v, fitted)) for v in variants if not v.method.matches_judged]
        tuned = [task.result() for task in tuning]
        drawn = [_matched(session, variant, tuned) for variant in variants if variant.method.matches_judged]
        placed = {row.variant.name: row for row in [*tuned, *drawn]}
        rows += [placed[variant.name] for variant in variants]
    else:
        rows += [_Row(variant, None) for variant in variants]
    return await _on_test(session, rows, {variant.name for variant in constants})


def _fitted(
    session: _Session, roster: Roster, rows: Sequence[Variant], points: Mapping[str, DevRun | None]
) -> FittedRouter | None:
    """Fits the query router, and chooses rules, cascades and examples for the session, where a row needs them. `points`
    are the runs over the dev problems, by their variants' names."""
    settings = session.settings
    asked = {card.name: points.get(own_mode(settings, card).name) for card in roster.solvers}
    measured_runs = {card.name: points.get(measured(settings, card).name) for card in roster.solvers}
    kinds = [variant.method.fitted for variant in rows if variant.method.fitted]
    if kinds:
        thinking = [points[v.name] for v in rows if v.kind == cot.METHOD.name]
        session.fits = fit_opponents(
            settings,
            session.planned,
            kinds,
            asked,
            measured_runs,
            [run for run in thinking if run is not None],
            session.dev_outcomes,
            session.line,
        )
    needs_router = any(variant.method.uses_query_router for variant in rows)
    return fit_router(session.planned, asked, session.dev_outcomes) if needs_router else None


async def _tuned(session: _Session, variant: Variant, fitted: FittedRouter | None) -> _Row:
    """The row at the operating point that dev problems choose; a variant without a knob as it is."""
    if variant.method.fitted:
        fit = session.fits.get(variant.method.fitted)
        if fit is None:
            return _Row(variant, None)
        point = DevRun(None, "", fit.point.accuracy, fit.point.cost_usd)
        return _Row(variant, variant.at(None, **fit.point.fields), rule=fit.rule, dev=(point,))
    if not variant.knob:
        return _Row(variant, variant.reasoning)
    fixed: dict[str, object] = {}
    if variant.method.uses_query_router:
        if fitted is None:
            return _Row(variant, None)
        fixed = {"query_router": str(fitted.path)}
        tried = [fitted.point(value) for value in variant.values]
    else:
        wanted = [(variant, value, variant.at(value)) for value in variant.values]
        found = await session.on_dev(wanted)
        tried = [point for point in found if point is not None]
        if len(tried) < len(found):
            return _Row(variant, None, dev=tuple(tried))
    settings = session.settings
    points = [OperatingPoint(point.value or 0.0, point.accuracy, point.cost_usd) for point in tried]
    line = [OperatingPoint(0.0, point.accuracy, point.cost_usd) for point in session.line]
    chosen = choose_point(points, line, margin=settings.margin, cost_weight=settings.cost_weight)
    return _Row(variant, variant.at(chosen.value, **fixed), chosen.value, chosen.rule, tuple(tried))


def _matched(session: _Session, variant: Variant, tuned: Sequence[_Row]) -> _Row:
    """Random at matched cost: models drawn for the subtasks of the judged router's plans, in the shares it used them on
    dev problems. Without a judged method that was tried on them: every solver alike, for the whole question."""
    judged = [row for row in tuned if row.variant.method.family == "ours" and row.variant.knob]
    named = [row for row in judged if row.variant.name == session.settings.subject] or judged[-1:]
    if not named:
        return _Row(variant, variant.reasoning)
    [row] = named
    if row.reasoning is None:
        return _Row(variant, None)
    at = next(point.run_id for point in row.dev if point.value == row.value)
    fields = {
        "random_level": "subtask",
        "mix": dict(session.dev_outcomes[at].model_calls),
        "decomposer": row.reasoning.decomposer,
    }
    return _Row(variant, variant.at(None, **fields), rule=f"plans and model shares of {row.variant.name}")


async def _on_test(session: _Session, rows: Sequence[_Row], constants: set[str]) -> list[EvaluatedRow]:
    """Every row that can, on test problems, once per seed."""
    seeds = range(session.settings.seeds)
    wanted = [
        (row.variant, row.value, row.reasoning.model_copy(update={"seed": seed}))
        for row in rows
        if row.reasoning is not None
        for seed in seeds
    ]
    runs = await session.run("test", wanted)
    by_name: dict[str, list[_Run]] = {}
    for run in runs:
        by_name.setdefault(run.variant.name, []).append(run)
    return [
        EvaluatedRow(
            name=row.variant.name,
            method=row.variant.kind,
            is_constant=row.variant.name in constants,
            knob=row.variant.knob,
            value=row.value,
            rule=row.rule,
            reasoning=row.reasoning.identity() if row.reasoning is not None else {},
            dev=row.dev,
            test_runs=tuple(run.run_id for run in by_name.get(row.variant.name, ())),
            is_finished=row.reasoning is not None and all(run.is_settled for run in by_name[row.variant.name]),
        )
        for row in rows
    ]


async def _publish(evaluation: Evaluation, comparison: Comparison | None) -> None:
    """What Prefect's UI shows: the verdict, the table it stands on, and lines of its log."""
    description = f"evaluation {evaluation.evaluation_id}"
    await acreate_markdown_artifact(
        key="evaluate-methods-verdict", markdown=evaluation.verdict, description=description
    )
    n_saved = evaluation.n_calls_charged - evaluation.n_calls_paid
    await logged(
        f"{evaluation.evaluation_id}: {evaluation.verdict}",
        f"charged {evaluation.charged_usd:.6f} USD for {evaluation.n_calls_charged} calls; paid "
        f"{evaluation.paid_usd:.6f} USD for {evaluation.n_calls_paid}; "
        f"{max(0.0, evaluation.charged_usd - evaluation.paid_usd):.6f} USD saved by {max(0, n_saved)} shared calls",
    )
    if comparison is None:
        return
    table = [
        {
            "row": m.label,
            "accuracy": m.accuracy.value,
            "low 95%": m.accuracy.interval.low if m.accuracy.interval else None,
            "high 95%": m.accuracy.interval.high if m.accuracy.interval else None,
            "USD per 1k": m.usd_per_1k.value,
            "share of USD saved at equal accuracy": m.cost_saved.value if m.cost_saved else None,
            "calls per problem": m.calls_per_problem,
            "p50 s": m.latency_p50_s,
            "p95 s": m.latency_p95_s,
            "router's share of USD": m.router_share,
            "top model": m.top_model,
            "top model's share of calls": m.top_model_share,
        }
        for m in comparison.methods
    ]
    await acreate_table_artifact(key="evaluate-methods-table", table=rounded(table), description=description)


def _by_hand() -> None:
    with embedded_api():
        result = uvloop.run(evaluate_methods(load(EvaluateSettings, Path(sys.argv[1]), {})))
    print(f"{result.evaluation.evaluation_id}: {result.evaluation.verdict}")


if __name__ == "__main__":
    as_command(_by_hand)
