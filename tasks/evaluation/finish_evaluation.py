"""The last task of an evaluation's session: outcomes read from the lake, compared, judged, and written beside the
problems."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from r2.evaluation.comparison import Comparison
from r2.evaluation.outcomes import MethodOutcomes
from r2.evaluation.settings import EvaluateSettings
from r2.evaluation.verdict import verdict
from storage.evaluations.outcomes import charged, outcomes_of
from storage.evaluations.problems import leaks_among
from storage.evaluations.store import EvaluatedRow, Evaluation, write_comparison, write_evaluation
from storage.evaluations.summary import compared, difficulty_of, outcomes_of_rows, subject_of
from storage.runs.checks import check_summary
from storage.sql.query import connect, write_database
from tasks.evaluation.evaluate_method import OpenEvaluation
from tasks.evaluation.plan_evaluation import PlannedEvaluation


def outcomes_on(
    lake: Path, problem_ids: Sequence[str], difficulty: Mapping[str, str], runs: Mapping[str, tuple[str, str, str]]
) -> dict[str, MethodOutcomes]:
    """By run id, the outcomes of runs with their (label, kind, sweep)."""
    if not runs:
        return {}
    with connect(lake, views=()) as db:
        found = {
            run_id: outcomes_of(db, label, kind, [run_id], problem_ids, difficulty, sweep)
            for run_id, (label, kind, sweep) in runs.items()
        }
    return {run_id: outcomes for run_id, outcomes in found.items() if outcomes is not None}


@task(name="finish-evaluation", cache_policy=NO_CACHE, persist_result=False)
def finish_evaluation(
    settings: EvaluateSettings,
    planned: PlannedEvaluation,
    opened: OpenEvaluation,
    rows: Sequence[EvaluatedRow],
    dev_outcomes: Mapping[str, MethodOutcomes],
    fitted_on: Sequence[str],
    started_at: float,
) -> tuple[Evaluation, Comparison | None]:
    """Writes plan.json, summary.json and dev.json, and refreshes the lake's views."""
    root = opened.lake.root
    constant_runs = [row.dev[0].run_id for row in rows if row.is_constant and row.dev]
    difficulty, source = planned.difficulty, ""
    outcomes = outcomes_of_rows(root, rows, planned.test_ids, difficulty)
    constants = [outcomes[row.name] for row in rows if row.is_constant and row.name in outcomes]
    of_test, source = difficulty_of({name: difficulty[name] for name in planned.test_ids}, constants)
    of_dev, _ = difficulty_of(
        {name: difficulty[name] for name in planned.dev_ids},
        [dev_outcomes[run_id] for run_id in constant_runs if run_id in dev_outcomes],
    )
    if of_test != {name: difficulty[name] for name in planned.test_ids}:
        outcomes = outcomes_of_rows(root, rows, planned.test_ids, of_test)  # shares per difficulty follow from it
    judged = subject_of(settings, rows)
    comparison = compared(settings, rows, [outcomes[row.name] for row in rows if row.name in outcomes], judged)
    said = "No row of the table is finished; the same command resumes it."
    if comparison is not None:
        write_comparison(root, planned.evaluation_id, "summary", comparison)
        said = verdict(comparison) if comparison.subject is not None else "No router was judged."
    tried = [
        dataclasses.replace(one, difficulty=tuple(of_dev[name] for name in one.problem_ids))
        for one in dev_outcomes.values()
    ]
    if on_dev := compared(settings, rows, tried, None):
        write_comparison(root, planned.evaluation_id, "dev", on_dev)
    evaluation = Evaluation(
        evaluation_id=planned.evaluation_id,
        status=_status(opened, rows),
        settings=settings.model_dump(mode="json"),
        pool_digest=planned.pool_digest,
        n_dev=len(planned.dev_ids),
        n_test=len(planned.test_ids),
        difficulty=of_dev | of_test,
        difficulty_source=source,
        gold_difficulty=planned.problems.bands,
        rows=tuple(rows),
        subject=None if comparison is None else comparison.subject,
        verdict=said,
        charged_usd=0.0,
        paid_usd=opened.paid_usd,
        n_calls_charged=0,
        n_calls_paid=opened.n_paid,
        leaks=leaks_among(settings, planned.problems.test),
        fitted_on=tuple(fitted_on),
        wall_s=time.time() - started_at,
        ended_at=time.time(),
        check=check_summary(root, settings.reasoning.check, [run for row in rows for run in row.test_runs]),
        prices={name: card.price.version for name, card in opened.pool.roster().by_name.items()},
    )
    with connect(root, views=()) as db:
        usd, n_calls = charged(db, evaluation.runs())
    evaluation = dataclasses.replace(evaluation, charged_usd=usd, n_calls_charged=n_calls)
    write_evaluation(root, evaluation)
    write_database(root)
    return evaluation, comparison


def _status(opened: OpenEvaluation, rows: Sequence[EvaluatedRow]) -> str:
    if opened.stop_reason == "budget":
        return "budget_stopped"
    if opened.stop_reason is not None:
        return "interrupted"
    return "completed" if all(row.is_finished for row in rows) else "incomplete"
