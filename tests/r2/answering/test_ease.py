"""Evidence where units of a kind differ in ease; worked out by hand where they do not."""

import math
from dataclasses import replace

import numpy as np
import pytest

from r2.answering.ease import GRID, Ease, prior_of
from r2.answering.scorer import (
    ARM_FEATURES,
    EASE,
    RESULT_FEATURES,
    ArmProfile,
    Kind,
    KindProfile,
    Linear,
    Net,
    Scorer,
    States,
    result_features,
)
from r2.problem import Problem

UNKNOWN = math.nan
N, M = len(RESULT_FEATURES), 2 * len(ARM_FEATURES) + 1
SILENT = Net(np.zeros(N), np.ones(N), np.zeros((N, 1)), np.zeros(1), np.zeros(1), 0.0)
HEAD = Linear(np.zeros(M), np.ones(M), np.zeros(M), 0.0)
Said = tuple[float, int, float]


def scores(said: list[Said], spread: float = 0.0, text: float = 0.0, difficulty: float = 0.0) -> list[float]:
    """Of each distinct result, after attempts (logit P(right) of the arm, number of the result, confidence as a logit).
    The arms' confidences are around 3, and rise with ease. Two wrong results are the same in one of four."""
    eases = [Ease(right, 3.0, 1.0, 0.0, 1.0) for right, _, _ in said]
    profiles = {f"m{n}": ArmProfile({"": KindProfile(9, 0.9, 0.001, ease=ease)}) for n, ease in enumerate(eases)}
    scorer = Scorer({"": Kind(0.0, 0.25, spread=spread, text=text)}, profiles, (SILENT,), HEAD)
    view = replace(scorer.view(Problem("", ""), "", profiles), difficulty=difficulty)
    results, confidences = (np.array([[one[n] for one in said]]) for n in (1, 2))
    x, _ = result_features(view, States(np.arange(len(said))[None], results, confidences * UNKNOWN, confidences))
    return [float(one) for one in x[0, :, EASE]]


def test_units_of_equal_ease_add_their_evidence_up():
    assert scores([(2.0, 0, UNKNOWN)]) == pytest.approx([2.0])
    assert scores([(2.0, 0, UNKNOWN), (3.0, 0, UNKNOWN)]) == pytest.approx([5.0 + math.log(4)])
    assert scores([(2.0, 0, UNKNOWN), (3.0, 1, UNKNOWN)]) == pytest.approx([2.0, 3.0])


def test_arms_that_err_on_the_same_units_add_less():
    alone, agreed = scores([(3.0, 0, UNKNOWN)], spread=2.0)[0], scores([(3.0, 0, UNKNOWN)] * 2, spread=2.0)[0]
    assert alone < agreed < 2 * alone + math.log(4)


def test_one_who_says_otherwise_makes_the_unit_a_hard_one():
    alone = scores([(3.0, 0, UNKNOWN)], spread=2.0)[0]
    assert scores([(3.0, 0, UNKNOWN), (3.0, 1, UNKNOWN)], spread=2.0)[0] < alone - 0.5


def test_confidence_tells_ease_and_counts_for_every_arm():
    low, usual, high = (scores([(3.0, 0, sure)], spread=2.0)[0] for sure in (1.0, 3.0, 5.0))
    assert low < usual < high
    beside = [scores([(3.0, 0, 3.0), (0.0, 1, sure)], spread=2.0)[0] for sure in (1.0, 5.0)]
    assert beside[0] < beside[1]
    assert scores([(3.0, 0, 1.0)]) == scores([(3.0, 0, 5.0)])  # units of equal ease: nothing to tell


def test_an_easy_text_is_worth_as_much_as_it_tells():
    easy, hard = (scores([(1.0, 0, UNKNOWN)], 2.0, 0.8, difficulty)[0] for difficulty in (1.0, -1.0))
    assert easy > 2.0
    assert hard < 0.0
    assert scores([(1.0, 0, UNKNOWN)], 2.0, 0.0, 1.0) == scores([(1.0, 0, UNKNOWN)], 2.0, 0.0, -1.0)


def test_the_prior_of_ease_is_a_distribution_around_what_the_text_tells():
    p = np.exp(prior_of(np.array([0.0, 2.0]), 0.6))
    assert p.sum(axis=1) == pytest.approx([1.0, 1.0])
    assert p @ GRID == pytest.approx([0.0, 1.2], abs=0.02)


def test_an_arm_without_an_ease_of_its_own_is_as_right_as_its_accuracy():
    profile = {"new": ArmProfile({"": KindProfile(9, 0.9, 0.001)})}
    scorer = Scorer({"": Kind(0.0, 0.25, spread=1.5)}, profile, (SILENT,), HEAD)
    state = States(*(np.zeros((1, 1), np.int64),) * 2, *(np.full((1, 1), UNKNOWN),) * 2)
    assert scorer.p_right(scorer.view(Problem("", ""), "", profile), state)[0, 0] == pytest.approx(0.9, abs=0.01)
