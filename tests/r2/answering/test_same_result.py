"""Which results agree: by the equality of the benchmark, and never with a look at the gold answer."""

from dataclasses import replace

import pytest

from r2.answering.same_result import has_equality, is_same, n_choices
from r2.problem import Problem
from r2.problems.schema import parse_schema
from tests.support.scripted import router

SUM = Problem("p", "What is 2 + 2?", target="4", benchmark="arithmetic")
FREE = Problem("p", "Tell me.")
CHOICES = replace(FREE, choices=("red", "blue", "green"))
YES = Problem("p", "Is it?", target="yes", benchmark="strategyqa")


@pytest.mark.parametrize(
    ("problem", "one", "other", "expected"),
    [
        (SUM, "4", "It is 4.0", True),
        (SUM, "4", "5", False),
        (replace(SUM, benchmark="scan"), "I_WALK I_RUN", "i_walk  i_run", True),
        (replace(SUM, benchmark="scan"), "I_WALK I_RUN", "I_WALK", False),
        (CHOICES, "Answer: B", "(B) blue", True),
        (CHOICES, "Answer: B", "red", False),
        (YES, "Yes.", "yes, because", True),
        (YES, "Yes.", "no", False),
        (replace(SUM, benchmark="math"), "1/2", "0.5", False),  # its check is slow: as it is written
        (replace(SUM, benchmark="math"), "1/2", " 1/2", True),
    ],
)
def test_answers_agree_by_the_check_of_their_benchmark(problem: Problem, one: str, other: str, expected: bool):
    assert is_same(problem, one, other, is_answer=True) is expected
    assert is_same(replace(problem, target=None), other, one, is_answer=True) is expected, "whatever the gold answer is"


def test_results_of_steps_agree_as_numbers_or_as_texts():
    assert is_same(SUM, "1,000", "1000.0", is_answer=False)
    assert is_same(SUM, "I_WALK", "i_walk ", is_answer=False)
    assert not is_same(SUM, "1000", "about 1000", is_answer=False)


def test_where_nobody_can_say_so_nothing_agrees():
    def compared(problem: Problem, *, is_answer: bool = True) -> bool:
        return has_equality(problem, router(), is_answer=is_answer)

    assert [compared(one) for one in (SUM, YES, CHOICES, FREE)] == [True, True, True, False]
    assert not compared(replace(SUM, benchmark="p3")), "many answers are right"
    assert (compared(SUM, is_answer=False), compared(FREE, is_answer=False)) == (True, False)
    with_schema = replace(router(), schema=parse_schema('{"type":"object"}'))
    assert not has_equality(SUM, with_schema, is_answer=True)
    assert has_equality(SUM, with_schema, is_answer=False)


def test_how_many_answers_are_possible():
    assert [n_choices(one, is_answer=True) for one in (SUM, YES, CHOICES)] == [0, 2, 3]
    assert n_choices(CHOICES, is_answer=False) == 0
