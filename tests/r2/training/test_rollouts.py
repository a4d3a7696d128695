"""Rollouts, their reward terms and curves in a real lake, and the views over them."""

import asyncio
from pathlib import Path

import pytest

from r2.call import Call, Completion
from r2.problem import Problem
from r2.training.curve import MetricsFile
from r2.training.grpo.batch import Draw, Rollout, TrainingPrompt
from r2.training.grpo.reward import ScoredTrajectory, Terms, rollout, score
from r2.training.sampled import SampledText
from storage.lake.lake import Lake
from storage.runs.rollouts import close_rollouts, commit_curve, commit_held_out, commit_rollouts
from storage.sql.query import connect
from tests.support.scripted import ROSTER, completion, router

PROBLEM = Problem("p1", "What is 3 * 4?", 7, "12", "arithmetic")
PLAN = SampledText("DIRECT", 30, 2)
ALLOCATION = SampledText('[{"subtask":1,"model":"A"}]', 50, 10)
WEIGHTS = {"right": 1.0, "cost": -0.5, "well_formed": 0.1}


async def twelve(call: Call) -> Completion:
    return completion("12", call.model)


def scored() -> ScoredTrajectory:
    texts = {"decompose": PLAN, "allocate": ALLOCATION}
    return score(asyncio.run(rollout(PROBLEM, texts, router(), twelve)), "allocator", ALLOCATION, 320e-6)


def rolled(step: int, number: int, one: ScoredTrajectory) -> Rollout:
    return Rollout(step, Draw(TrainingPrompt(0, PROBLEM, []), number, ALLOCATION), one)


def rows(lake: Path, sql: str) -> list[tuple[object, ...]]:
    with connect(lake) as db:
        return db.execute(sql).fetchall()


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Two steps of two rollouts, one of which met an outage; 34 + 70 + 20 units of 1e-6 USD each."""
    one = scored()
    out = ScoredTrajectory(one.trajectory, Terms(None, None, None))
    commit_rollouts(
        Lake(tmp_path),
        "g-r0-allocator",
        [rolled(0, 0, one), rolled(0, 1, out), rolled(1, 2, one), rolled(1, 3, one)],
        ROSTER,
        WEIGHTS,
        0,
        "allocator@v1",
    )
    return tmp_path


def test_a_rollout_is_a_trajectory_with_phase_round_step_and_policy(lake: Path):
    found = rows(
        lake, "select rollout, phase, round, step, policy, is_correct, input_index from trajectories order by rollout"
    )
    assert found == [(i, "grpo", 0, i // 2, "allocator@v1", True, 7) for i in range(4)]
    assert rows(lake, "select count(*), count(distinct rollout) from calls") == [(12, 4)]
    assert rows(lake, "select count(*) from subtasks") == [(4,)]


def test_each_term_is_stored_with_its_weight_and_an_outage_with_none(lake: Path):
    found = rows(lake, "select term, weight, value from rewards where rollout = 0 order by term")
    assert found == [
        ("cost", -0.5, pytest.approx((34 + 70 + 20) / 320)),
        ("right", 1.0, 1.0),
        ("well_formed", 0.1, 1.0),
    ]
    assert rows(lake, "select count(*) from rewards where rollout = 1 and value is null") == [(3,)]


def test_the_view_of_terms_averages_them_by_step(lake: Path):
    found = rows(
        lake,
        "select step, n_rollouts, n_without, mean_value, mean_in_reward from reward_terms where term = 'cost' order "
        "by step",
    )
    share = (34 + 70 + 20) / 320
    assert found == [
        (0, 2, 1, pytest.approx(share), pytest.approx(-share / 2)),
        (1, 2, 0, pytest.approx(share), pytest.approx(-share / 2)),
    ]


def test_steps_that_were_stored_before_a_kill_are_not_stored_again(lake: Path):
    commit_rollouts(
        Lake(lake),
        "g-r0-allocator",
        [rolled(0, 0, scored()), rolled(1, 2, scored())],
        ROSTER,
        WEIGHTS,
        0,
        "allocator@v1",
    )
    assert rows(lake, "select count(*) from trajectories") == [(4,)]


def test_the_books_of_a_training_balance(lake: Path):
    close_rollouts(Lake(lake), "g-r0-allocator", {"problems": "scan", "pool": "p.toml"}, 1e-6, 2.0)
    assert rows(lake, "select kind, n_requested, round(cost_usd * 1e6), session_cost_usd from runs") == [
        ("grpo", 4, 4 * 124, 1e-6)
    ]
    for view in ("reconcile_cost", "reconcile_tokens"):
        assert rows(lake, f"select * from {view}") == []


def test_curves_are_rows_with_a_running_mean(lake: Path, tmp_path: Path):
    curve = MetricsFile(tmp_path / "curve.jsonl")
    for step, reward in enumerate([1.0, 3.0], start=1):
        curve.add(step, {"reward": reward})
    assert commit_curve(Lake(lake), "g-r0-allocator", "allocator", 0, curve.path) == {"reward": 3.0}
    found = rows(lake, "select phase, policy, round, step, metric, value, mean_of_10 from training_curve order by step")
    assert found == [("grpo", "allocator", 0, 0, "reward", 1.0, 1.0), ("grpo", "allocator", 0, 1, "reward", 3.0, 2.0)]


def test_a_rounds_comparison_is_seen_side_by_side(tmp_path: Path):
    old, new = [scored().trajectory], [scored().trajectory]
    commit_held_out(
        Lake(tmp_path), "g-r0", 0, {"utility": 0.5}, {"utility": 0.75}, old, new, ROSTER, "d@v1+a@v1", "d@v1+a@v2"
    )
    columns = "before, after, n_problems, accuracy_before, accuracy_after, utility_before, utility_after"
    assert rows(tmp_path, f"select {columns} from promotions") == [("d@v1+a@v1", "d@v1+a@v2", 1, 1.0, 1.0, 0.5, 0.75)]
    assert rows(tmp_path, "select distinct phase from trajectories") == [("held_out",)]
    assert rows(tmp_path, "select * from reconcile_cost") == []
