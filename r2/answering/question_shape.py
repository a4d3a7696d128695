"""What questions look like before they are asked: how many steps they have, how long replies to them are, and of which
kind they are. Read off their texts and their gold answers, for estimates. Pure. Ours.

A question whose steps follow from its text (SCAN, arithmetic, word problems) is measured by its gold plan. Another one
that has numbers is taken to have an operation between each two. For the rest the assumed values stand.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from r2.plan import Plan, format_plan
from r2.problem import Problem
from r2.problems.benchmark import benchmark_of
from r2.problems.kind import kind_of

BYTES_PER_TOKEN: Final = 4
"""Where nothing but the length of a text is known, and in words that are not ASCII."""
LETTERS_PER_TOKEN: Final = 10
TEMPLATE_TOKENS: Final = 4
"""That a chat template puts around a message."""
SENTENCE_TOKENS: Final = 15
"""Of a reply that thinks step by step: it begins with a sentence, has one for each step, and ends with one."""
MOST_STEPS: Final = 8
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"\w+|[^\w\s]")
_NOTHING: Final[Mapping[str, float]] = MappingProxyType({})
MOST_EXAMPLES: Final = 500
"""Questions that are looked at. Of a longer file, every second, fourth, ... one."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Means over questions, or what is assumed of them. A question that needs no plan is one step."""

    steps: float = 2.5
    plan_tokens: float = 45
    task_tokens: float = 8
    """Of a step's text."""
    needed_tokens: float = 1
    """Of the earlier results that a step is shown."""
    step_tokens: float = 12
    """Of a step's result; the next three likewise: of an answer, and of the thoughts before them."""
    answer_tokens: float = 12
    step_thought_tokens: float = 138
    thought_tokens: float = 138
    wording_tokens: float = 0
    """Of the benchmark's own instruction, which goes before every solver's."""
    tokens_per_byte: float = 1 / BYTES_PER_TOKEN
    """Of the questions' own texts."""
    answer_limit: float = 64
    """Output limit of a direct result."""
    kinds: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    """Kind (r2/problems/kind.py) -> share of the questions; the rest is of no known kind. The next of the steps."""
    step_kinds: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    n_answers: float = 1.0
    """That a question asks for itself."""
    own_limits: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    """Output limit that a question sets itself -> share of the questions."""
    examples: tuple[tuple[float, Problem], ...] = ()
    """Of each kind: its share of the questions, and one of them."""

    def within_own_limits(self, n_tokens: float) -> float:
        """Mean length of a reply that would have `n_tokens` without the questions' own limits."""
        cut = sum(share * max(0.0, n_tokens - limit) for limit, share in self.own_limits.items())
        return n_tokens - cut


ASSUMED: Final = Shape()


