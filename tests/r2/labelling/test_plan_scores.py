"""Scores of candidate plans, by values worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2.labelling.plan_scores import lexical_coherence, mean_coherence, read_judgement, score_plans
from r2.plan import DIRECT, Plan, Subtask

WEIGHTS = (0.3, 0.4, 0.3)


def test_scores_are_shares_of_the_largest_candidate_and_add_up_by_weight():
    short, long = score_plans([2, 4], [100, 400], [1.0, 0.5], WEIGHTS)
    assert (short.conciseness, short.practicality, short.coherence) == (0.5, 0.25, 0.0)
    assert short.score == pytest.approx(0.3 * 0.5 + 0.4 * 0.25)
    assert (long.conciseness, long.practicality, long.coherence) == (1.0, 1.0, 0.5)
    assert long.score == pytest.approx(0.3 + 0.4 + 0.3 * 0.5)


def test_candidates_that_needed_no_tokens_have_a_score_too():
    assert [s.practicality for s in score_plans([1], [0], [1.0], WEIGHTS)] == [0.0]
    assert score_plans([], [], [], WEIGHTS) == []


def test_a_plan_without_adjacent_steps_is_coherent():
    assert mean_coherence([]) == 1.0
    assert mean_coherence([1.0, 0.5]) == 0.75


def test_a_step_that_uses_the_one_before_follows_from_it():
    plan = Plan((Subtask("Compute 12 * 4"), Subtask("Subtract 9 from the result of step 1", (0,))))
    assert lexical_coherence("A box holds 12 pens.", plan) == [1.0]


def test_without_a_need_coherence_is_the_share_of_words_already_there():
    plan = Plan((Subtask("Count the pens"), Subtask("Paint pens green")))
    assert lexical_coherence("A box of pens", plan) == [pytest.approx(1 / 3)]
    assert lexical_coherence("anything", DIRECT) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.8", 0.8),
        ("Score: 1", 1.0),
        (".25", 0.25),
        ("I cannot judge this.", None),
        ("", None),
        ("7", None),
        ("0", 0.0),
    ],
)
def test_a_judgement_is_the_first_share_in_the_reply(text: str, expected: float | None):
    assert read_judgement(text) == expected


@given(st.text())
def test_any_reply_of_a_judge_is_a_share_or_none(text: str):
    judged = read_judgement(text)
    assert judged is None or 0 <= judged <= 1


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 10**6), st.floats(0, 1)), min_size=1))
def test_scores_stay_between_zero_and_the_sum_of_the_weights(measured: list[tuple[int, int, float]]):
    steps, tokens, coherence = zip(*measured, strict=True)
    for scored in score_plans(steps, tokens, coherence, WEIGHTS):
        assert -1e-9 <= scored.score <= 1 + 1e-9
