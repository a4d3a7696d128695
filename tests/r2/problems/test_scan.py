"""SCAN's grammar, against examples worked by hand and, where it is there, against the published data."""

import json
import os
from pathlib import Path

import pytest

from r2.plan import Plan, Subtask
from r2.problem import Problem
from r2.problems import scan

DATA_DIR = os.environ.get("R2_DATA_DIR")


@pytest.mark.parametrize(
    ("command", "actions"),
    [
        ("jump", "I_JUMP"),
        ("turn left", "I_TURN_LEFT"),
        ("walk right", "I_TURN_RIGHT I_WALK"),
        ("turn opposite right", "I_TURN_RIGHT I_TURN_RIGHT"),
        ("run opposite left", "I_TURN_LEFT I_TURN_LEFT I_RUN"),
        ("turn around left", "I_TURN_LEFT I_TURN_LEFT I_TURN_LEFT I_TURN_LEFT"),
        ("look around right", "I_TURN_RIGHT I_LOOK I_TURN_RIGHT I_LOOK I_TURN_RIGHT I_LOOK I_TURN_RIGHT I_LOOK"),
        ("jump twice and walk", "I_JUMP I_JUMP I_WALK"),
        ("jump and walk twice", "I_JUMP I_WALK I_WALK"),
        ("jump left after run thrice", "I_RUN I_RUN I_RUN I_TURN_LEFT I_JUMP"),
    ],
)
def test_a_command_means_its_actions(command: str, actions: str):
    assert scan.interpret(command) == actions


@pytest.mark.parametrize(
    "text",
    [
        "",
        "turn",
        "fly",
        "jump up",
        "jump left left",
        "twice",
        "jump twice thrice",
        "jump and",
        "jump and run and walk",
        "What is 2 + 3?",
    ],
)
def test_what_the_grammar_does_not_have_is_no_command(text: str):
    assert not scan.is_command(text)
    with pytest.raises(ValueError, match="SCAN"):
        scan.interpret(text)


def test_an_answer_is_right_if_the_actions_are_whatever_the_spacing_and_case():
    asked = Problem("p", "walk after jump", target="I_JUMP I_WALK")
    assert scan.is_correct(asked, " i_jump\n I_WALK ")
    assert not scan.is_correct(asked, "I_WALK I_JUMP")
    assert not scan.is_correct(asked, "I_JUMP I_WALK I_WALK")


def test_a_gold_plan_translates_repeats_and_joins_in_the_order_of_acting():
    plan, results = scan.gold_plan("jump left twice after walk thrice")
    assert plan == Plan(
        (
            Subtask("Translate 'jump left'"),
            Subtask("Repeat the result of step 1 2 times", (0,)),
            Subtask("Translate 'walk'"),
            Subtask("Repeat the result of step 3 3 times", (2,)),
            Subtask("Join the result of step 4 and then the result of step 2", (1, 3)),
        )
    )
    assert results == [
        "I_TURN_LEFT I_JUMP",
        "I_TURN_LEFT I_JUMP I_TURN_LEFT I_JUMP",
        "I_WALK",
        "I_WALK I_WALK I_WALK",
        "I_WALK I_WALK I_WALK I_TURN_LEFT I_JUMP I_TURN_LEFT I_JUMP",
    ]


def test_a_single_phrase_is_answered_directly():
    assert scan.gold_plan("walk around left") == (Plan(), [scan.interpret("walk around left")])


def test_the_grammar_has_20910_different_commands_and_every_gold_plan_ends_in_the_actions():
    commands = scan.commands()
    assert len(commands) == len(set(commands)) == 20_910
    for command in commands[::7]:
        plan, results = scan.gold_plan(command)
        assert results[-1] == scan.interpret(command)
        assert len(results) == max(1, len(plan.subtasks))


def test_generated_problems_are_different_and_follow_from_the_seed():
    problems = scan.generate(50, 1)
    assert len({p.question for p in problems}) == 50
    assert problems == scan.generate(50, 1) != scan.generate(50, 2)
    assert all(p.target == scan.interpret(p.question) and p.benchmark == "scan" for p in problems)


@pytest.mark.skipif(
    DATA_DIR is None, reason="R2_DATA_DIR is not set; it is a folder with scan/*.jsonl (question, answer)"
)
def test_the_published_commands_and_their_published_steps_agree_with_the_grammar():
    rows = [
        json.loads(line)
        for path in sorted((Path(DATA_DIR or "") / "scan").glob("*.jsonl"))
        for line in path.read_text("utf-8").splitlines()
    ]
    assert rows
    for row in rows:
        assert scan.interpret(row["question"]) == row["answer"], row["id"]
        _, results = scan.gold_plan(row["question"])
        published = [step["answer"] for step in row.get("decomposition", [])]
        assert set(published) <= {*results, row["answer"]}, row["id"]
