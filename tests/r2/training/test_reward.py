"""The reward's terms, worked by hand: 10 prompt and 5 generated tokens cost 20e-6 USD on `small`, 60e-6 on `middle`,
200e-6 on `large`."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from r2.answering.protocol import Trajectory
from r2.call import Call, Completion
from r2.errors import CALL_FAILURES
from r2.problem import Problem
from r2.problems.own_check import OwnCheck
from r2.training.grpo.batch import alarms_of, batch_metrics
from r2.training.grpo.reward import (
    ScoredTrajectory,
    Terms,
    all_read,
    reference_cost_usd,
    rollout,
    rollout_seed,
    score,
    weighted,
)
from r2.training.grpo.settings import GrpoSettings
from r2.training.sampled import SampledText
from tests.support.scripted import completion, router

PROBLEM = Problem("p1", "What is 3 * 4 + 2?", 0, "14", "arithmetic")
PLAN = SampledText("1. Compute 3 * 4\n2. Add 2 to the result of step 1 (needs: 1)", 30, 20)
CHEAP = SampledText('[{"subtask":1,"model":"A"},{"subtask":2,"model":"A"}]', 50, 10)
DEAR = SampledText('[{"subtask":1,"model":"C"},{"subtask":2,"model":"C"}]', 50, 10)
WEIGHTS = {"right": 1.0, "cost": -0.5, "well_formed": 0.1}


def answers(replies: Mapping[str, str | Completion]):
    """A pool that answers by the task's first words, or by purpose; and the calls it got."""
    calls: list[Call] = []

    async def complete(call: Call) -> Completion:
        calls.append(call)
        text = next(
            (reply for words, reply in replies.items() if words in call.messages[-1][1]), replies.get(call.purpose, "?")
        )
        return completion(text, call.model) if isinstance(text, str) else text

    return complete, calls


def rolled(
    plan: SampledText, allocation: SampledText, replies: Mapping[str, str | Completion], reviewer: str | None = None
) -> Trajectory:
    complete, _ = answers(replies)
    texts = {"decompose": plan, "allocate": allocation}
    return asyncio.run(rollout(PROBLEM, texts, router(max_escalations=0), complete, reviewer=reviewer))


RIGHT = {"Add 2": "14", "Compute 3": "12"}


def test_the_number_that_the_users_check_gives_is_the_reward_and_its_judge_is_not_charged():
    check = OwnCheck(name="judge:large", judge="large", rubric="The number must be right.")
    complete, calls = answers({**RIGHT, "judge": "Nearly.\nScore: 0.6"})
    texts = {"decompose": PLAN, "allocate": CHEAP}
    asked = replace(router(max_escalations=0), check=check)
    trajectory = asyncio.run(rollout(PROBLEM, texts, asked, complete))
    assert [call.purpose for call in calls] == ["solve", "solve", "judge"]
    terms = score(trajectory, "decomposer", PLAN, 1.0).terms
    without = score(rolled(PLAN, CHEAP, RIGHT), "decomposer", PLAN, 1.0).terms
    assert (terms.right, terms.cost) == (0.6, without.cost)


def test_a_rollout_that_the_users_check_fails_on_teaches_nothing(tmp_path: Path):
    grade = tmp_path / "grade.py"
    grade.write_text("def ok(row, answer):\n    raise ValueError(answer)\n", "utf-8")
    complete, _ = answers(RIGHT)
    asked = router(max_escalations=0, check=f"{grade}:ok")
    trajectory = asyncio.run(rollout(PROBLEM, {"decompose": PLAN, "allocate": CHEAP}, asked, complete))
    assert trajectory.outcome.check_error == "ValueError: 14 (line 2)"
    assert score(trajectory, "decomposer", PLAN, 1.0).terms == Terms(None, None, None)


def test_a_rollout_is_charged_for_its_solvers_and_for_the_routers_own_tokens():
    trajectory = rolled(PLAN, CHEAP, RIGHT)
    router_usd = (30 * 1 + 20 * 2 + 50 * 1 + 10 * 2) / 1e6
    solvers_usd = 2 * (10 * 1 + 5 * 2) / 1e6
    scored = score(trajectory, "allocator", CHEAP, cost_ref_usd=400e-6)
    assert scored.terms.right == 1.0
    assert scored.terms.cost == pytest.approx((router_usd + solvers_usd) / 400e-6)
    assert scored.terms.well_formed == 1.0


