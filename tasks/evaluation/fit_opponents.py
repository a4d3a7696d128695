"""The rules and cascades of an evaluation, chosen on dev problems from what every solver answered there: no call is
made.

What is chosen is settings: a model for each benchmark, the order of a cascade, worked examples
(r2/evaluation/fitted.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from r2.evaluation.fitted import ChosenFit, DevAnswers, FittedPoint, chosen_fit, worked_examples
from r2.evaluation.operating_points import OperatingPoint
from r2.evaluation.outcomes import MethodOutcomes
from r2.evaluation.settings import EvaluateSettings
from r2.methods.record import Fitted
from storage.evaluations.answers import answers_of, confidences_of, replies_of
from storage.evaluations.store import DevRun
from storage.lake.address import lake_folder
from storage.sql.query import connect
from tasks.evaluation.plan_evaluation import PlannedEvaluation

Runs = Mapping[str, DevRun | None]
"""Pool entry -> its run over the dev problems; None where it is not finished."""


@task(name="fit-opponents", cache_policy=NO_CACHE, persist_result=False)
def fit_opponents(
    settings: EvaluateSettings,
    planned: PlannedEvaluation,
    kinds: Sequence[Fitted],
    asked: Runs,
    measured: Runs,
    thinking: Sequence[DevRun],
    dev_outcomes: Mapping[str, MethodOutcomes],
    line: Sequence[DevRun],
) -> dict[Fitted, ChosenFit]:
    """What dev problems choose for each of the kinds; one that needs a run which is not finished is left out.

    `asked` are the solvers in their own prompt modes, `measured` the same with log-probabilities, `thinking` the
    constants that think step by step (without any, examples are from `asked`), `line` all constants.
    """
    root = lake_folder(settings.lake)
    found: dict[Fitted, ChosenFit] = {}
    constants = [OperatingPoint(0.0, point.accuracy, point.cost_usd) for point in line]
    for kind in dict.fromkeys(kinds):
        if kind == "examples":
            able = thinking or [run for run in asked.values() if run is not None]
            best = max(able, key=lambda run: run.accuracy, default=None)
            if best is not None:
                found[kind] = _examples(settings, planned, root, best, dev_outcomes[best.run_id])
            continue
        runs = measured if kind == "confidence" else asked
        answers = _answers(planned, root, runs, dev_outcomes, is_measured=kind == "confidence")
        if answers is not None:
            found[kind] = chosen_fit(kind, answers, constants, margin=settings.margin, cost_weight=settings.cost_weight)
    return found


def _answers(
    planned: PlannedEvaluation,
    root: Path,
    runs: Runs,
    dev_outcomes: Mapping[str, MethodOutcomes],
    *,
    is_measured: bool,
) -> DevAnswers | None:
    finished = {model: run for model, run in runs.items() if run is not None}
    if not finished or len(finished) < len(runs):
        return None
    outcomes = [dev_outcomes[run.run_id] for run in finished.values()]
    with connect(root, views=()) as db:
        texts = tuple(answers_of(db, run.run_id, planned.dev_ids) for run in finished.values())
        sure = (
            np.array([confidences_of(db, run.run_id, planned.dev_ids) for run in finished.values()])
            if is_measured
            else None
        )
    return DevAnswers(
        tuple(finished),
        planned.problems.dev,
        np.array([one.is_correct for one in outcomes]),
        np.array([one.cost_usd for one in outcomes]),
        texts,
        sure,
    )


def _examples(
    settings: EvaluateSettings, planned: PlannedEvaluation, root: Path, run: DevRun, outcomes: MethodOutcomes
) -> ChosenFit:
    with connect(root, views=()) as db:
        said = replies_of(db, run.run_id)
    is_right = [right > 0.5 for right in outcomes.is_correct]
    examples = worked_examples(planned.problems.dev, is_right, said, settings.reasoning.n_examples)
    words = f"{len(examples)} dev problems with the replies of {outcomes.label}"
    point = FittedPoint({"examples": examples}, run.accuracy, run.cost_usd, words)
    return ChosenFit(point, words)
