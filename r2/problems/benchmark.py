"""What a benchmark brings to answering: its wording, its check, and what a well-formed result looks like.

Problems name their benchmark by a string; `benchmark_of` finds it. An unknown or empty name gets the default: no
wording, and the check that fits the target (choice letter, number or text).
"""

from collections.abc import Callable
from dataclasses import dataclass

from r2.problem import Problem
from r2.problems import competition_math, csqa, gsm8k, musique, p3, reasoning_tasks, scan, strategyqa
from r2.problems.checks import default_check, is_refusal, last_number


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`is_correct(problem, answer)` is its check, None for the default one; `malformed(text)` names what is wrong with
    a result's form, or None; `answer_tokens` bounds a direct result; `wording` goes before every solver's instruction,
    `plan_example` (a question with its plan) into the teacher's prompt."""

    name: str
    is_correct: Callable[[Problem, str], bool] | None = None
    malformed: Callable[[str], str | None] = lambda text: None
    wording: str = ""
    plan_example: str = ""
    answer_tokens: int = 64


def _no_number(text: str) -> str | None:
    return None if last_number(text) is not None else "no_number"


def _not_actions(text: str) -> str | None:
    words = text.split()
    return None if words and all(word.startswith("I_") for word in words) else "not_actions"


_ALL = (
    Benchmark(""),
    Benchmark("arithmetic", gsm8k.is_correct, _no_number, answer_tokens=24),
    Benchmark("word_problem", gsm8k.is_correct, _no_number, answer_tokens=24),
    Benchmark("gsm8k", gsm8k.is_correct, _no_number, wording=gsm8k.WORDING, answer_tokens=24),
    Benchmark(
        "scan", scan.is_correct, _not_actions, wording=scan.WORDING, plan_example=scan.PLAN_EXAMPLE, answer_tokens=288
    ),
    Benchmark("csqa", csqa.is_correct, wording=csqa.WORDING, answer_tokens=24),
    Benchmark("musique", musique.is_correct, wording=musique.WORDING, answer_tokens=48),
    Benchmark("strategyqa", strategyqa.is_correct, wording=strategyqa.WORDING, answer_tokens=48),
    Benchmark("math", competition_math.is_correct, wording=competition_math.WORDING, answer_tokens=96),
    Benchmark("champ", competition_math.is_correct, wording=competition_math.WORDING, answer_tokens=96),
    Benchmark("p3", p3.is_correct, wording=p3.WORDING, answer_tokens=256),
    Benchmark("rg", reasoning_tasks.is_correct, answer_tokens=256),
)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}


def benchmark_of(problem: Problem) -> Benchmark:
    """The problem's benchmark; the default one for names we do not know (their rows keep the user's name)."""
    return BENCHMARKS.get(problem.benchmark, BENCHMARKS[""])


def judge(problem: Problem, answer: str) -> bool | None:
    """Right or wrong by the problem's own check; None where there is no target."""
    if problem.target is None:
        return None
    benchmark = benchmark_of(problem)
    if benchmark.is_correct is None:
        return default_check(answer, problem.target, problem.choices)
    return benchmark.is_correct(problem, answer)


def failed_check(problem: Problem, text: str, finish_reason: str) -> str | None:
    """The cheap check of one result (ours): None if it may stand, else the name of what failed.

    Names: `truncated`, `empty`, `refusal`, and the benchmark's own (`no_number`, `not_actions`).
    """
    if finish_reason == "length":
        return "truncated"
    if not text.strip():
        return "empty"
    if is_refusal(text):
        return "refusal"
    return benchmark_of(problem).malformed(text)
