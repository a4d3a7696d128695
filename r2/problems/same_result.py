"""When two results are the same: by the benchmark's own equality, as far as that needs no gold answer. Pure.

Used where results of several models are compared with each other: the answer is right or wrong for both. A check that
runs something (a puzzle, a proof of mathematics, a task's own scorer) is not made here: it looks at more than the two
results, or takes seconds. There, numbers are compared as numbers and everything else by its words.
"""

from dataclasses import replace

from r2.problem import Problem
from r2.problems.benchmark import benchmark_of, failed_check, is_free, judge
from r2.problems.checks import default_check, short_answer


def same_result(problem: Problem, one: str, other: str) -> bool:
    """Whether the benchmark's check takes one result as right where the other is; whole answers of a problem without a
    benchmark are compared by what they come to (a letter, a number, the last line)."""
    if _spaced(one) == _spaced(other):
        return True
    if is_free(problem):
        one, other = (short_answer(text, None, problem.choices) for text in (one, other))
        return default_check(one, other, problem.choices)
    if benchmark_of(problem).is_slow:
        return default_check(one, other, problem.choices)
    return judge(replace(problem, target=other, aliases=()), one) is True


def is_result(problem: Problem, text: str | None) -> bool:
    """Whether a text is a result at all: one that fails the cheap check of its form agrees with nobody."""
    return bool(text) and failed_check(problem, text or "", "stop") is None


def groups_of(problem: Problem, texts: list[str | None]) -> list[int]:
    """Numbers of the results, equal where two are the same, -1 for what is no result. Each is compared with the first
    of every group so far."""
    firsts: list[str] = []
    numbers = []
    for text in texts:
        if text is None or not is_result(problem, text):
            numbers.append(-1)
            continue
        at = next((i for i, first in enumerate(firsts) if same_result(problem, text, first)), len(firsts))
        if at == len(firsts):
            firsts.append(text)
        numbers.append(at)
    return numbers


def _spaced(text: str) -> str:
    return " ".join(text.casefold().split())
