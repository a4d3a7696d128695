"""Arithmetic and word problems: the evaluator, the generators and their gold plans."""

import operator
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2.plan import Plan, Subtask
from r2.problems import arithmetic, words
from r2.problems.arithmetic import Operation, evaluate, gold_plan, parse, render, value, worked

PYTHON = {"+": operator.add, "-": operator.sub, "*": operator.mul}
EXPRESSIONS = st.recursive(
    st.integers(-999, 999),
    lambda inner: st.builds(Operation, st.sampled_from("+-*"), inner, inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12 * 7", 84),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("10 - 3 - 4", 3),
        ("10 - (3 - 4)", 11),
        ("-3 * -(2 + 1)", 9),
        ("6 × 7 − 2", 40),
        (" 007 ", 7),
        ("(" * 99 + "1" + ")" * 99, 1),
        ("-" * 198 + "1", 1),
        ("+".join(["1"] * 100), 100),
    ],
)
def test_an_expression_has_the_value_that_school_gives_it(text: str, expected: int):
    assert evaluate(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "+ 1",
        "1 2",
        "(1",
        "1)",
        "9**9",
        "1/2",
        "1.5",
        "x",
        "__import__('os')",
        "١ + ١",
        "9" * 41,
        "*".join(["9" * 30] * 2),
        "(" * 100 + "1" + ")" * 100,
        "-" * 5000 + "1",
        "+".join(["1"] * 50_000),
    ],
)
def test_what_is_no_small_integer_expression_has_no_value(text: str):
    assert evaluate(text) is None


@given(st.text(alphabet="0123456789+-*() x", max_size=60))
def test_any_text_has_a_value_or_none_and_never_an_error(text: str):
    result = evaluate(text)
    assert result is None or abs(result) < 10**arithmetic.MAX_DIGITS


@given(EXPRESSIONS)
def test_a_rendered_expression_is_read_back_with_its_value(expression: arithmetic.Expression):
    def by_python(e: arithmetic.Expression) -> int:
        return e if isinstance(e, int) else PYTHON[e.op](by_python(e.left), by_python(e.right))

    assert evaluate(render(expression)) == by_python(expression)


def test_a_minus_in_front_of_a_number_is_its_sign_and_no_operation():
    assert parse("-5 + 3") == Operation("+", -5, 3)


def test_a_gold_plan_refers_to_the_steps_it_needs():
    plan, results = gold_plan(parse("(2 + 3) * (10 - 4) - 1"))
    assert plan == Plan(
        (
            Subtask("Compute 2 + 3"),
            Subtask("Compute 10 - 4"),
            Subtask("Compute the result of step 1 * the result of step 2", (0, 1)),
            Subtask("Compute the result of step 3 - 1", (2,)),
        )
    )
    assert results == ["5", "6", "30", "29"]


def test_a_single_operation_is_answered_directly():
    assert gold_plan(parse("12 * 7")) == (Plan(), ["84"])


def test_generated_expressions_keep_to_their_bounds_and_end_in_their_target():
    for problem in arithmetic.generate(200, 3, min_operations=2, max_operations=5, max_number=9):
        expression = parse(problem.question.removeprefix("What is ").removesuffix("?"))
        steps = arithmetic.operations(expression)
        assert 2 <= len(steps) <= 5
        assert all(2 <= side <= 9 for step in steps for side in (step.left, step.right) if isinstance(side, int))
        assert problem.target == str(value(expression)) == gold_plan(expression)[1][-1]


@pytest.mark.parametrize("generate", [arithmetic.generate, words.generate])
def test_the_same_seed_gives_the_same_problems_and_another_seed_gives_others(generate):
    assert generate(20, 1) == generate(40, 1)[:20]
    assert [p.question for p in generate(20, 1)] != [p.question for p in generate(20, 2)]
    assert len({p.problem_id for p in generate(20, 1) + generate(20, 2)}) == 40


def test_a_story_is_read_back_as_the_expression_behind_it():
    story = "A box holds 12 pens. Ann has 4 boxes and gives away 9 pens. How many pens are left?"
    assert words.expression_of(story) == "12 * 4 - 9"
    plan, results = words.gold_plan(story)
    assert [subtask.text for subtask in plan.subtasks] == ["Compute 12 * 4", "Compute the result of step 1 - 9"]
    assert results == ["48", "39"]


def test_every_generated_story_is_understood_and_has_a_positive_answer():
    problems = words.generate(200, 4)
    for problem in problems:
        assert words.gold_plan(problem.question)[1][-1] == problem.target
        assert int(problem.target or "") > 0
    assert {len(words.gold_plan(p.question)[0].subtasks) for p in problems} == {0, 2}


def test_a_text_that_is_no_story_of_ours_is_refused():
    assert words.expression_of("How many pens are left?") is None
    with pytest.raises(ValueError, match="not a story"):
        words.gold_plan("How many pens are left?")


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (Operation("+", 47, 185), "47+185\n740000+581000=232000\nAnswer: 232"),
        (Operation("-", 4, 53), "-(53-4)\n350000-400000=940000\nAnswer: -49"),
        (Operation("-", -4, 53), "-(4+53)\n400000+350000=750000\nAnswer: -57"),
        (Operation("+", -4, 53), "53-4\n350000-400000=940000\nAnswer: 49"),
        (Operation("-", 28, -12), "28+12\n820000+210000=040000\nAnswer: 40"),
        (Operation("*", -47, 83), "-(47*83)\n740000*3=141000\n740000*8=673000\n141000+067300=109300\nAnswer: -3901"),
        (Operation("*", 5, 120), "5*120\n021000*5=006000\nAnswer: 600"),
        (Operation("-", 7, 7), "7-7\n700000-700000=000000\nAnswer: 0"),
        (Operation("+", 9999999, 1), "9999999+1\n9999999+100000=00000001\nAnswer: 10000000"),
    ],
)
def test_an_operation_is_worked_out_from_its_last_digits_to_its_first(operation: Operation, expected: str):
    assert worked(operation) == expected


@given(st.builds(Operation, st.sampled_from("+-*"), st.integers(-(10**7), 10**7), st.integers(-(10**7), 10**7)))
def test_every_line_of_a_working_is_right(operation: Operation):
    settled, *lines, answer = worked(operation).splitlines()
    assert evaluate(settled) == value(operation)
    assert answer == f"Answer: {value(operation)}"
    for line in lines:
        left, op, right, _, result = re.split(r"([-+*=])", line)
        assert PYTHON[op](int(left[::-1]), int(right[::-1])) == int(result[::-1])


def test_only_an_operation_on_two_integers_is_worked_out():
    with pytest.raises(ValueError, match=r"2 \* 3 \+ 4: expected an operation on two integers"):
        worked(Operation("+", Operation("*", 2, 3), 4))
