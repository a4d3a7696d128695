"""The measures of the proof that training learns, by hand; that its world cannot be won without a look at the question;
and that choices which do not look are found out."""

import numpy as np
import pytest

from benchmarks.learning_checks import conditional_information, dealt, floor, gain, looks, mutual_information
from benchmarks.learning_world import (
    KINDS,
    LEVELS,
    SPECIALIST,
    Outcomes,
    best_rule,
    constants,
    level_of,
    optimum,
    questions,
    table,
)
from r2.problems.benchmark import judge


@pytest.fixture(scope="module")
def asked() -> Outcomes:
    return table(questions(60, 5))


def test_information_is_counted_in_bits():
    assert mutual_information("aabb", "xxyy") == pytest.approx(1.0)
    assert mutual_information("abab", "xxyy") == pytest.approx(0.0)
    assert mutual_information("abcd", "wxyz") == pytest.approx(2.0)
    chosen, labels, given = np.array([0, 1, 0, 1, 0, 0]), np.array(list("exexex")), np.array(list("ssssww"))
    assert conditional_information(chosen, labels, given) == pytest.approx(4 / 6)


def test_dealt_choices_stay_within_their_group_and_lose_their_information():
    chosen, kinds = np.repeat([0, 1], 200), np.repeat(["s", "w"], 200)
    rng = np.random.default_rng(0)
    assert (dealt(chosen, kinds, rng) == chosen).all(), "a group of equal choices is the same in any order"
    everywhere = np.zeros(400, np.int64)
    mixed = dealt(chosen, everywhere, rng)
    assert sorted(mixed) == sorted(chosen)
    highest = floor(chosen, kinds, everywhere)
    assert 0 < highest < 0.05
    assert conditional_information(mixed, kinds, everywhere) < 0.05
    assert conditional_information(chosen, kinds, everywhere) == pytest.approx(1.0)


def test_no_constant_and_no_rule_by_benchmark_comes_near_the_optimum(asked: Outcomes):
    expected = asked.expected_utility()
    places = np.arange(len(asked.problems))
    best = float(expected[optimum(asked), places].mean())
    rule = best_rule(expected, asked.kinds)
    by_rule = float(np.mean([expected[rule[kind], q] for q, kind in enumerate(asked.kinds)]))
    assert constants(expected).max() < best - 0.05
    assert by_rule < best - 0.05
    for kind in KINDS:
        at = np.array(asked.kinds) == kind
        assert expected[:, at].mean(axis=1).max() < expected[optimum(asked), places][at].mean() - 0.05


def test_the_best_model_differs_by_kind_and_by_difficulty_within_a_kind(asked: Outcomes):
    best = {(p.benchmark, level_of(p)): asked.arms[a] for p, a in zip(asked.problems, optimum(asked), strict=True)}
    for kind in KINDS:
        assert [best[kind, level] for level in LEVELS] == ["small", SPECIALIST[kind], "large"]


def test_the_questions_are_what_they_say_and_half_are_medium():
    problems = questions(60, 5)
    assert len({problem.question for problem in problems}) == len(problems) == 180
    assert [sum(level_of(p) == level for p in problems) for level in LEVELS] == [45, 90, 45]
    assert all(judge(problem, problem.target or "") for problem in problems)
    assert not any(judge(p, str(int(p.target or 0) + 1)) for p in problems if p.benchmark != "scan"), (
        "a result that is one off must not pass"
    )
    assert questions(60, 5) == problems
    assert questions(60, 6) != problems


def test_simulated_answers_are_right_as_often_as_they_should_be(asked: Outcomes):
    assert asked.right_AQ.mean(axis=1) == pytest.approx(asked.p_AQ.mean(axis=1), abs=0.06)


def test_the_best_choices_hold_and_shuffled_or_kind_blind_or_level_blind_ones_fail(asked: Outcomes):
    utility, places = asked.utility(), np.arange(len(asked.problems))
    best, rng = optimum(asked), np.random.default_rng(0)
    assert looks("optimum", best, utility[best, places], asked).failures == ()

    def failures(chosen: np.ndarray) -> str:
        return "\n".join(looks("one", chosen, utility[chosen, places], asked).failures)

    shuffled = failures(dealt(best, np.zeros_like(best), rng))
    assert "bits on the kind" in shuffled
    assert "over the best constant" in shuffled
    within = failures(dealt(best, np.array(asked.kinds), rng))
    assert "bits on the kind" not in within
    assert "bits on the difficulty" in within
    assert "over the best rule by benchmark" in within
    constant = failures(np.full_like(best, asked.arms.index("large")))
    assert "most used: large for scan, large for arithmetic, large for word_problem" in constant
    rule = best_rule(utility, asked.kinds)
    assert "over the best rule" in failures(np.array([rule[kind] for kind in asked.kinds]))


def test_a_gain_is_paired_by_question():
    found = gain(np.array([1.0, 0.5, 0.75, 0.0]), np.array([0.5, 0.0, 0.25, -0.5]))
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)
    assert str(found) == "+0.500 (+0.500 to +0.500)"
