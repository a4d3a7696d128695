"""A specialist's rows: right by the grammar, asked as the pool will ask, and of no question that is evaluated on."""

from collections import Counter

import pytest

from r2.answering.prompts import FINAL_TASK, solve_messages
from r2.errors import ConfigError
from r2.problem import Problem
from r2.problems import arithmetic, scan
from r2.problems.checks import extract_answer
from r2.problems.split import split_of
from r2.training.sft.specialist import balanced, coarser_subtasks, generated_subtasks, solved_subtasks

COMMAND = Problem("p1", "walk left twice after jump", 0, "I_JUMP I_TURN_LEFT I_WALK I_TURN_LEFT I_WALK", "scan")


def test_every_step_of_a_gold_plan_is_a_row_with_its_right_result():
    rows = [solved.row() for solved in solved_subtasks(COMMAND, *scan.gold_plan(COMMAND.question))]
    assert [(row["prompt"][1]["content"], row["completion"][0]["content"]) for row in rows] == [
        ("Task: Translate 'walk left'", "I_TURN_LEFT I_WALK"),
        (
            "Task: Repeat I_TURN_LEFT I_WALK 2 times",
            "I_TURN_LEFT I_WALK I_TURN_LEFT I_WALK",
        ),
        ("Task: Translate 'jump'", "I_JUMP"),
        (
            "Task: Join I_JUMP and then I_TURN_LEFT I_WALK I_TURN_LEFT I_WALK",
            "I_JUMP I_TURN_LEFT I_WALK I_TURN_LEFT I_WALK",
        ),
    ]
    assert {row["prompt"][0]["content"] for row in rows} == {"solve"}


def test_a_bare_subtask_does_without_its_question_and_a_question_or_a_final_answer_does_not():
    assert "Question: " not in solve_messages(COMMAND, "Translate 'jump'", {}, "bare")[1][1]
    assert "Question: " in solve_messages(COMMAND, "Translate 'jump'", {}, "direct")[1][1]
    assert solve_messages(COMMAND, None, {}, "bare")[1][1] == "Question: walk left twice after jump"
    assert "Question: " in solve_messages(COMMAND, FINAL_TASK, {1: "I_JUMP"}, "bare")[1][1]


def test_a_result_stands_where_a_bare_subtask_mentions_it_and_is_listed_where_it_does_not():
    def asked(task: str, results: dict[int, str]) -> str:
        return solve_messages(COMMAND, task, results, "bare")[1][1]

    assert asked("Compute the result of step 1 - Result of step 12", {1: "7", 12: "3"}) == "Task: Compute 7 - 3"
    assert asked("Add the result of step 2 to it", {1: "7", 2: "3"}) == "Result of step 1: 7\nTask: Add 3 to it"
    assert asked("Double the result of step 3", {1: "7"}) == "Result of step 1: 7\nTask: Double the result of step 3"
    assert "the result of step 1" in solve_messages(COMMAND, "Double the result of step 1", {1: "7"}, "direct")[1][1]


def test_a_bare_subtask_keeps_the_context_it_may_be_about():
    asked = Problem("p1", "Who?", 0, "Ann", context="Ann wrote it.")
    assert solve_messages(asked, "Name the writer", {}, "bare")[1][1] == "Context: Ann wrote it.\nTask: Name the writer"


def test_no_question_that_is_evaluated_on_is_trained_on():
    train = generated_subtasks("scan", 4000, 3, side="train")
    held_out = generated_subtasks("scan", 4000, 7, side="test")
    assert {split_of(s.problem.question) for s in train} == {"train"}
    assert not {s.problem.question for s in train} & {s.problem.question for s in held_out}
    assert held_out


def test_results_are_right_by_the_grammar():
    for solved in generated_subtasks("scan", 300, 0, side="train"):
        if solved.kind in ("translate", "phrase"):
            assert solved.answer == scan.interpret((solved.task or "").split("'")[1])
        elif solved.kind in ("direct", "command"):
            assert solved.task is None
            assert solved.answer == scan.interpret(solved.problem.question)
        elif solved.kind == "repeat":
            [before] = solved.results.values()
            assert solved.answer.count(before) >= 2
            assert len(solved.answer.split()) % len(before.split()) == 0
        else:
            assert solved.kind == "join"
            assert solved.answer == solved.problem.target
            assert sorted(solved.answer.split()) == sorted(" ".join(solved.results.values()).split())


def test_arithmetic_subtasks_compute_with_earlier_results():
    problem = Problem("a1", "What is 2 * 3 + 4?", 0, "10", "arithmetic")
    solved = solved_subtasks(problem, *arithmetic.gold_plan(arithmetic.parse("2 * 3 + 4")))
    assert [(s.task, dict(s.results), s.answer) for s in solved] == [
        ("Compute 2 * 3", {}, "6"),
        ("Compute the result of step 1 + 4", {1: "6"}, "10"),
    ]
    made = generated_subtasks("arithmetic?max_operations=2", 50, 0, side="train")
    assert {s.kind for s in made} == {"add", "subtract", "multiply", "direct"}


def test_an_arithmetic_specialist_is_taught_the_working_and_asked_for_the_answer():
    made = generated_subtasks("arithmetic", 200, 0, side="train")
    for solved in made:
        written = solved.row()["completion"][0]["content"]
        assert written == solved.worked
        assert extract_answer(written) == solved.answer


def test_every_kind_has_as_many_rows_and_the_choice_is_reproducible():
    subtasks = generated_subtasks("scan", 20910, 0, side="train")
    chosen = balanced(subtasks, 1200, 0)
    counts = Counter(s.kind for s in chosen)
    assert counts == dict.fromkeys(("translate", "repeat", "join", "direct", "phrase", "command"), 200)
    assert [s.messages() for s in balanced(subtasks, 1200, 0)] == [s.messages() for s in chosen]
    joins = [s.messages() for s in chosen if s.kind == "join"]
    assert len(set(joins)) == len(joins)


def test_a_scan_command_has_coarser_steps_too_and_kinds_can_be_chosen():
    coarse = [(s.kind, s.task, s.answer) for s in coarser_subtasks(COMMAND)]
    assert coarse == [
        ("phrase", "Translate 'walk left twice'", "I_TURN_LEFT I_WALK I_TURN_LEFT I_WALK"),
        ("command", None, COMMAND.target),
    ]
    assert {s.kind for s in generated_subtasks("scan?kinds=phrase,join", 200, 0, side="train")} == {"phrase", "join"}
    with pytest.raises(ConfigError, match="no subtasks of kind sing"):
        generated_subtasks("scan?kinds=sing", 200, 0, side="train")


def test_a_source_without_gold_results_is_refused():
    with pytest.raises(ConfigError, match=r"no gold plans with results.*scan, arithmetic"):
        generated_subtasks("csqa", 10, 0, side="train")