def test_the_sampled_texts_answer_their_calls_and_the_pool_answers_the_rest():
    complete, calls = answers(RIGHT)
    texts = {"decompose": PLAN, "allocate": CHEAP}
    trajectory = asyncio.run(rollout(PROBLEM, texts, router(), complete))
    assert [call.purpose for call in calls] == ["solve", "solve"]
    assert [call.purpose for wave in trajectory.waves for call, _ in wave] == [
        "decompose",
        "allocate",
        "solve",
        "solve",
    ]
    assert trajectory.outcome.answer == "14"


def test_a_partner_that_is_not_sampled_is_asked():
    complete, calls = answers({**RIGHT, "allocate": CHEAP.text})
    asyncio.run(rollout(PROBLEM, {"decompose": PLAN}, router(), complete))
    assert [call.purpose for call in calls] == ["allocate", "solve", "solve"]


def test_the_dearer_of_two_right_rollouts_earns_less():
    cheap = score(rolled(PLAN, CHEAP, RIGHT), "allocator", CHEAP, 400e-6)
    dear = score(rolled(PLAN, DEAR, RIGHT), "allocator", DEAR, 400e-6)
    assert cheap.terms.right == dear.terms.right == 1.0
    assert weighted(cheap.terms, WEIGHTS) - weighted(dear.terms, WEIGHTS) == pytest.approx(
        0.5 * 2 * (200e-6 - 20e-6) / 400e-6
    )


def test_a_reward_that_ignores_cost_cannot_tell_them_apart_and_a_wrong_sign_prefers_the_dear_one():
    cheap = score(rolled(PLAN, CHEAP, RIGHT), "allocator", CHEAP, 400e-6).terms
    dear = score(rolled(PLAN, DEAR, RIGHT), "allocator", DEAR, 400e-6).terms
    blind, reversed_ = {**WEIGHTS, "cost": 0.0}, {**WEIGHTS, "cost": 0.5}
    assert weighted(cheap, blind) == weighted(dear, blind)
    assert weighted(cheap, reversed_) < weighted(dear, reversed_)
    assert weighted(cheap, WEIGHTS) > weighted(dear, WEIGHTS)


def test_the_weights_are_the_methods_formula():
    settings = GrpoSettings(problems="scan", lam=0.25)
    assert weighted(Terms(1.0, 0.4, 1.0), settings.weights) == pytest.approx(1.0 - 0.25 * 0.4 + 0.1)
    paper = GrpoSettings(problems="scan", lam=0.0, well_formed_weight=0.0)
    assert weighted(Terms(1.0, 0.4, 1.0), paper.weights) == 1.0


def test_a_wrong_answer_is_not_right_and_still_costs():
    terms = score(rolled(PLAN, CHEAP, {**RIGHT, "Add 2": "15"}), "allocator", CHEAP, 400e-6).terms
    assert terms.right == 0.0
    assert terms.cost is not None and terms.cost > 0


def test_a_plan_or_an_allocation_that_a_fallback_stood_in_for_was_not_read_even_where_the_answer_is_right():
    garbled = rolled(PLAN, SampledText("hmm", 50, 10), RIGHT)
    assert garbled.outcome.answer == "14"
    assert not all_read(garbled)
    assert not all_read(rolled(SampledText("hmm", 30, 20), SampledText('[{"subtask":1,"model":"A"}]', 50, 10), RIGHT))
    assert all_read(rolled(PLAN, CHEAP, RIGHT))


def test_a_text_that_cannot_be_read_or_was_cut_is_not_well_formed():
    garbled = SampledText("hmm", 50, 10)
    trajectory = rolled(PLAN, garbled, RIGHT)
    assert score(trajectory, "allocator", garbled, 400e-6).terms.well_formed == 0.0
    assert score(trajectory, "decomposer", PLAN, 400e-6).terms.well_formed == 1.0
    cut = SampledText(PLAN.text, 30, 20, is_cut=True)
    assert score(rolled(cut, CHEAP, RIGHT), "decomposer", cut, 400e-6).terms.well_formed == 0.0


@pytest.mark.parametrize("error_type", [name for name, failed in CALL_FAILURES.items() if not failed.counts])
def test_an_outage_of_the_pool_teaches_nothing(error_type: str):
    failed = completion("", "small", error_type=error_type)
    scored = score(rolled(PLAN, CHEAP, {**RIGHT, "Compute 3": failed}), "allocator", CHEAP, 400e-6)
    assert scored.terms == Terms(None, None, None)
    assert weighted(scored.terms, WEIGHTS) is None


