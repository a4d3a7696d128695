"""Steps of plans, and plans, as trials: what counts as right, and what is left out because nothing is known of it."""

from dataclasses import replace

from r2.plan import DIRECT, parse_plan
from r2.problem import Problem
from r2.training.scorer.steps import AskedPlan, AskedStep, mean_steps, plan_trials, step_key, step_trials
from r2.training.scorer.trials import Trial, trials_from

PROBLEM = Problem("p", "What is 12 * 3 + 8?", target="44", benchmark="arithmetic")
PLAN = parse_plan("1. Compute 12 * 3\n2. Compute the result of step 1 + 8")


def said(arm: str, text: str | None, *, right: bool = True, settled: bool = True, given: str = "") -> AskedStep:
    """An ask for the plan's first step, or with an earlier result given for its second."""
    task = PLAN.subtasks[1 if given else 0].text
    return AskedStep(PROBLEM, task, (given,) if given else (), arm, text, settled, bool(given), right, 0.001, 4, 0.9)


def judged(trials: list[Trial]) -> dict[str, bool]:
    return {trial.arm: trial.is_right for trial in trials}


def test_the_result_that_a_right_answer_went_through_is_right_and_others_at_the_same_step_are_wrong():
    found = list(
        step_trials([said("small", "36"), said("middle", "36.0", right=False), said("large", "35", right=False)])
    )
    assert judged(found) == {"small": True, "middle": True, "large": False}
    assert {trial.kind for trial in found} == {"multiply"}
    assert (found[0].problem.question, found[0].problem.target, found[0].within) == ("Compute 12 * 3", None, "p")


def test_a_result_that_was_not_settled_with_makes_nothing_right():
    found = list(step_trials([said("small", "35", settled=False), said("large", "36")]))
    assert judged(found) == {"small": False, "large": True}


def test_a_step_that_no_right_answer_went_through_is_left_out():
    assert list(step_trials([said("small", "35", right=False), said("large", "36", right=False)])) == []


def test_a_step_that_was_shown_another_earlier_result_is_another_unit():
    found = list(step_trials([said("small", "44", given="36"), said("large", "43", right=False, given="35")]))
    assert judged(found) == {"small": True}
    assert found[0].problem.context == "36"


def test_a_reply_without_a_result_is_a_wrong_trial_without_one():
    found = list(step_trials([said("small", None, settled=False), said("large", "36")]))
    assert [(trial.is_right, trial.result) for trial in found] == [(False, None), (True, "36")]


def test_results_are_the_same_as_numbers_or_as_words():
    assert step_key("1,200.0") == step_key("1200")
    assert step_key("I_RUN  I_JUMP") == step_key("i_run i_jump")
    assert step_key("I_RUN") != step_key("I_JUMP")


def planned(arm: str, text: str, *, right: bool, executed: str | None = None) -> AskedPlan:
    plan = parse_plan(text)
    done = plan if executed is None else parse_plan(executed)
    return AskedPlan(PROBLEM, arm, plan, done, right, 0.002, 20)


GOOD = "1. Compute 12 * 3\n2. Compute the result of step 1 + 8"
OTHER = "1. Compute 3 + 8\n2. Compute the result of step 1 * 12"


def test_a_plan_is_right_where_a_right_answer_came_of_it_and_wrong_where_only_wrong_ones_did():
    found = list(
        plan_trials(
            [
                planned("small", GOOD, right=False),
                planned("large", GOOD, right=True),
                planned("middle", OTHER, right=False),
            ]
        )
    )
    assert judged(found) == {"small": True, "large": True, "middle": False}
    assert found[0].result == found[1].result != found[2].result
    assert {trial.kind for trial in found} == {"plan of expression"}


def test_a_plan_that_nobody_executed_is_left_out_unless_its_check_fails():
    unknown = planned("small", OTHER, right=True, executed=GOOD)
    short = planned("middle", "1. Compute 12 * 3\n2. Compute the result of step 1 + 1", right=True, executed=GOOD)
    none = replace(unknown, arm="large", plan=None)
    direct = replace(unknown, arm="other", plan=DIRECT)
    found = list(plan_trials([unknown, short, none, direct]))
    assert [(trial.arm, trial.is_right, trial.result) for trial in found] == [
        ("middle", False, None),
        ("large", False, None),
        ("other", False, None),
    ]


def test_the_steps_of_a_kind_of_question_are_counted_where_they_are_known():
    steps = [*step_trials([said("small", "36"), said("large", "44", given="36")])]
    plans = plan_trials([planned("small", GOOD, right=True), planned("large", OTHER, right=False)])
    assert mean_steps(trials_from([*steps, *plans])) == {"plan of expression": {"multiply": 1.0, "add": 1.0}}
