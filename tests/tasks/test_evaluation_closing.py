"""A run of an evaluation whose process is killed while it closes: the next session brings it to its end."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from r2.evaluation.settings import EvaluateSettings
from r2.pool.file.config import load_pool
from r2.problems import arithmetic
from r2.settings import Reasoning
from storage.lake.lake import Lake
from storage.lake.view import is_seen
from storage.runs.plan import RunPlan
from storage.sql.query import connect
from tasks.evaluation import evaluate_method
from tasks.evaluation.evaluate_method import answer_run, is_settled, open_evaluation, plan_evaluated
from tests.support.paths import ROOT

N = 3


class Killed(Exception):
    """The process is gone: what would come next does not."""


def killed(*args: Any, **kwargs: Any) -> None:
    raise Killed


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluateSettings:
    monkeypatch.setenv("R2_STATE_DIR", str(tmp_path / "state"))
    with (tmp_path / "q.jsonl").open("w", encoding="utf-8") as file:
        for one in arithmetic.generate(N, 1):
            row = {"id": one.problem_id, "question": one.question, "answer": one.target, "benchmark": one.benchmark}
            file.write(json.dumps(row) + "\n")
    return EvaluateSettings.model_validate(
        {
            "problems": [f"file:{tmp_path / 'q.jsonl'}"],
            "pool": str(ROOT / "pools/simulated.toml"),
            "lake": str(tmp_path / "lake"),
            "methods": ("cot:sim-0.6b",),
        }
    )


def session(settings: EvaluateSettings) -> tuple[RunPlan, int]:
    """One session of the evaluation's only run: its plan, and how many calls it paid for."""

    async def work() -> tuple[RunPlan, int]:
        pool = load_pool(settings.pool)
        async with open_evaluation("evaluation-0", settings, pool) as opened:
            questions = Path(settings.problems[0].removeprefix("file:"))
            reasoning = Reasoning.model_validate({"method": "cot", "model": "sim-0.6b"})
            plan = plan_evaluated(settings, pool, questions, reasoning)
            if not is_settled(plan):
                assert await answer_run(opened, plan)
            return plan, opened.n_paid - opened.n_paid_before

    return asyncio.run(work())


@pytest.mark.parametrize(("owner", "name"), [(evaluate_method, "record_session"), (Lake, "compact")])
def test_a_run_killed_while_it_closes_has_its_row_once_and_is_one_file_a_table(
    owner: Any, name: str, settings: EvaluateSettings, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as then:
        then.setattr(owner, name, killed)
        with pytest.raises(Killed):
            session(settings)
    plan, n_paid = session(settings)
    assert n_paid == 0
    with connect(settings.lake) as db:
        rows = db.execute("select run_id, status, n_answered, n_requested from runs").fetchall()
        [(rows_usd,)] = db.execute("select sum(cost_usd) from trajectories").fetchall()
        [(run_usd,)] = db.execute("select cost_usd from runs").fetchall()
    assert rows == [(plan.run_id, "completed", N, N)]
    assert run_usd == pytest.approx(rows_usd)
    assert is_seen(Lake(settings.lake).manifest, plan.run_id)
    assert is_settled(plan)
