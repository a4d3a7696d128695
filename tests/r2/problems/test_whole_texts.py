"""What a whole answer is, the short answer that is cut out of it for a check, and when it is a refusal."""

import pytest

from r2.problem import Problem
from r2.problems.benchmark import checked_part, failed_check, judge, result_in
from r2.problems.checks import declines, short_answer, whole_answer

CHOICES = ("a dog", "a cat", "a bird")
OBJECT = '{\n  "name": "Ann",\n  "age": 31\n}'
CODE = "```python\ndef f(x):\n    return x + 1\n```"


@pytest.mark.parametrize(
    "text", [OBJECT, CODE, "Red\nYellow\nBlue", "- a\n- b\n\n- c", "| a | b |\n|---|---|\n| 1 | 2 |"]
)
def test_a_row_without_a_benchmark_gets_all_that_the_model_wrote(text: str):
    free, benchmark = Problem("p", "q"), Problem("p", "q", benchmark="gsm8k")
    assert result_in(free, f"\n \n{text}\n\n") == text
    assert result_in(benchmark, text) == text.splitlines()[-1].strip("`*").strip()


def test_what_stands_around_a_whole_answer_is_white_space_alone():
    assert whole_answer("\n\n    x = 1\n    y = 2 \n") == "    x = 1\n    y = 2"
    assert whole_answer(" \n\t\n") == ""


@pytest.mark.parametrize(
    ("text", "target", "choices", "short"),
    [
        ("First 48.\n\nThe total is **39** pens.\n\nI hope this helps!", "39", (), "39"),
        ("12 * 4 = 48\n48 - 9 = 39", "39", (), "39"),
        ("That comes to \\boxed{7}.", "7", (), "7"),
        ("No number here", "7", (), "No number here"),
        ("The capital of France is **Paris**.", "Paris", (), "Paris"),
        ("The capital of France is Paris.", "Paris", (), "Paris."),
        ("Let me see.\nAnswer:\nParis\n\nAnything else?", "Paris", (), "Paris"),
        ("Red\nYellow\nBlue", None, (), "Blue"),
        ("The answer is (B) a cat, since it purrs.", "B", CHOICES, "B"),
        ("**B. a cat**\n\nIt purrs, and (A) and (C) do not.", "B", CHOICES, "B"),
        ("A large dog would bark, so the answer is C.", "C", CHOICES, "C"),
        ("I would take option B.\nIt fits best.", "B", CHOICES, "B"),
        ("It must be a cat.", "B", CHOICES, "B"),
        ("It is not a cat.", "B", CHOICES, "It is not a cat."),
        ("b", "B", CHOICES, "B"),
    ],
)
def test_the_short_answer_is_cut_out_by_rules(text: str, target: str | None, choices: tuple[str, ...], short: str):
    assert short_answer(text, target, choices) == short
    assert short_answer(short, target, choices) == short, "what is short already is itself"


def test_a_whole_answer_is_judged_by_its_short_one_and_by_any_of_the_aliases():
    problem = Problem("p", "Capital of France?", target="Paris", aliases=("City of Light",))
    assert judge(problem, "The capital of France is **Paris**.") is True
    assert judge(problem, "It is called the **City of Light**.") is True
    assert judge(problem, "It is not Paris.") is False
    assert judge(Problem("p", "Which?", target="a cat", choices=CHOICES), "B) because it purrs\nAnd so on.") is True
    assert judge(Problem("p", "q"), "anything") is None


def test_only_a_row_with_something_to_compare_has_a_short_answer():
    assert checked_part(Problem("p", "q", target="7"), "It is 7.") == "7"
    assert checked_part(Problem("p", "q", choices=CHOICES), "(C), of course") == "C"
    assert checked_part(Problem("p", "q"), "It is 7.") is None
    assert checked_part(Problem("p", "q", target="7", benchmark="gsm8k"), "7") is None


@pytest.mark.parametrize("text", ["I do not know.", "I'm sorry, but I can't help with that.", "As an AI, I have none."])
def test_a_refusal_begins_as_one(text: str):
    assert declines(text)
    assert failed_check(Problem("p", "q"), text, "stop") == "refusal"


@pytest.mark.parametrize("text", ["Dear Ann,\nI am sorry for the delay.", "Idaho", "I cannot praise it enough. " * 30])
def test_such_words_within_an_answer_are_no_refusal(text: str):
    assert failed_check(Problem("p", "q"), text, "stop") is None
