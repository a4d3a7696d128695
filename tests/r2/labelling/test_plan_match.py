"""Plans beside gold plans, and gold plans out of published rows."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2.labelling.gold_comparison import compare
from r2.labelling.plan_match import match_plan
from r2.plan import DIRECT, Plan, Subtask, format_plan, parse_plan
from r2.problem import Problem
from r2.problems import scan
from r2.problems.gold import gold_plan
from r2.problems.row import FieldError

GOLD = Plan(
    (
        Subtask("who made Green"),
        Subtask("spouse of the result of step 1", (0,)),
        Subtask("birthplace of that person", (1,)),
    )
)


def test_the_gold_plan_itself_is_a_full_match():
    match = match_plan("q", GOLD, GOLD)
    assert (match.step_error, match.coverage, match.order) == (0, 1.0, 1.0)


def test_a_plan_in_reverse_covers_everything_in_the_wrong_order():
    match = match_plan("q", Plan(tuple(reversed(GOLD.subtasks))), GOLD)
    assert (match.coverage, match.order) == (1.0, 0.0)


def test_coverage_is_the_mean_of_the_best_word_overlap():
    # "who made red": 2 of 3 words shared with "who made green" -> F1 2/3; nothing for the other two gold steps
    match = match_plan("q", Plan((Subtask("who made red"), Subtask("xyz"))), GOLD)
    assert match.step_error == -1
    assert match.coverage == pytest.approx((2 / 3) / 3)
    assert match.order is None, "one gold step was found: there is no order to speak of"


def test_a_direct_plan_is_one_step_with_the_questions_words():
    match = match_plan("who made Green", DIRECT, GOLD)
    assert (match.step_error, match.coverage) == (-2, pytest.approx(1 / 3))


def test_repeated_steps_are_found_where_they_stand():
    plan, _ = scan.gold_plan("walk twice and run twice")
    assert match_plan("q", plan, plan).order == 1.0


def test_musiques_references_become_needs():
    row = {"question_decomposition": [{"question": "Green >> performer"}, {"question": "#1 >> spouse"}]}
    assert gold_plan(row) == Plan((Subtask("Green >> performer"), Subtask("the result of step 1 >> spouse", (0,))))


def test_socratic_steps_need_the_steps_whose_values_they_compute_with():
    answer = "How many are left? ** 16-3 = <<16-3=13>>13\nWhat do they bring? ** 13*2 = <<13*2=26>>26\n#### 26"
    assert gold_plan({"answer": answer}) == Plan((Subtask("How many are left?"), Subtask("What do they bring?", (0,))))


def test_strategyqas_texts_and_rows_without_a_decomposition():
    assert gold_plan({"decomposition": ["How old is X?", "Is #1 above 3?"]}) == Plan(
        (Subtask("How old is X?"), Subtask("Is the result of step 1 above 3?", (0,)))
    )
    assert gold_plan({"decomposition": ["Is it?"]}) == DIRECT
    assert gold_plan({"question": "q"}) is None
    with pytest.raises(FieldError, match="'decomposition'"):
        gold_plan({"decomposition": [3]})


def test_a_comparison_counts_what_was_read_and_averages_over_it():
    problem = Problem("p", "who made Green and where was the spouse born")
    compared = compare([(problem, GOLD, format_plan(GOLD)), (problem, GOLD, "DIRECT"), (problem, GOLD, "no idea")])
    assert (compared.n, compared.n_parsed, compared.n_direct) == (3, 2, 1)
    assert compared.round_trip.value == 1.0
    assert (compared.step_error.value, compared.absolute_step_error.value) == (-1.0, 1.0)
    assert compared.steps.value == 2.0
    assert compared.order.n == 1
    assert math.isnan(compare([]).coverage.value)


def test_every_gold_plan_of_the_grammar_is_read_back_unchanged():
    assert all(parse_plan(format_plan(plan)) == plan for plan in (scan.gold_plan(c)[0] for c in scan.commands()[::37]))


@given(st.lists(st.text(min_size=1), min_size=2, max_size=8), st.lists(st.text(min_size=1), min_size=2, max_size=8))
def test_any_two_plans_compare_within_bounds(steps: list[str], gold: list[str]):
    match = match_plan("q", Plan(tuple(map(Subtask, steps))), Plan(tuple(map(Subtask, gold))))
    assert 0 <= match.coverage <= 1
    assert match.order is None or 0 <= match.order <= 1
    assert match.step_error == len(steps) - len(gold)
