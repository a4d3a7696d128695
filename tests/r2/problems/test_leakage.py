"""Leakage between training and evaluation questions, by values worked by hand and against the join of all pairs."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from r2.problems.leakage import NEAR, Leakage, leakage, normalised


def grams(question: str) -> set[str]:
    tokens = normalised(question).split()
    return {" ".join(pair) for pair in itertools.pairwise(tokens)} or set(tokens)


def test_the_same_words_are_the_same_question_whatever_their_case_and_punctuation():
    assert leakage(["What is 2 + 3?", "Who?"], ["what is 2 + 3"]) == Leakage(2, 1, 1, 0)


def test_one_word_more_at_the_end_of_a_long_question_is_near():
    # nine bigrams, of which the other question has all and one more: 9/10
    long = "a b c d e f g h i j"
    assert leakage([long], [f"{long} k"]) == Leakage(1, 1, 0, 1)
    assert leakage(["a b c d"], ["a b c x"]) == Leakage(1, 1, 0, 0)


def test_questions_without_words_are_near_to_nothing():
    assert leakage(["?!", ""], ["a b"]) == Leakage(2, 1, 0, 0)


WORDS = st.lists(st.sampled_from("abcdef"), max_size=8).map(" ".join)


@given(st.lists(WORDS, max_size=12), st.lists(WORDS, max_size=12))
def test_the_join_finds_what_comparing_all_pairs_finds(train: list[str], evaluation: list[str]):
    known = {normalised(question) for question in evaluation}
    rest = [question for question in train if normalised(question) not in known]
    near = 0
    for question in rest:
        mine = grams(question)
        theirs = [grams(other) for other in known]
        near += any(mine and other and len(mine & other) / len(mine | other) >= NEAR for other in theirs)
    found = leakage(train, evaluation)
    assert (found.n_same, found.n_near) == (len(train) - len(rest), near)
