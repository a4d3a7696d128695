"""From a sweep to b, by values worked by hand."""

import pytest

from r2.errors import ConfigError
from r2.evaluation.cost_knob import KnobResult, at_accuracy, checked_values, curve, table, within_budget

# b falls in cost but not in accuracy: 0.1 is dearer than 0.2 and less accurate, 0.4 has the accuracy of 0.8 at a higher
# price.
POINTS = [
    KnobResult(0.0, 0.90, 10.0),
    KnobResult(0.1, 0.80, 6.0),
    KnobResult(0.2, 0.85, 4.0),
    KnobResult(0.4, 0.60, 2.0),
    KnobResult(0.8, 0.60, 1.0),
]


def test_the_curve_keeps_the_steps_of_the_running_maximum():
    assert [point.b for point in curve(POINTS)] == [0.8, 0.2, 0.0]
    assert curve([]) == []


def test_equal_points_leave_the_smallest_b_and_equal_cost_the_more_accurate():
    assert [p.b for p in curve([KnobResult(0.4, 0.5, 1.0), KnobResult(0.1, 0.5, 1.0)])] == [0.1]
    assert [p.b for p in curve([KnobResult(0.1, 0.5, 1.0), KnobResult(0.4, 0.6, 1.0)])] == [0.4]


@pytest.mark.parametrize(("usd", "b"), [(100.0, 0.0), (10.0, 0.0), (9.99, 0.2), (6.0, 0.2), (3.9, 0.8), (1.0, 0.8)])
def test_a_budget_buys_the_most_accurate_point_below_it(usd: float, b: float):
    advice = within_budget(POINTS, usd)
    assert (advice.point.b, advice.is_reached) == (b, True)


def test_a_budget_below_every_point_names_the_cheapest():
    advice = within_budget(POINTS, 0.5)
    assert (advice.point.b, advice.is_reached) == (0.8, False)
    assert advice.reason == "no b costs so little: 0.5 USD per 1k is below the cheapest point's 1 (b = 0.8)"


@pytest.mark.parametrize(("accuracy", "b"), [(0.0, 0.8), (0.6, 0.8), (0.61, 0.2), (0.85, 0.2), (0.86, 0.0), (0.9, 0.0)])
def test_an_accuracy_costs_the_cheapest_point_above_it(accuracy: float, b: float):
    advice = at_accuracy(POINTS, accuracy)
    assert (advice.point.b, advice.is_reached) == (b, True)


def test_an_accuracy_above_every_point_names_the_best():
    advice = at_accuracy(POINTS, 0.95)
    assert (advice.point.b, advice.is_reached) == (0.0, False)
    assert advice.reason == "no b is so accurate: 95.0% is above the best point's 90.0% (b = 0)"


def test_the_table_has_a_row_for_each_step_and_each_share_of_the_reference():
    # Shares of 0.9: 0.72, 0.81, 0.855, 0.882, 0.9.
    rows = table(POINTS, 0.90)
    assert [(row.usd_per_1k, row.share, row.advice.point.b) for row in rows] == [
        (1.0, None, 0.8),
        (4.0, None, 0.2),
        (10.0, None, 0.0),
        (None, 0.80, 0.2),
        (None, 0.90, 0.2),
        (None, 0.95, 0.0),
        (None, 0.98, 0.0),
        (None, 1.00, 0.0),
    ]
    assert all(row.advice.is_reached for row in rows)
    assert [row.advice.is_reached for row in table(POINTS, 1.0)][-5:] == [True, True, False, False, False]


def test_values_of_b_are_sorted_once_each_and_refused_where_they_cannot_work():
    assert checked_values([0.2, 0.0, 0.2, -0.5], "a", True) == (-0.5, 0.0, 0.2)
    for values, has_logprobs, words in [
        ((), True, "at least one"),
        ((float("nan"),), True, "finite"),
        ((0.0,), False, "logprobs = false"),
    ]:
        with pytest.raises(ConfigError, match=words):
            checked_values(values, "a", has_logprobs)


def test_without_points_there_is_nothing_to_choose():
    with pytest.raises(ValueError):
        within_budget([], 1.0)
    with pytest.raises(ValueError):
        at_accuracy([], 0.5)
