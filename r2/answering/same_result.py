"""Whether two results of one unit are the same, by the equality of the problem's own check. Pure.

Agreement is evidence only where this can be said. Nobody can say it of free text, of answers that must match a schema,
and of questions with many right answers. The gold answer is never looked at: it is not known while a question is
answered.
"""

from dataclasses import replace
from typing import Final

from r2.answering.protocol import Router
from r2.answering.wanted import is_whole, schema_of
from r2.problem import Problem
from r2.problems.benchmark import benchmark_of, is_free, judge
from r2.problems.checks import same_number, short_answer, yes_or_no

YES_OR_NO: Final = 2
"""Choices of a question that wants yes or no."""


def has_equality(problem: Problem, router: Router, *, is_answer: bool) -> bool:
    """`is_answer`: of results that answer the question, and not a step on the way."""
    if is_free(problem):
        return is_answer and bool(problem.choices) and schema_of(problem, router) is None
    return benchmark_of(problem).has_one_answer and not (is_answer and is_whole(problem, router))


def n_choices(problem: Problem, *, is_answer: bool) -> int:
    """How many results are possible; 0 where they are free."""
    if not is_answer:
        return 0
    return len(problem.choices) or benchmark_of(problem).n_choices


def is_same(problem: Problem, one: str, other: str, *, is_answer: bool) -> bool:
    """Of results for which `has_equality` holds."""
    if _plain(one) == _plain(other):
        return True
    if not is_answer:
        return _is_number(one) and _is_number(other) and same_number(one, other)
    if is_free(problem):
        return short_answer(one, None, problem.choices) == short_answer(other, None, problem.choices)
    if benchmark_of(problem).n_choices == YES_OR_NO:
        said = yes_or_no(one)
        return said is not None and said == yes_or_no(other)
    if benchmark_of(problem).is_slow:
        return False  # its check takes a second: what is written differently counts as different
    return judge(replace(problem, target=one, aliases=()), other) is True


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
