"""The benchmarks, one line each, and judging by them. A new one is a module with its record (r2/problems/record.py) and
a line here.

Problems name their benchmark by a string; `benchmark_of` finds it. An unknown or empty name gets the default: no
wording, and the check that fits the target (choice letter, number or text).
"""

from collections.abc import Mapping
from functools import cache

from r2.plan import Plan
from r2.plugins import BENCHMARKS, plugin_names, with_plugins
from r2.problem import Problem
from r2.problems import (
    arithmetic,
    competition_math,
    csqa,
    gsm8k,
    musique,
    p3,
    reasoning_tasks,
    scan,
    strategyqa,
    words,
)
from r2.problems.checks import declines, default_check, extract_answer, is_refusal, short_answer, whole_answer
from r2.problems.record import Benchmark

_DEFAULT = Benchmark(name="", licence="the user's own")
_BUILT_IN = (
    arithmetic.BENCHMARK,
    words.BENCHMARK,
    scan.BENCHMARK,
    gsm8k.BENCHMARK,
    csqa.BENCHMARK,
    musique.BENCHMARK,
    strategyqa.BENCHMARK,
    competition_math.MATH,
    competition_math.CHAMP,
    p3.BENCHMARK,
    reasoning_tasks.BENCHMARK,
)
USERS_FILE = "file"
"""The source that is a user's own file, and so no benchmark's name."""


@cache
def benchmarks() -> Mapping[str, Benchmark]:
    """Every benchmark by name, those of other packages included. ConfigError for a package that cannot be used."""
    return with_plugins(BENCHMARKS, Benchmark, _BUILT_IN, reserved=(USERS_FILE,))


def benchmark_names() -> list[str]:
    """Names for a help text: nothing of another package is imported."""
    return [*(benchmark.name for benchmark in _BUILT_IN), *plugin_names(BENCHMARKS)]


def gold_plan_names() -> list[str]:
    """As `benchmark_names`, of the built-in ones that have gold plans."""
    return [benchmark.name for benchmark in _BUILT_IN if benchmark.has_gold_plans]


def benchmark_of(problem: Problem) -> Benchmark:
    """The problem's benchmark; the default one for names we do not know (their rows keep the user's name)."""
    return benchmarks().get(problem.benchmark, _DEFAULT)


def is_free(problem: Problem) -> bool:
    """No benchmark that we know says how the problem is asked and what its result looks like: it is asked in the user's
    own words, and answered in full."""
    return benchmark_of(problem) is _DEFAULT


def result_in(problem: Problem, text: str, *, is_whole: bool = False) -> str:
    """What a model's text comes to: all of it for a problem without a benchmark (or with `is_whole`), else the result
    that `extract_answer` finds."""
    return whole_answer(text) if is_whole or is_free(problem) else extract_answer(text)


def checked_part(problem: Problem, answer: str) -> str | None:
    """The part of a whole answer that the check compares with the gold answer, or the letter that a multiple-choice
    question was asked for. None for a problem whose answer is that part already, or has nothing to compare with."""
    if not is_free(problem) or (problem.target is None and not problem.choices):
        return None
    return short_answer(answer, problem.target, problem.choices)


def gold_plan_of(problem: Problem) -> Plan | None:
    """The plan that follows from the problem's question; None where none does.

    The plans of published rows are in the rows (r2/problems/gold.py).
    """
    gold_plan = benchmark_of(problem).gold_plan
    try:
        return None if gold_plan is None else gold_plan(problem.question)[0]
    except ValueError:
        return None


def judge(problem: Problem, answer: str) -> bool | None:
    """Right or wrong by the problem's own check; None where there is no target."""
    if problem.target is None:
        return None
    benchmark = benchmark_of(problem)
    if benchmark.is_correct is not None:
        return benchmark.is_correct(problem, answer)
    if not is_free(problem):
        return default_check(answer, problem.target, problem.choices)
    golds = (problem.target, *problem.aliases)
    return any(default_check(short_answer(answer, gold, problem.choices), gold, problem.choices) for gold in golds)


def failed_check(problem: Problem, text: str, finish_reason: str, *, is_whole: bool = False) -> str | None:
    """The cheap check of one result (ours): None if it may stand, else the name of what failed. `is_whole` as of
    `result_in`.

    Names: `truncated`, `empty`, `refusal`, and the benchmark's own (`no_number`, `not_actions`).
    """
    if finish_reason == "length":
        return "truncated"
    if not text.strip():
        return "empty"
    if is_whole or is_free(problem):
        return "refusal" if declines(text) else None
    if is_refusal(text):
        return "refusal"
    return benchmark_of(problem).malformed(text)
