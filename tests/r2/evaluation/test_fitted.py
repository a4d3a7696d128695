"""What an evaluation chooses from recorded dev answers: by hand on six questions of two benchmarks."""

import math

import numpy as np
import pytest

from r2.evaluation.fitted import (
    DevAnswers,
    agreement_points,
    chosen_fit,
    confidence_points,
    rules_by_benchmark,
    worked_examples,
)
from r2.evaluation.operating_points import OperatingPoint
from r2.problem import Problem

SUMS = [Problem(f"a{i}", f"What is {i} + 1?", i, str(i + 1), "arithmetic") for i in range(3)]
STORIES = [Problem(f"w{i}", f"Ann has {i} pens ...", i, str(10 + i), "word_problem") for i in range(3)]
# The small model is right on all sums and no story, the large one on two sums and all stories. On the story that the
# small one gets wrong in the same way as the middle one, the two agree.
ANSWERS = DevAnswers(
    ("small", "middle", "large"),
    (*SUMS, *STORIES),
    np.array([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 1, 0], [1, 1, 0, 1, 1, 1]], np.float64),
    np.array([[1.0] * 6, [2.0] * 6, [10.0] * 6]),
    (
        ("1", "2", "3", "99", "7", "no idea"),
        ("1.0", "2", "4", "99", "11", None),
        ("1", "It is 2", "5", "10", "11", "12"),
    ),
)
LINE = [OperatingPoint(0, 3 / 6, 1.0), OperatingPoint(0, 3 / 6, 2.0), OperatingPoint(0, 5 / 6, 10.0)]


def test_a_rule_by_benchmark_sends_each_to_its_best_model_and_to_cheaper_ones_as_cost_weighs_more():
    points = rules_by_benchmark(ANSWERS)
    first, last = points[0], points[-1]
    assert first.fields == {"by_benchmark": {"arithmetic": "small", "word_problem": "large", "": "large"}}
    assert (first.accuracy, first.cost_usd) == (1.0, 5.5)
    # At the highest weight, 2: small 0 - 2 * 1/10 = -0.2 on stories, middle 1/3 - 2 * 2/10 = -0.07, large 1 - 2 = -1.
    assert last.fields == {"by_benchmark": {"arithmetic": "small", "word_problem": "middle", "": "small"}}
    assert first.said == "arithmetic to small, word_problem to large, all others to large"


def test_the_point_is_chosen_as_every_operating_point_is():
    chosen = chosen_fit("benchmark", ANSWERS, LINE, margin=0.02, cost_weight=0.1)
    assert chosen.point.cost_usd == 5.5
    assert chosen.rule.endswith(": cheapest as good as the best constant")


def test_agreement_is_by_the_benchmarks_equality_and_no_result_agrees_with_nobody():
    points = {point.fields["chain"]: point for point in agreement_points(ANSWERS)}
    # small, middle, large: they agree on the first two sums (3 USD) and on the first story, wrongly (3 USD); the others
    # go to the large one (13 USD), which is right on the last two stories and wrong on the third sum.
    assert points["small",].accuracy == 0.5
    best = max(points.values(), key=lambda point: point.accuracy)
    assert best.accuracy == pytest.approx(5 / 6)
    cheap = points.get(("small", "middle", "large"))
    assert cheap is not None
    assert (cheap.accuracy, cheap.cost_usd) == (pytest.approx(4 / 6), pytest.approx((3 * 3 + 3 * 13) / 6))


def test_a_confidence_cascade_needs_confidences_and_without_any_it_is_a_model_alone():
    assert all(len(point.fields["chain"]) == 1 for point in confidence_points(ANSWERS) if point.accuracy > 0.5)
    sure = np.array([[0.99, 0.99, 0.99, 0.4, 0.4, 0.4], [math.nan] * 6, [0.5] * 6])
    measured = DevAnswers(
        ANSWERS.models, ANSWERS.problems, ANSWERS.right_MP, ANSWERS.cost_usd_MP, ANSWERS.answers, sure
    )
    best = max(confidence_points(measured), key=lambda point: point.accuracy)
    assert (best.fields["chain"], best.accuracy) == (("small", "large"), 1.0)
    assert best.cost_usd == pytest.approx((3 * 1 + 3 * 11) / 6)
    assert 0.4 < best.fields["threshold"] <= 0.99
    assert best.said.startswith("small > large at ")


def test_worked_examples_are_right_answers_the_first_of_each_benchmark():
    said = {problem.problem_id: (f"Question: {problem.question}", f"reply {problem.problem_id}") for problem in SUMS}
    said |= {"w2": ("Question: w2", "reply w2")}
    found = worked_examples([*SUMS, *STORIES], [False, True, True, True, True, True], said, n_each=1)
    assert [(one.benchmark, one.reply) for one in found] == [("arithmetic", "reply a1"), ("word_problem", "reply w2")]
