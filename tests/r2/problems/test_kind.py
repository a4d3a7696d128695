"""Which entry of a profile speaks about a question or a step."""

from collections import Counter

import pytest

from r2.problems.kind import kind_of, step_expression, steps_of


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("jump around left twice and walk", "scan_command"),
        ("jump around left", "scan_phrase"),
        ("Translate 'jump around left'", "scan_phrase"),
        ("Repeat the result of step 1 twice", "scan_join"),
        ("Join the results of steps 1 and 2", "scan_join"),
        ("What is 3 * (4 + 5)?", "expression"),
        ("What is 3 + 4?", "add"),
        ("Compute 3 * the result of step 1", "multiply"),
        ("Subtract 9 from the result of step 1", "add"),
        ("Solve for x: 3 * x + 4 = 10", "equation"),
        ("Who wrote Hamlet?", ""),
        ("", ""),
    ],
)
def test_a_text_is_of_one_kind(text: str, kind: str):
    assert kind_of(text) == kind


def test_commands_and_expressions_say_which_steps_a_plan_for_them_has():
    assert steps_of("jump left twice and walk") == Counter(scan_phrase=2, scan_join=2)
    assert steps_of("What is 3 * (4 + 5) - 2?") == Counter(multiply=1, add=2)
    assert steps_of("jump left") == Counter()
    assert steps_of("Who wrote Hamlet?") == Counter()


def test_a_step_is_read_with_the_results_it_names():
    assert step_expression("Subtract 9 from the result of step 1", {1: "12"}) == "((12)) - (9)"
    assert step_expression("Compute 2 * the result of step 3.", {}) == "2 * (?)"
    assert step_expression("Name the capital", {}) is None
