"""math-verify beside the main thread: the same verdicts, its time limits in force, and no process left behind."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psutil
import pytest

pytest.importorskip("math_verify")

from r2.problem import Problem
from r2.problems import math_process
from r2.problems.competition_math import is_correct
from r2.problems.math_process import same_mathematics
from r2.problems.sandbox import CheckStopped, stop_of_checks

T = TypeVar("T")
ANSWERS = ["0.5", "\\frac{1}{2}", "2/4", "x + 1", "(((", "3", "\ud800", "", "\\frac{1}{2} \\text{ or so}"]


def in_a_thread(work: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work).result()


@pytest.mark.parametrize("target", ["1/2", "1 + x", "0.5 or equivalently 1/2"])
def test_a_thread_gives_the_verdicts_of_the_main_thread(target: str):
    problem = Problem("m", "?", 0, target, "math")
    expected = [is_correct(problem, answer) for answer in ANSWERS]
    assert in_a_thread(lambda: [is_correct(problem, answer) for answer in ANSWERS]) == expected
    assert any(expected)
    assert not all(expected)


def test_threads_share_children_and_a_dead_one_is_replaced():
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda i: same_mathematics(f"${i}/2$", f"${i / 2}$"), range(12))) == [True] * 12
    assert 1 <= len(math_process._idle) <= 4
    for child in math_process._idle:
        psutil.Process(child.pid).kill()
        child.wait()
    assert same_mathematics("$1$", "$1$"), "said by a new one"


def test_a_comparison_that_hangs_is_ended_with_its_process(monkeypatch: pytest.MonkeyPatch):
    math_process._end_idle()
    monkeypatch.setattr(math_process, "WALL_S", 0.0)  # a new child needs a second to begin
    assert not same_mathematics("$1$", "$1$")
    stopping = threading.Event()
    stopping.set()

    def check() -> None:
        stop_of_checks.set(stopping)
        with pytest.raises(CheckStopped):
            same_mathematics("$x$", "$x$")

    math_process._end_idle()
    in_a_thread(check)
    assert math_process._idle == []
