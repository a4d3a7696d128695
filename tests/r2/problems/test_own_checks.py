"""Checks of the user's own: what each kind says of an answer, what goes wrong in the user's code, and what identifies
them."""

import threading
import time
from pathlib import Path

import pytest

from r2.errors import ConfigError
from r2.problem import Problem
from r2.problems.own_check import OwnCheck, Verdict, checks_digest, own_checks
from r2.problems.own_function import OwnFunction
from r2.problems.sandbox import CheckStopped, stop_of_checks
from r2.settings import Reasoning

PROBLEM = Problem("p1", "What is 2 + 3?", 0, "5", aliases=("five",), context="sums", extra={"unit": "cm"})
WITHOUT_GOLD = Problem("p2", "What is 2 + 3?")
GRADE = """
import os, sys, time
from dataclasses import dataclass
from neighbour import LIMIT

@dataclass
class Mark:
    value: float

def ok(row, answer):
    return answer == row["answer"]

def row_is_whole(row, answer):
    return [row[name] for name in ("id", "question", "answer", "aliases", "choices", "context", "unit")] == [
        "p1", "What is 2 + 3?", "5", ["five"], [], "sums", "cm"]

def sees_no_gold(row, answer):
    return row["answer"] is None and row["aliases"] == []

def of_a_step(row, answer, step=None):
    return step == "Add 3"

def says(row, answer):
    return {"half": 0.5, "low": 0.49, "none": None, "word": "yes", "seven": 7, "nan": float("nan")}[answer]

def bad(row, answer):
    if answer == "raises":
        raise ValueError("no such unit")
    if answer == "exits":
        sys.exit(3)
    if answer == "dies":
        os._exit(4)
    if answer == "sleeps":
        time.sleep(60)
    print("to nobody")
    return sys.stdin.read() == ""

def one(row):
    return True

async def later(row, answer):
    return True
"""