@pytest.mark.parametrize("error_type", [name for name, failed in CALL_FAILURES.items() if failed.counts])
def test_a_request_that_its_model_refuses_is_the_policys_fault(error_type: str):
    failed = completion("", "small", error_type=error_type)
    assert score(rolled(PLAN, CHEAP, {**RIGHT, "Compute 3": failed}), "allocator", CHEAP, 400e-6).terms.right == 0.0


def test_the_reference_is_the_largest_model_alone_thinking_step_by_step():
    complete, calls = answers({"solve": "Answer: 14"})
    assert asyncio.run(reference_cost_usd(PROBLEM, router(), complete)) == pytest.approx(200e-6)
    assert [call.model for call in calls] == ["large"]
    assert "step by step" in calls[0].messages[0][1]


def test_the_reference_of_a_pool_that_is_down_is_unknown():
    complete, _ = answers({"solve": completion("", "large", error_type="timeout")})
    assert asyncio.run(reference_cost_usd(PROBLEM, router(), complete)) is None


def test_a_result_that_fails_its_check_is_reviewed_corrected_and_charged():
    complete, calls = answers({"Proposed result: I do not know.": "12", **RIGHT, "Compute 3": "I do not know."})
    texts = {"decompose": PLAN, "allocate": CHEAP}
    trajectory = asyncio.run(rollout(PROBLEM, texts, router(max_escalations=0), complete, reviewer="large"))
    assert [(call.purpose, call.model) for call in calls] == [
        ("solve", "small"),
        ("review", "large"),
        ("solve", "small"),
    ]
    assert "Result of step 1: 12" in calls[-1].messages[-1][1]
    scored = score(trajectory, "allocator", CHEAP, 400e-6)
    unreviewed = score(rolled(PLAN, CHEAP, RIGHT), "allocator", CHEAP, 400e-6)
    assert (scored.terms.right, scored.n_reviews) == (1.0, 1)
    assert scored.terms.cost - unreviewed.terms.cost == pytest.approx(200e-6 / 400e-6)


def test_results_that_pass_are_not_reviewed_and_without_a_reviewer_nothing_is():
    assert score(rolled(PLAN, CHEAP, RIGHT, reviewer="large"), "allocator", CHEAP, 1.0).n_reviews == 0
    doubtful = {**RIGHT, "Compute 3": "I do not know."}
    assert score(rolled(PLAN, CHEAP, doubtful), "allocator", CHEAP, 1.0).n_reviews == 0


def test_seeds_depend_on_the_place_in_the_training_and_on_nothing_else():
    assert rollout_seed(0, 1, 2, "p1", 3) == rollout_seed(0, 1, 2, "p1", 3)
    others = [
        rollout_seed(1, 1, 2, "p1", 3),
        rollout_seed(0, 0, 2, "p1", 3),
        rollout_seed(0, 1, 3, "p1", 3),
        rollout_seed(0, 1, 2, "p2", 3),
    ]
    assert len({rollout_seed(0, 1, 2, "p1", 3), *others}) == 5
    assert all(0 < seed < 2**31 for seed in others)


def test_a_batch_tells_validity_outages_and_which_models_were_chosen():
    good = score(rolled(PLAN, CHEAP, RIGHT), "allocator", CHEAP, 400e-6)
    dear = score(rolled(PLAN, DEAR, RIGHT), "allocator", DEAR, 400e-6)
    out = ScoredTrajectory(good.trajectory, Terms(None, None, None))
    metrics = batch_metrics([good, good, good, dear, out, good, dear, dear], 2, WEIGHTS)
    assert metrics["pool/zero_variance_share"] == 3 / 4
    assert metrics["pool/outage_share"] == 1 / 8
    assert metrics["pool/valid_share"] == 1.0
    assert metrics["model_share/small"] == 5 / 8
    assert metrics["pool/top_model_share"] == 5 / 8


def test_a_collapse_raises_an_alarm_and_health_does_not():
    healthy = {"pool/valid_share": 1.0, "pool/zero_variance_share": 0.2, "entropy": 0.1, "pool/top_model_share": 0.99}
    assert alarms_of(healthy) == []
    assert alarms_of({**healthy, "entropy": 0.005})[0].startswith("collapse")
    assert alarms_of({**healthy, "pool/valid_share": 0.8})[0].startswith("malformed")
    assert alarms_of({**healthy, "pool/outage_share": 0.2})[0].startswith("outage")
    assert alarms_of({**healthy, "pool/zero_variance_share": 0.9})[0].startswith("nothing to learn")