class Sample:
    """At most `MOST_EXAMPLES` of the problems that it is shown one by one, evenly spread over them."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._n_seen, self._every = 0, 1

    def show(self, problem: Problem) -> None:
        if self._n_seen % self._every == 0:
            self.problems.append(problem)
            if len(self.problems) > MOST_EXAMPLES:
                self.problems = self.problems[::2]
                self._every *= 2
        self._n_seen += 1


@dataclass(frozen=True, slots=True)
class _Measured:
    """One question."""

    steps: list[str]
    """The text of each step, of a question without a plan itself; empty where the steps are not known."""
    n_steps: float
    plan_tokens: float
    task_tokens: float
    needed_tokens: float
    step_tokens: float
    thought_tokens: float
    """Of a reply to the whole question; of one to a step likewise."""
    step_thought_tokens: float


def shape_of(problems: Iterable[Problem]) -> Shape:
    """The shape of these questions; `ASSUMED` where there is none."""
    found = [(problem, _measured(problem)) for problem in problems]
    n = len(found)
    if not n:
        return ASSUMED
    n_steps = sum(each.n_steps for _, each in found)
    kinds, step_kinds, limits = Counter[str](), Counter[str](), Counter[int]()
    examples: dict[str, Problem] = {}
    for problem, each in found:
        kind = kind_of(problem.question) or problem.benchmark
        kinds[kind] += 1
        examples.setdefault(kind, problem)
        step_kinds.update(map(kind_of, each.steps))
        if problem.asked is not None and problem.asked.max_output_tokens is not None:
            limits[problem.asked.max_output_tokens] += 1
    return Shape(
        steps=n_steps / n,
        plan_tokens=sum(each.plan_tokens for _, each in found) / n,
        task_tokens=sum(each.task_tokens for _, each in found) / n_steps,
        needed_tokens=sum(each.needed_tokens for _, each in found) / n_steps,
        step_tokens=sum(each.step_tokens for _, each in found) / n_steps,
        answer_tokens=sum(_answer_tokens(problem) for problem, _ in found) / n,
        step_thought_tokens=sum(each.step_thought_tokens for _, each in found) / n,
        thought_tokens=sum(each.thought_tokens for _, each in found) / n,
        wording_tokens=sum(tokens_in(benchmark_of(problem).wording) for problem, _ in found) / n,
        tokens_per_byte=_tokens_per_byte(problem for problem, _ in found),
        answer_limit=sum(benchmark_of(problem).answer_tokens for problem, _ in found) / n,
        kinds={kind: count / n for kind, count in kinds.items() if kind},
        step_kinds={kind: count / n_steps for kind, count in step_kinds.items() if kind},
        n_answers=sum((problem.asked.n or 1) if problem.asked is not None else 1 for problem, _ in found) / n,
        own_limits={limit: count / n for limit, count in limits.items()},
        examples=tuple((kinds[kind] / n, problem) for kind, problem in examples.items()),
    )


def tokens_in(text: str) -> float:
    """About as many tokens as a text has: one for each word and each mark, more for a long word."""
    words = _WORD.findall(text)
    return sum(
        -(-len(word) // LETTERS_PER_TOKEN) if word.isascii() else len(word.encode("utf-8", "replace")) / BYTES_PER_TOKEN
        for word in words
    )


def text_of(n_tokens: float) -> str:
    """A text of so many tokens, to make a prompt with."""
    return " ".join(["word"] * round(n_tokens))


def _tokens_per_byte(problems: Iterable[Problem]) -> float:
    texts = [f"{problem.question} {problem.context}" for problem in problems]
    n_bytes = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return sum(map(tokens_in, texts)) / n_bytes if n_bytes else ASSUMED.tokens_per_byte


def _measured(problem: Problem) -> _Measured:
    gold = _gold_plan(problem)
    if gold is not None:
        plan, results = gold
        steps = [subtask.text for subtask in plan.subtasks]
        needed = [results[need] for subtask in plan.subtasks for need in subtask.needs]
        return _Measured(
            steps or [problem.question],
            max(1, len(steps)),
            tokens_in(format_plan(plan)),
            sum(map(tokens_in, steps)),
            sum(map(tokens_in, needed)),
            sum(map(tokens_in, results)) if steps else _answer_tokens(problem),
            _thoughts(max(1, len(steps))),
            _thoughts(1),
        )
    n_numbers = len(_NUMBER.findall(problem.question))
    n = float(min(max(1, n_numbers - 1), MOST_STEPS)) if n_numbers > 1 else ASSUMED.steps
    return _Measured(
        [],
        n,
        ASSUMED.plan_tokens * n / ASSUMED.steps,
        n * ASSUMED.task_tokens,
        n * ASSUMED.needed_tokens,
        n * (ASSUMED.step_tokens if problem.target is None else tokens_in(problem.target)),
        _thoughts(n) if n_numbers > 1 else ASSUMED.thought_tokens,
        _thoughts(1) if n_numbers > 1 else ASSUMED.step_thought_tokens,
    )


def thoughts_of(problem: Problem) -> float | None:
    """About as many tokens as thinking through the question takes, where its text shows its steps; None where not."""
    gold = _gold_plan(problem)
    return None if gold is None else _thoughts(max(1, len(gold[0].subtasks)))


def _thoughts(n_steps: float) -> float:
    return SENTENCE_TOKENS * (2 + n_steps)


def _gold_plan(problem: Problem) -> tuple[Plan, list[str]] | None:
    """With the result of each step; None where the question's text does not give them."""
    gold_plan = benchmark_of(problem).gold_plan
    try:
        return None if gold_plan is None else gold_plan(problem.question)
    except ValueError:
        return None


def _answer_tokens(problem: Problem) -> float:
    if problem.target is not None:
        return max(1.0, tokens_in(problem.target))
    gold = _gold_plan(problem)
    return max(1.0, tokens_in(gold[1][-1])) if gold is not None and gold[1] else ASSUMED.answer_tokens
