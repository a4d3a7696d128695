"""Plans of the proof that policies learn to choose: what each form comes to, what the teacher shows, and that no one
way of answering comes near the best."""

import random
from collections import Counter

import numpy as np
import pytest

from benchmarks.learning_checks import Gain, looks
from benchmarks.learning_plans import (
    CHECKED,
    Texts,
    dearest,
    gold_plan,
    played,
    steps_by_one_model,
    teachers_models,
    teachers_plan,
    teachers_rows,
    utility_of,
)
from benchmarks.learning_world import KINDS, LAM, LEVELS, POOL, SPECIALIST, Outcomes, level_of, questions, table
from benchmarks.prove_learning import Verdict, told
from r2.answering.allocation import format_allocation
from r2.answering.prompts import MODEL_LETTERS
from r2.answering.protocol import Router, Trajectory
from r2.answering.scorer import FloatArray
from r2.plan import DIRECT, Plan, format_plan, parse_plan
from r2.pool.file.config import load_pool
from r2.settings import Reasoning
from r2.training.sampled import SampledText

ROUTER = Router(load_pool(POOL).roster(), "large", "large", None, Reasoning(), composes=False)


@pytest.fixture(scope="module")
def asked() -> Outcomes:
    return table(questions(40, 5))


@pytest.fixture(scope="module")
def ways(asked: Outcomes) -> dict[str, FloatArray]:
    return steps_by_one_model(asked, ROUTER)


def _texts(plan: Plan, letters: str) -> Texts:
    return {
        "decompose": SampledText(format_plan(plan), 0, 0),
        "allocate": SampledText(format_allocation(letters), 0, 0),
    }


def _all(asked: Outcomes, plan: Plan, arm: str) -> list[Trajectory]:
    letter = MODEL_LETTERS[asked.arms.index(arm)]
    return played(asked.problems, [_texts(plan, letter * max(1, len(plan.subtasks)))] * len(asked.problems), ROUTER)


def test_a_question_at_once_comes_to_what_the_table_says(asked: Outcomes):
    done = _all(asked, DIRECT, "words-specialist")
    arm = asked.arms.index("words-specialist")
    assert [one.right for one in done] == asked.right_AQ[arm].tolist()
    assert utility_of(done, asked) == pytest.approx(asked.utility()[arm])
    assert {dearest(one, asked) for one in done} == {arm}


def test_a_checked_answer_is_as_right_and_dearer(asked: Outcomes):
    checked, direct = _all(asked, CHECKED, "large"), _all(asked, DIRECT, "large")
    assert [one.right for one in checked] == [one.right for one in direct]
    assert all(a.answering_cost_usd > 1.2 * b.answering_cost_usd for a, b in zip(checked, direct, strict=True))


def test_the_dearest_model_of_a_plan_is_who_the_question_was_trusted_to(asked: Outcomes):
    [done] = played(asked.problems[:1], [_texts(CHECKED, "EA")], ROUTER)
    assert asked.arms[dearest(done, asked)] == "large"
    [done] = played(asked.problems[:1], [_texts(CHECKED, "AC")], ROUTER)
    assert asked.arms[dearest(done, asked)] == "sums-specialist"


def test_the_best_way_is_small_for_easy_a_specialist_for_medium_and_for_hard_scan_its_steps(
    asked: Outcomes, ways: dict[str, FloatArray]
):
    names = [*asked.arms, *ways]
    has_steps = np.array([not gold_plan(problem).is_direct for problem in asked.problems])
    utility_WQ = np.vstack([asked.expected_utility(), *(np.where(has_steps, way, -1.0) for way in ways.values())])
    kinds, levels = np.array(asked.kinds), np.array(asked.levels)
    for kind in KINDS:
        best = [names[utility_WQ[:, (kinds == kind) & (levels == level)].mean(axis=1).argmax()] for level in LEVELS]
        hard = "steps by scan-specialist" if kind == "scan" else "large"
        assert best == ["small", SPECIALIST[kind], hard]


