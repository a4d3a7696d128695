import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2.errors import PlanParseError
from r2.plan import DIRECT, MAX_SUBTASKS, Plan, Subtask, format_plan, parse_plan


def test_a_plan_is_read_line_by_line_with_its_needs():
    plan = parse_plan("1. Compute 12 * 4\n2. Subtract 9 from the result of step 1 (needs: 1)")
    assert plan == Plan((Subtask("Compute 12 * 4"), Subtask("Subtract 9 from the result of step 1", (0,))))


def test_chatter_is_never_a_subtask():
    plan = parse_plan(
        "Here is how to do it:\n\n**Step 1:** Add 2 and 3\nThat was easy.\n- 2) Double #1\nHope this helps!"
    )
    assert [s.text for s in plan.subtasks] == ["Add 2 and 3", "Double #1"]
    assert plan.subtasks[1].needs == (0,)


def test_needs_are_taken_from_mentions_where_no_clause_names_them():
    assert parse_plan("1. a\n2. b\n3. add the results of steps 1 and 2").subtasks[2].needs == (0, 1)


def test_the_result_without_a_number_is_that_of_the_step_before():
    plan = parse_plan(
        "1. Add 15 and 9\n2. Multiply the result by 3\n3. Take the total number of pens\n4. Compute 5 + 5"
    )
    assert [s.needs for s in plan.subtasks] == [(), (0,), (), ()]
    assert parse_plan(format_plan(plan)) == plan


def test_a_need_that_is_not_an_earlier_step_is_dropped():
    plan = parse_plan("1. a (needs: 2)\n2. b (needs: 2, 7, 1)")
    assert [s.needs for s in plan.subtasks] == [(), (0,)]


def test_a_clause_that_says_none_is_removed():
    assert parse_plan("1. a (needs: none)\n2. b (needs: 1)").subtasks[0] == Subtask("a")


@pytest.mark.parametrize("text", ["DIRECT", " direct. ", "**Answer directly**", "1. Just answer it"])
def test_answer_directly_is_a_plan(text: str):
    assert parse_plan(text) == DIRECT


def test_a_text_without_steps_is_a_typed_error():
    with pytest.raises(PlanParseError, match="no numbered step"):
        parse_plan("I would first add the numbers.")


def test_a_model_that_does_not_stop_is_a_typed_error():
    with pytest.raises(PlanParseError, match=f"at most {MAX_SUBTASKS}"):
        parse_plan("\n".join(f"{i}. step" for i in range(1, 40)))


def test_waves_group_what_may_run_at_the_same_time():
    plan = Plan((Subtask("a"), Subtask("b"), Subtask("c", (0, 1)), Subtask("d"), Subtask("e", (2, 3))))
    assert plan.waves() == [[0, 1, 3], [2], [4]]
    assert DIRECT.waves() == []


@given(st.text(max_size=400))
def test_any_text_is_a_plan_or_the_typed_error(text: str):
    try:
        plan = parse_plan(text)
    except PlanParseError:
        return
    assert all(need < i for i, s in enumerate(plan.subtasks) for need in s.needs)
    assert sorted(i for wave in plan.waves() for i in wave) == list(range(len(plan.subtasks)))


@given(
    st.lists(
        st.sampled_from(["1.", "2)", "Step 3:", "needs:", "(needs: 1", "\n", "direct", "#1", "add", "**", " "]),
        max_size=30,
    )
)
def test_texts_made_of_plan_pieces_never_raise_anything_else(pieces: list[str]):
    with contextlib.suppress(PlanParseError):
        parse_plan("".join(pieces))


words = st.lists(
    st.sampled_from(["add", "subtract", "twice", "the", "result", "of", "apples", "12", "7", "*", "left"]),
    min_size=1,
    max_size=6,
).map(" ".join)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    n = draw(st.integers(2, 8))
    needs = [draw(st.sets(st.integers(0, i - 1)) if i else st.just(set())) for i in range(n)]
    return Plan(tuple(Subtask(draw(words), tuple(sorted(s))) for s in needs))


@given(plans())
def test_formatting_then_parsing_gives_the_same_plan(plan: Plan):
    assert parse_plan(format_plan(plan)) == plan
