"""Beliefs that are counted: shares worked by hand, and what may not matter."""

import pytest

from r2.answering.attempts import Attempt
from r2.answering.counts import CountedBeliefs
from r2.errors import ConfigError

# Two arms, eight questions: they agree on four (three of them right); of the other four the second is right on three,
# the first on none, and on the last the first gives no result.
RESULTS = [[0, 0, 0, 0, 0, 0, 0, -1], [0, 0, 0, 0, 1, 1, 1, 0]]
RIGHT = [[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0, 1]]
COST = [[0.001] * 8, [0.002] * 4 + [0.004] * 4]


def counted(pseudo_rows: float = 0.0) -> CountedBeliefs:
    return CountedBeliefs(("small", "large"), RESULTS, RIGHT, COST, pseudo_rows=pseudo_rows)


def test_p_right_is_the_share_of_the_questions_with_the_same_pattern():
    beliefs = counted()
    assert beliefs.p_right([]) == []
    assert beliefs.p_right((Attempt("small", 0),)) == pytest.approx([3 / 7])
    assert beliefs.p_right((Attempt("small", 0), Attempt("large", 0))) == pytest.approx([3 / 4])
    assert beliefs.p_right((Attempt("small", 0), Attempt("large", 1))) == pytest.approx([0, 2 / 3])
    assert beliefs.p_right((Attempt("small", None), Attempt("large", 0))) == pytest.approx([1])


def test_the_order_of_asking_changes_only_the_numbers_of_the_results():
    beliefs = counted(4.0)
    one = beliefs.p_right((Attempt("small", 0), Attempt("large", 1)))
    other = beliefs.p_right((Attempt("large", 0), Attempt("small", 1)))
    assert list(one) == list(reversed(other))


def test_outcomes_are_the_shares_of_what_came():
    beliefs = counted()
    after_small = beliefs.outcomes((Attempt("small", 0),), "large")
    assert [attempt.result for _, attempt in after_small] == [0, 1, None]
    assert [share for share, _ in after_small] == pytest.approx([4 / 7, 3 / 7, 0])
    first = beliefs.outcomes((), "small")
    assert [(round(share, 6), attempt.result) for share, attempt in first] == [(0.875, 0), (0.125, None)]


def test_a_result_keeps_the_number_that_the_attempts_gave_it():
    beliefs = counted()
    [again, new, none] = beliefs.outcomes((Attempt("large", 0),), "small")
    assert (again[1].result, new[1].result, none[1].result) == (0, 1, None)
    assert again[0] == pytest.approx(4 / 8)


def test_a_pattern_that_no_question_had_is_judged_by_the_states_with_one_arm_less():
    beliefs = CountedBeliefs(("a", "b"), [[0, 0], [0, 0]], [[1, 0], [1, 0]], [[1, 1], [1, 1]])
    apart = beliefs.p_right((Attempt("a", 0), Attempt("b", 1)))
    alone = beliefs.p_right((Attempt("a", 0),))
    assert apart == pytest.approx([alone[0], alone[0]])
    assert sum(apart) <= 1


def test_probabilities_stay_probabilities_in_every_state_of_three_arms():
    results = [[0, 0, 1, -1, 2, 0], [0, 1, 1, 0, -1, 0], [0, 2, 1, 0, 0, 1]]
    right = [[1, 0, 1, 0, 0, 0], [1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]]
    beliefs = CountedBeliefs(("a", "b", "c"), results, right, [[1.0] * 6] * 3)
    states: list[tuple[Attempt, ...]] = [()]
    n_seen = 0
    while states:
        attempts = states.pop()
        n_seen += 1
        assert sum(beliefs.p_right(attempts)) <= 1 + 1e-12
        assert all(share >= 0 for share in beliefs.p_right(attempts))
        for arm in beliefs.arms:
            if all(one.arm != arm for one in attempts):
                outcomes = beliefs.outcomes(attempts, arm)
                assert sum(share for share, _ in outcomes) == pytest.approx(1)
                states += [(*attempts, attempt) for _, attempt in outcomes]
    assert n_seen > 50


def test_the_cost_of_an_arm_is_its_mean():
    assert counted().cost_usd("large", ()) == pytest.approx(0.003)


def test_tables_that_do_not_fit_together_are_refused():
    with pytest.raises(ConfigError, match="same questions"):
        CountedBeliefs(("a",), [[]], [[]], [[]])
    with pytest.raises(ConfigError, match="same questions"):
        CountedBeliefs(("a", "b"), [[0]], [[1]], [[1.0]])
