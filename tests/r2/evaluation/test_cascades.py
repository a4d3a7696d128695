"""Cascades found on recorded answers: worked by hand on four questions, and against every order played one by one."""

from itertools import permutations

import numpy as np
import pytest

from r2.errors import ConfigError
from r2.evaluation.cascades import (
    agreement_cascades,
    cheapest_reaching,
    confidence_cascades,
    most_useful,
    play_agreement,
    play_confidence,
    result_numbers,
)

# Three models, four questions. On the first all agree and are right; on the second the first two agree and are wrong;
# on the third the first and the third agree and are right; on the fourth nobody agrees, and the third is right.
RIGHT = [[1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
RESULTS = [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 2]]
COST = [[1.0] * 4, [2.0] * 4, [10.0] * 4]


def test_a_cascade_stops_at_the_first_two_that_agree_and_else_takes_the_last_ones_result():
    played = play_agreement((0, 1, 2), RIGHT, COST, RESULTS)
    assert played.right.tolist() == [1, 0, 1, 1]
    assert played.cost_usd.tolist() == [3, 3, 13, 13]
    assert played.n_asked.tolist() == [2, 2, 3, 3]


def test_a_cascade_of_two_pays_for_both_and_answers_as_the_second():
    played = play_agreement((0, 2), RIGHT, COST, RESULTS)
    assert played.right.tolist() == [1, 1, 1, 1]
    assert played.cost_usd.tolist() == [11, 11, 11, 11]


def test_a_model_without_a_result_agrees_with_nobody_and_leaves_the_earlier_answer():
    results = [[0, -1], [-1, -1], [-1, 0]]
    played = play_agreement((0, 1, 2), [[1, 0], [0, 0], [0, 1]], [[1.0, 1.0]] * 3, results)
    assert played.n_asked.tolist() == [3, 3]
    assert played.right.tolist() == [1, 1], "the first keeps its answer where nobody else has one"
    assert play_agreement((1,), [[1, 0], [0, 0], [0, 1]], [[1.0, 1.0]] * 3, results).right.tolist() == [0, 0]


def test_what_is_found_is_the_frontier_of_every_order_played_one_by_one():
    chance = np.random.default_rng(7)
    results = chance.integers(-1, 3, (5, 60))
    right = ((results == 0) & (chance.random((5, 60)) < 1)).astype(float)
    cost = chance.random((5, 60)) + np.arange(1, 6)[:, None] ** 2
    sure = chance.random((5, 60))
    every = [order for n in (1, 2, 3, 4) for order in permutations(range(5), n)]

    def check(found, play):
        points = [(play(order).cost_usd.mean(), play(order).right.mean()) for order in every]
        for cascade in found:
            played = play(cascade.order)
            assert (played.right.mean(), played.cost_usd.mean()) == pytest.approx((cascade.accuracy, cascade.cost_usd))
        for cost_usd, accuracy in points:
            assert any(c.cost_usd <= cost_usd + 1e-9 and c.accuracy >= accuracy - 1e-9 for c in found)
        assert [c.accuracy for c in found] == sorted(c.accuracy for c in found)
        assert [c.cost_usd for c in found] == sorted(c.cost_usd for c in found)

    check(agreement_cascades(right, cost, results), lambda order: play_agreement(order, right, cost, results))
    check(
        confidence_cascades(right, cost, results, sure, thresholds=(0.6,)),
        lambda order: play_confidence(order, 0.6, right, cost, results, sure),
    )


def test_only_candidates_are_asked_and_no_more_than_allowed():
    found = agreement_cascades(RIGHT, COST, RESULTS, candidates=(0, 1), max_length=1)
    assert [(c.order, c.accuracy, c.cost_usd) for c in found] == [((0,), 0.5, 1.0)]


def test_a_confidence_cascade_stops_where_a_model_is_sure_and_never_on_an_unknown_confidence():
    sure = [[0.9, 0.8, np.nan, 0.1], [0.5] * 4, [0.0] * 4]
    played = play_confidence((0, 2), 0.8, RIGHT, COST, RESULTS, sure)
    assert played.cost_usd.tolist() == [1, 1, 11, 11]
    assert played.right.tolist() == [1, 0, 1, 1]


def test_where_every_model_is_sure_of_every_answer_no_longer_order_is_looked_for():
    right, cost, results = [[1, 0], [1, 1], [0, 0]], [[1, 1], [2, 2], [3, 3]], [[0, 0], [0, 1], [1, 2]]
    found = confidence_cascades(right, cost, results, np.ones((3, 2)), thresholds=(0.5,))
    assert [(one.order, one.accuracy, one.cost_usd) for one in found] == [((0,), 0.5, 1.0), ((1,), 1.0, 2.0)]


def test_one_is_chosen_by_what_a_right_answer_is_worth_or_by_the_accuracy_it_must_reach():
    found = agreement_cascades(RIGHT, COST, RESULTS)
    # (0,): half right for 1; (2,): all right for 10; (0, 1, 2): 3/4 right for 8.
    assert [c.order for c in found] == [(0,), (0, 1, 2), (2,)]
    assert most_useful(found, 10.0).order == (0,)
    assert most_useful(found, 100.0).order == (2,)
    chosen = cheapest_reaching(found, 0.7)
    assert chosen is not None
    assert chosen.order == (0, 1, 2)
    assert cheapest_reaching(found, 1.1) is None


def test_results_are_numbered_by_the_equality_that_is_given():
    assert result_numbers(["4", "4.0", None, "5"], lambda a, b: float(str(a)) == float(str(b))) == [0, 0, -1, 1]


@pytest.mark.parametrize(
    ("right", "cost", "results"), [([[1.0]], [[1.0, 2.0]], [[0]]), ([[np.nan]], [[1.0]], [[0]]), ([[]], [[]], [[]])]
)
def test_matrices_that_do_not_fit_together_are_refused(right, cost, results):
    with pytest.raises(ConfigError, match="a cascade needs"):
        agreement_cascades(right, cost, results)
    with pytest.raises(ConfigError, match="candidates"):
        agreement_cascades(RIGHT, COST, RESULTS, candidates=(3,))
