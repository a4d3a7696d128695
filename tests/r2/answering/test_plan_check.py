import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2.answering.plan_check import plan_defect
from r2.answering.route import solve
from r2.errors import PlanParseError
from r2.plan import DIRECT, Plan, parse_plan
from r2.pool.simulated.mind import gold_steps
from r2.problem import Problem
from r2.problems import arithmetic, scan, words
from tests.r2.answering.test_solve import BY_NAME, PLAN, PROBLEM
from tests.support.scripted import completion, replay, router

EXPRESSION = Problem("e", "What is 78 * (68 + 87 * 66)?", benchmark="arithmetic")
SOUND = "1. Compute 87 * 66\n2. Compute 68 + the result of step 1\n3. Compute 78 * the result of step 2"


def defect(question: str, plan: str, *, is_last_step_answer: bool = True, context: str = "") -> str | None:
    problem = Problem("q", question, context=context)
    return plan_defect(problem, parse_plan(plan), is_last_step_answer=is_last_step_answer)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (SOUND, None),
        (SOUND.replace("87", "78"), "plan_forgets"),  # 78 is in the question, 87 in no step
        (SOUND.replace("66", "65"), "plan_invents"),
        (SOUND.replace("step 1", "step 2"), "plan_wastes"),  # nobody reads 87 * 66
        (SOUND.rsplit("\n", 1)[0], "plan_forgets"),  # stops short
    ],
)
def test_slips_of_a_plan_show_without_asking_anybody(plan: str, expected: str | None):
    assert plan_defect(EXPRESSION, parse_plan(plan), is_last_step_answer=True) == expected


def test_a_number_that_comes_twice_must_be_used_twice():
    plan = "1. Compute {} + 5\n2. Double the result of step 1"
    assert defect("What is (5 + 5) * 2?", "1. Compute 5 + 5\n2. Compute the result of step 1 * 2") is None
    assert defect("What is (5 + 5) * 2?", plan.format("4")) == "plan_forgets"


def test_numbers_are_read_as_people_write_them():
    plan = "1. Compute 1200 * 0.5\n2. Add 07 to the result of step 1"
    twice = "Half of 1,200 is 0.5 of it. Add 7 to 0.5 times 1,200."
    assert defect(twice, plan) == "plan_forgets"
    assert defect("What is 1,200 times 0.5, and 7 more?", plan) is None


def test_one_digit_numbers_and_those_of_the_context_may_be_named():
    plan = "1. Multiply 31 by 2\n2. Take 1999 from the result of step 1"
    assert defect("Ann has twice her 31 pens.", plan) == "plan_invents"
    assert defect("Ann has twice her 31 pens.", plan, context="She was born in 1999.") is None


def test_step_numbers_are_not_numbers_of_the_question():
    steps = "\n".join(f"{i}. Look at the result of step {i - 1}" for i in range(2, 13))
    assert defect("Where is it?", f"1. Look around\n{steps}") is None


def test_quoted_phrases_must_be_the_questions():
    plan = "1. Translate 'jump  Left'\n2. Translate 'walk'\n3. Join the results of steps 1 and 2"
    assert defect("jump left and walk", plan) is None
    assert defect("jump right and walk", plan) == "plan_invents"
    assert defect("Who is Ann's mother?", "1. Find Ann's mother's name\n2. Say the result of step 1") is None


def test_unused_results_are_fair_where_a_finalizer_reads_all_of_them():
    plan = "1. Find out who wrote it\n2. Find out when it was printed"
    assert defect("Who wrote it, and when was it printed?", plan) == "plan_wastes"
    assert defect("Who wrote it, and when was it printed?", plan, is_last_step_answer=False) is None


@pytest.mark.parametrize("source", [arithmetic, scan, words])
def test_no_gold_plan_fails_the_check(source):
    for problem in source.generate(400, 11):
        assert plan_defect(problem, gold_steps(problem.question)[0], is_last_step_answer=True) is None, problem.question


@given(st.text(max_size=300), st.text(max_size=300), st.booleans())
def test_any_question_and_any_plan_can_be_checked(question: str, text: str, is_last: bool):
    try:
        plan = parse_plan(text)
    except PlanParseError:
        plan = DIRECT
    found = plan_defect(Problem("q", question), plan, is_last_step_answer=is_last)
    assert found in (None, "plan_invents", "plan_forgets", "plan_wastes")
    assert found is None or plan != Plan()


def test_a_second_decomposer_plans_again_where_the_check_fails():
    second = router(second_decomposer="large")
    waves, outcome = replay(solve(PROBLEM, second), [PLAN.replace("12", "13"), PLAN, BY_NAME, "48", "39"])
    assert [(c.purpose, c.model) for wave in waves[:3] for c in wave] == [
        ("decompose", "small"),
        ("decompose", "large"),
        ("allocate", "small"),
    ]
    assert (outcome.answer, outcome.failed_checks, outcome.n_escalations) == ("39", ["plan_invents"], 0)


def test_a_sound_plan_asks_nobody_else_and_without_a_second_nothing_is_checked():
    waves, _ = replay(solve(PROBLEM, router(second_decomposer="large")), [PLAN, BY_NAME, "48", "39"])
    assert len(waves) == 4
    waves, outcome = replay(solve(PROBLEM, router()), [PLAN.replace("12", "13"), BY_NAME, "52", "43"])
    assert (len(waves), outcome.answer, outcome.failed_checks) == (4, "43", [])


def test_the_second_plan_stands_though_it_fails_the_check_but_not_without_a_plan():
    doubtful = PLAN.replace("12", "14")
    _, outcome = replay(
        solve(PROBLEM, router(second_decomposer="large")), [PLAN.replace("12", "13"), doubtful, BY_NAME, "56", "47"]
    )
    assert outcome.plan == parse_plan(doubtful)
    first = PLAN.replace("12", "13")
    _, outcome = replay(
        solve(PROBLEM, router(second_decomposer="large")), [first, "I am a teapot", BY_NAME, "52", "43"]
    )
    assert outcome.plan == parse_plan(first)
    assert outcome.failed_checks == ["plan_invents", "plan_parse"]


def test_a_second_decomposer_stands_in_for_a_call_that_failed():
    bad = completion("", error_type="server_error")
    _, outcome = replay(solve(PROBLEM, router(second_decomposer="large")), [bad, PLAN, BY_NAME, "48", "39"])
    assert (outcome.answer, outcome.failed_checks) == ("39", ["decompose_server_error"])


def test_where_neither_decomposer_could_be_used_the_question_is_deferred():
    bad = completion("", error_type="server_error")
    _, outcome = replay(solve(PROBLEM, router(second_decomposer="large")), [bad, bad])
    assert (outcome.status, outcome.error_type) == ("deferred", "server_error")
