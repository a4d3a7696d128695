import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2.problems.checks import default_check, extract_answer, last_number, same_choice, same_number


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("12 * 4 = 48\nAnswer: 39", "39"),
        ("Answer: 1\nNo, wait.\n**Answer:** 2", "2"),
        (r"so \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        ("first\n\n 39 \n", "39"),
        ("The answer is: 7 pens", "7 pens"),
        ("", ""),
    ],
)
def test_the_answer_is_the_last_thing_a_text_commits_to(text: str, answer: str):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [("$1,234.50 in all", "1234.50"), ("-7", "-7"), ("\u22127", "-7"), ("about 3 or 4", "4"), ("none", None)],
)
def test_the_last_number_counts(text: str, number: str | None):
    assert (str(last_number(text)) if last_number(text) is not None else None) == number


def test_numbers_agree_within_rounding_and_no_further():
    assert same_number("39.0 pens", "39")
    assert same_number("1,000,000.5", "1000000")
    assert not same_number("39.1", "39")
    assert not same_number("no idea", "39")


def test_a_choice_is_known_by_letter_or_by_text():
    choices = ("a river", "the sea", "Dry land")
    assert same_choice("(B)", "B", choices)
    assert same_choice("B. the sea", "the sea", choices)
    assert same_choice("dry land", "C", choices)
    assert not same_choice("A", "B", choices)
    assert not same_choice("none of them", "B", choices)


def test_text_is_compared_without_case_articles_and_punctuation():
    assert default_check("The  Eiffel Tower!", "eiffel tower")
    assert not default_check("Eiffel", "Eiffel Tower")


@given(st.text(max_size=200), st.text(max_size=50))
def test_any_text_can_be_read_and_judged(text: str, target: str):
    answer = extract_answer(text)
    default_check(answer, target)
    default_check(answer, target, ("x", "y"))


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=3))
def test_every_number_agrees_with_itself_in_a_sentence(number):
    assert same_number(f"I get {number}", str(number))