def test_no_one_way_and_no_way_for_each_benchmark_comes_near_the_best(asked: Outcomes, ways: dict[str, FloatArray]):
    utility_WQ = np.vstack([asked.expected_utility(), *ways.values()])
    kinds, levels = np.array(asked.kinds), np.array(asked.levels)
    cells = [(kinds == kind) & (levels == level) for kind in KINDS for level in LEVELS]
    best = sum(cell.mean() * utility_WQ[:, cell].mean(axis=1).max() for cell in cells)
    by_kind = sum((kinds == kind).mean() * utility_WQ[:, kinds == kind].mean(axis=1).max() for kind in KINDS)
    assert utility_WQ.mean(axis=1).max() < best - 0.05
    assert by_kind < best - 0.05


def test_further_ways_are_beaten_too(asked: Outcomes):
    utility = asked.utility()
    large = np.full(len(asked.problems), asked.arms.index("large"))
    alone = looks("one", large, utility[large[0]], asked)
    beside = looks("one", large, utility[large[0]], asked, {"a better way": utility[large[0]] + 0.25})
    assert alone.over_constant.mean == pytest.approx(0.0)
    assert beside.over_constant.mean == pytest.approx(-0.25)
    assert beside.over_rule.mean == pytest.approx(-0.25)


def test_half_of_the_teachers_models_are_a_size_too_large_and_a_quarter_are_right():
    chance = random.Random(0)
    problems = questions(200, 1)
    plans = [teachers_plan(problem, chance) for problem in problems]
    assert {plan for plan, p in zip(plans, problems, strict=True) if p.benchmark != "scan"} == {DIRECT, CHECKED}
    assert all(plan in (DIRECT, gold_plan(p)) for plan, p in zip(plans, problems, strict=True) if p.benchmark == "scan")
    assert sum(plan.is_direct for plan in plans) / len(plans) == pytest.approx(0.4, abs=0.05)
    medium = [p for p in problems if level_of(p) == "medium" and p.benchmark == "arithmetic"]
    letters = Counter(teachers_models(p, DIRECT, chance)[0] for p in medium for _ in range(5))
    assert letters["E"] / letters.total() == pytest.approx(0.5 + 0.25 / 5, abs=0.05)
    assert letters["C"] / letters.total() == pytest.approx(0.25 + 0.25 / 5, abs=0.05)
    assert set(letters) == set("ABCDE")
    steps = [teachers_models(p, plan, chance) for p, plan in zip(problems, plans, strict=True) if plan == CHECKED]
    assert Counter(second for _, second in steps).most_common(1)[0][0] == "E", "the check is asked of a large model"


def test_rows_are_what_the_policies_are_asked_and_can_be_read():
    rows = teachers_rows(questions(8, 2), 0)
    assert [row["prompt"][0]["content"] for row in rows["decomposer"][:1]] == ["plan"]
    assert "A: small" in rows["allocator"][0]["prompt"][1]["content"]
    for row in rows["decomposer"]:
        assert format_plan(parse_plan(row["completion"][0]["content"])) == row["completion"][0]["content"]


def test_a_verdict_says_what_does_not_hold(asked: Outcomes):
    utility = asked.utility()
    large = np.full(len(asked.problems), asked.arms.index("large"))
    found = looks("the policies", large, utility[large[0]], asked)
    verdict = Verdict(
        3,
        start={"utility": 0.5, "accuracy": 1.0, "cost_share": 1.25},
        trained={"utility": 0.6, "accuracy": 1.0, "cost_share": 1.0},
        over_start=Gain(0.1, 0.05, 0.15),
        rounds={"allocator": Gain(0.1, 0.05, 0.15)},
        looks=found,
        form_bits=0.5,
        form_floor=0.1,
    )
    assert [said for said in verdict.failures if "over the start" in said or "form of a SCAN" in said] == []
    assert "the decomposer's round: not promoted" in verdict.failures
    assert not any("allocator's round" in said for said in verdict.failures)
    assert set(found.failures) < set(verdict.failures)
    assert "seed 3, 0.0 minutes: FAILS" in told([verdict])
    assert Verdict(0, stopped="out of luck").failures == ("out of luck",)
    assert LAM == 0.4