@pytest.fixture
def grade(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("LIMIT = 3\n", "utf-8")
    path = tmp_path / "grade.py"
    path.write_text(GRADE, "utf-8")
    return path


def check(name: str, rubric: str | None = None) -> OwnCheck:
    found, _ = own_checks(Reasoning(check=name, rubric=rubric))
    assert found is not None
    return found


def said(name: str, answer: str, problem: Problem = PROBLEM, step: str | None = None) -> Verdict:
    asked = check(name).says
    assert asked is not None
    return asked(problem, answer, step)


# A function of the user's file.


def test_the_users_function_is_given_the_row_and_the_answer(grade: Path):
    assert said(f"{grade}:ok", "5") == Verdict(1.0)
    assert said(f"{grade}:ok", "6") == Verdict(0.0)
    assert said(f"{grade}:row_is_whole", "5") == Verdict(1.0)


def test_a_verifier_is_never_shown_the_gold_answer(grade: Path):
    _, verify = own_checks(Reasoning(verify=f"{grade}:sees_no_gold"))
    assert verify is not None and verify.says is not None
    assert verify.says(PROBLEM, "5", None) == Verdict(1.0)


def test_a_number_from_0_to_1_is_a_score_and_counts_as_right_from_one_half(grade: Path):
    assert said(f"{grade}:says", "half") == Verdict(0.5)
    assert said(f"{grade}:says", "half").is_right is True
    assert said(f"{grade}:says", "low").is_right is False


@pytest.mark.parametrize(("answer", "returned"), [("none", "None"), ("word", "'yes'"), ("seven", "7"), ("nan", "nan")])
def test_anything_else_that_it_returns_is_no_verdict(grade: Path, answer: str, returned: str):
    verdict = said(f"{grade}:says", answer)
    assert verdict == Verdict(None, f"returned {returned}; expected True, False or a number from 0 to 1")
    assert verdict.is_right is None


def test_what_it_raises_is_the_checks_failure_with_its_line_and_the_next_answer_is_judged(grade: Path):
    line = GRADE.splitlines().index('        raise ValueError("no such unit")') + 1
    assert said(f"{grade}:bad", "raises") == Verdict(None, f"ValueError: no such unit (line {line})")
    assert said(f"{grade}:bad", "exits") == Verdict(None, f"SystemExit: 3 (line {line + 2})")
    assert said(f"{grade}:bad", "dies") == Verdict(None, "its process ended with code 4")
    assert said(f"{grade}:bad", "fine") == Verdict(1.0)


def test_one_that_never_ends_is_ended(grade: Path):
    function = OwnFunction({"path": str(grade), "function": "bad", "source": GRADE}, wall_s=0.3)
    assert function.says({}, "sleeps") == (None, "no verdict within 0.3 s")
    assert function.says({}, "fine") == (1.0, None)
    function.close()


def test_a_run_that_is_stopped_does_not_wait_for_it(grade: Path):
    function = OwnFunction({"path": str(grade), "function": "bad", "source": GRADE})
    function.load()
    stopping = threading.Event()
    token = stop_of_checks.set(stopping)
    threading.Timer(0.2, stopping.set).start()
    started = time.monotonic()
    try:
        with pytest.raises(CheckStopped):
            function.says({}, "sleeps")
    finally:
        stop_of_checks.reset(token)
        function.close()
    assert time.monotonic() - started < 30


def test_many_threads_may_ask_at_once(grade: Path):
    asked, said_by = check(f"{grade}:ok").says, {}
    assert asked is not None

    def ask(n: int) -> None:
        said_by[n] = asked(PROBLEM, "5" if n % 2 else "6", None).score

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said_by == {n: float(n % 2) for n in range(8)}


def test_only_a_function_with_a_parameter_step_judges_single_steps(grade: Path):
    assert check(f"{grade}:of_a_step").takes_step
    assert not check(f"{grade}:ok").takes_step
    assert said(f"{grade}:of_a_step", "5", step="Add 3") == Verdict(1.0)
    assert said(f"{grade}:of_a_step", "5") == Verdict(0.0)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("nothing", "it has no function 'nothing'. It has: Mark, ok, row_is_whole"),
        ("one", "one(row): expected the parameters row and answer"),
        ("later", "later is async; write a plain function"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_before_anything_is_asked(grade: Path, function: str, why: str):
    with pytest.raises(ConfigError) as error:
        own_checks(Reasoning(check=f"{grade}:{function}"))
    assert why in str(error.value) and "--check" in str(error.value) and "grade.py" in str(error.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def ok(row, answer)\n", "SyntaxError: expected ':'"),
        ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package' (line 1)"),
        ("\n\nraise SystemExit(1)\n", "SystemExit: 1 (line 3)"),
        ("import os\nos._exit(5)\n", "its process ended with code 5 while it was loaded"),
        ("  \n", "the file is empty"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_refused_with_what_it_said(tmp_path: Path, text: str, why: str):
    (tmp_path / "grade.py").write_text(text, "utf-8")
    with pytest.raises(ConfigError) as error:
        own_checks(Reasoning(check=f"{tmp_path / 'grade.py'}:ok"))
    assert why in str(error.value)


# Patterns and comparisons.


def test_a_pattern_is_found_anywhere_in_the_answer():
    assert said(r"regex:\d+ cm", "It is 5 cm long.") == Verdict(1.0)
    assert said(r"regex:^\d+$", "It is 5") == Verdict(0.0)
    assert said(r"regex:^a:b$", "a:b") == Verdict(1.0)


def test_exact_is_letter_for_letter_with_spaces_around_it_aside():
    assert said("exact", " 5\n") == Verdict(1.0)
    assert said("exact", "five") == Verdict(1.0)
    assert said("exact", "5.0") == Verdict(0.0)
    assert said("exact", "5", WITHOUT_GOLD) == Verdict(None)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"b": [1.0, true], "a": 1}', 1.0),
        ('```json\n{"a": 1, "b": [1, true]}\n```', 1.0),
        ('{"a": 1, "b": [true, 1]}', 0.0),
        ('{"a": true, "b": [1, true]}', 0.0),
        ('{"a": 1}', 0.0),
        ('{"a": 1, "b": [1, true], "c": null}', 0.0),
        ("{'a': 1}", 0.0),
        ("NaN", 0.0),
        ("[" * 100_000, 0.0),
        ("", 0.0),
    ],
)
def test_json_is_compared_by_value(answer: str, score: float):
    problem = Problem("p", "q", 0, '{"a": 1, "b": [1, true]}')
    assert said("json-equal", answer, problem) == Verdict(score)


def test_a_gold_answer_that_is_no_json_is_the_checks_failure():
    verdict = said("json-equal", "5", Problem("p", "q", 0, "five"))
    assert verdict.score is None and "the gold answer is not JSON" in (verdict.error or "")
    assert said("json-equal", "5", WITHOUT_GOLD) == Verdict(None)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"check": "scan"}, "expected FILE.py:FUNCTION, judge:ENTRY, regex:PATTERN, json-equal or exact"),
        ({"check": "grade.py"}, "expected FILE.py:FUNCTION"),
        ({"check": "no/such/grade.py:ok"}, "cannot be read"),
        ({"check": "regex:("}, "not a pattern of Python's re module: missing )"),
        ({"check": "regex:"}, "would be found in every answer"),
        ({"check": "judge:large"}, "a judge needs a rubric"),
        ({"check": "judge:"}, "name the pool entry"),
        ({"check": "exact", "rubric": "r.txt"}, "only a judge reads it"),
        ({"check": "judge:large", "rubric": "no/such.txt"}, "--rubric no/such.txt: cannot be read"),
        ({"verify": "exact"}, "nobody may see while a question is answered"),
        ({"verify": "json-equal"}, "nobody may see while a question is answered"),
    ],
)
def test_a_check_that_cannot_be_used_is_refused_with_what_to_do(settings: dict[str, str], why: str):
    with pytest.raises(ConfigError) as error:
        own_checks(Reasoning.model_validate(settings))
    assert why in str(error.value)


# Identity.


def test_a_check_is_identified_by_its_content_and_not_by_its_place(grade: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.py").write_text(GRADE, "utf-8")
    here, there = Reasoning(check=f"{grade}:ok"), Reasoning(check=f"{elsewhere / 'mine.py'}:ok")
    digest = checks_digest(here)
    assert digest == checks_digest(there) != ""
    assert here.identity() == Reasoning().identity()
    assert checks_digest(Reasoning(check=f"{grade}:says")) != digest
    assert checks_digest(Reasoning(verify=f"{grade}:ok")) != digest
    grade.write_text(GRADE + "\n# edited\n", "utf-8")
    assert checks_digest(here) != digest
    assert checks_digest(Reasoning()) == ""


def test_an_edited_rubric_is_another_judge(tmp_path: Path):
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("The number must be right.", "utf-8")
    judged = Reasoning(check="judge:large", rubric=str(rubric))
    digest = checks_digest(judged)
    rubric.write_text("The number and the unit must be right.", "utf-8")
    assert checks_digest(judged) != digest


def test_a_loaded_check_keeps_to_the_text_it_was_loaded_with_and_a_later_one_takes_the_new(grade: Path):
    first = check(f"{grade}:ok")
    grade.write_text("def ok(row, answer):\n    return False\n", "utf-8")
    assert first.says is not None
    assert first.says(PROBLEM, "5", None) == Verdict(1.0)
    assert said(f"{grade}:ok", "5") == Verdict(0.0)
    assert first.says(PROBLEM, "5", None) == Verdict(1.0)
