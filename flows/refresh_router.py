"""Flow: the nightly loop. New traffic with a verdict is labelled within a budget, a new version is trained on, compared
with the promoted one on questions that nothing was trained on, and promoted or kept, with the reason.

By hand: `r2 refresh`, or `python -m flows.refresh_router SETTINGS.toml`. The same parameters go on where it stopped; a
round that is over is followed by the next as soon as there is new traffic.
"""

import sys
from pathlib import Path
from typing import Any

import uvloop
from prefect import flow, runtime, task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from flows.answer_questions import answer_questions
from flows.support.embedded_api import embedded_api
from flows.support.ending import as_command
from flows.support.running import logged, rounded, tag_run, told
from flows.train_grpo import train_grpo
from r2.pool.file.config import load_pool
from r2.settings import AnswerSettings
from r2.training.refresh.settings import STAGES, RefreshSettings, Stage, load_refresh_settings
from storage.lake.address import lake_folder
from storage.lake.lake import Lake
from storage.runs.refresh_rounds import Round
from storage.sql.query import refresh_database
from tasks.retry import may_help
from tasks.training.refresh_round import (
    RoundResult,
    begun_round,
    compared,
    result_of,
    settled,
    sides,
    spent_usd,
    trained,
)

LABELLED_BY = "start"
"""The way in which each entry is asked: the question as a whole, in the entry's own prompt mode."""
EVENTS: dict[Stage, str] = {
    "label": "r2.refresh.labelled",
    "train": "r2.refresh.trained",
    "evaluate": "r2.refresh.evaluated",
    "promote": "r2.refresh.settled",
}
"""Stage -> the event that says it is done: what `r2 ops setup` chains the stages by."""


def _run_name() -> str:
    settings = RefreshSettings.model_validate(runtime.flow_run.parameters["settings"])
    return f"refresh {settings.scorer} on {Path(settings.pool).stem}"


@task(name="begin-round", cache_policy=NO_CACHE, persist_result=False, retries=1, retry_condition_fn=may_help)
def begin_round(settings: RefreshSettings) -> tuple[Round, str]:
    """The questions of the round, frozen."""
    return begun_round(settings)


@task(name="train-version", cache_policy=NO_CACHE, persist_result=False, retries=1, retry_condition_fn=may_help)
def train_version(round_: Round, settings: RefreshSettings) -> None:
    """Fits the new version; seconds on a core."""
    trained(round_, settings)


@task(name="compare-versions", cache_policy=NO_CACHE, persist_result=False, retries=1, retry_condition_fn=may_help)
def compare_versions(round_: Round, settings: RefreshSettings, run_ids: list[str]) -> dict[str, Any]:
    """The new version beside the promoted one."""
    return compared(round_, settings, run_ids)


@flow(name="refresh-router", flow_run_name=_run_name, persist_result=False, validate_parameters=True)
async def refresh_router(settings: RefreshSettings, until: Stage = "promote") -> RoundResult:
    """Does what is left of the present round, up to a stage; with `promote`, all of it. Nothing new is no failure."""
    await tag_run(f"policy:{settings.scorer}", f"pool:{Path(settings.pool).stem}")
    with Lake(settings.lake).run_lock(f"refresh-{settings.scorer}"):
        result = await _round(settings, STAGES.index(until))
    refresh_database(lake_folder(settings.lake))
    await told(_publish(result))
    return result


async def _round(settings: RefreshSettings, last: int) -> RoundResult:
    round_, nothing = begin_round(settings)
    if nothing:
        return RoundResult(round_.number, nothing)
    run_ids, stopped = await _labelled(round_, settings)
    if stopped:
        return RoundResult(round_.number, stopped, is_stopped=True)
    label_usd = spent_usd(lake_folder(settings.lake), run_ids)
    if last == 0:
        return _reached(round_, "label", settings, label_usd)
    train_version(round_, settings)
    if last == 1:
        return _reached(round_, "train", settings, label_usd)
    comparison = compare_versions(round_, settings, run_ids)
    if last == 2:
        return _reached(round_, "evaluate", settings, label_usd)
    policy = settled(round_, settings, comparison, label_usd)
    result = result_of(round_, settings, policy, comparison)
    _say(settings, "promote", {"policy": result.policy, "is_promoted": result.is_promoted, "reason": result.reason})
    if settings.is_due(round_.number):
        left = None if settings.max_cost_usd is None else settings.max_cost_usd - label_usd
        if left is None or left > 0:
            learned = round_.part("learned", sides(round_, settings)[0])
            train_grpo(settings.of_grpo(learned, left))
    return result


async def _labelled(round_: Round, settings: RefreshSettings) -> tuple[list[str], str]:
    """(the runs that asked every entry the round's questions, why they are not all done). Money that is spent ends the
    asking, and not the round."""
    run_ids: list[str] = []
    for card in load_pool(settings.pool, settings.policies_dir).roster().solvers:
        left = None
        if settings.max_cost_usd is not None:
            left = settings.max_cost_usd - spent_usd(lake_folder(settings.lake), run_ids)
            if left <= 0:
                break
        result = await answer_questions(_asking(round_, settings, card.name, left))
        run_ids.append(result.summary.run_id)
        progress = result.progress
        if progress.stop_reason == "interrupted" or (progress.n_deferred and progress.stop_reason != "budget"):
            return run_ids, (
                f"round {round_.number} is not over: {progress.n_deferred} questions to {card.name} are left. The same "
                "command goes on"
            )
    return run_ids, ""


def _asking(round_: Round, settings: RefreshSettings, model: str, left: float | None) -> AnswerSettings:
    """Every question of the round to one entry. What other runs of the lake paid for is used."""
    return AnswerSettings.model_validate(
        {
            "input": str(round_.questions_file),
            "pool": settings.pool,
            "lake": settings.lake,
            "models_dir": settings.models_dir,
            "out": str(round_.folder / "labels" / f"{model}.jsonl"),
            "max_cost_usd": left,
            "max_in_flight": settings.max_in_flight,
            "reuse": True,
            "reasoning": {"method": LABELLED_BY, "model": model, "max_escalations": 0, "seed": settings.seed},
        }
    )


def _reached(round_: Round, stage: Stage, settings: RefreshSettings, label_usd: float) -> RoundResult:
    """The round is done up to a stage that is not its last."""
    _say(settings, stage, {"label_usd": label_usd})
    return RoundResult(round_.number, f"round {round_.number}: done as far as {stage}", label_usd=label_usd)


def _say(settings: RefreshSettings, stage: Stage, about: dict[str, Any]) -> None:
    """Tells Prefect's events, by which automations go on."""
    resource = {"prefect.resource.id": f"r2.policy.{settings.scorer}", "r2.pool": Path(settings.pool).stem}
    emit_event(event=EVENTS[stage], resource=resource, payload=about)


async def _publish(result: RoundResult) -> None:
    rows = [{"what": name, "value": value} for name, value in result.figures.items()]
    rows += [{"what": "promoted" if result.is_promoted else "not promoted", "value": result.reason}]
    await acreate_table_artifact(
        key="refresh-router-round", table=rounded(rows), description=f"round {result.number}, {result.policy or 'none'}"
    )
    await logged(f"round {result.number}: {result.policy} {'promoted' if result.is_promoted else ''} {result.reason}")


def _by_hand() -> None:
    with embedded_api():
        result = uvloop.run(refresh_router(load_refresh_settings(Path(sys.argv[1]), {})))
    print(f"round {result.number}: {result.reason}")


if __name__ == "__main__":
    as_command(_by_hand)
