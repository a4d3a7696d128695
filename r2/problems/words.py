"""Word problems of one or two steps, made from templates by seed, with their gold plans.

The templates can also be read backwards: `expression_of` finds the numbers and the expression in a story, which is how
the simulated models (r2/pool/simulated/mind.py) understand one.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from r2.plan import Plan
from r2.problem import Problem
from r2.problems import arithmetic
from r2.problems.checks import no_number
from r2.problems.record import Benchmark
from r2.problems.source import Source

_NAMES = ("Ann", "Ben", "Cleo", "Dev", "Ema", "Finn", "Gita", "Hugo")
_THINGS = ("pens", "apples", "cards", "coins", "shells", "stamps", "books", "marbles")


@dataclass(frozen=True, slots=True)
class Template:
    """A story with {a}, {b}, {c}, and the expression over them that answers it."""

    story: str
    expression: str


TEMPLATES = (
    Template("{name} has {a} {things} and buys {b} more. How many {things} does {name} have?", "{a} + {b}"),
    Template("{name} has {a} {things} and gives away {b}. How many {things} are left?", "{a} - {b}"),
    Template("A box holds {a} {things}. How many {things} are in {b} boxes?", "{a} * {b}"),
    Template(
        "A box holds {a} {things}. {name} has {b} boxes and gives away {c} {things}. How many {things} are left?",
        "{a} * {b} - {c}",
    ),
    Template(
        "{name} has {a} {things}, finds {b} more and then loses {c}. How many {things} does {name} have now?",
        "{a} + {b} - {c}",
    ),
    Template(
        "{name} packs {a} bags with {b} {things} each and adds {c} loose ones. How many {things} are there?",
        "{a} * {b} + {c}",
    ),
)


def generate(n: int, seed: int) -> list[Problem]:
    """`n` stories with their answers; every answer is positive."""
    chance = random.Random(f"words:{seed}")
    problems = []
    for i in range(n):
        template = chance.choice(TEMPLATES)
        numbers = {"a": chance.randint(20, 60), "b": chance.randint(3, 12), "c": chance.randint(2, 9)}
        story = template.story.format(name=chance.choice(_NAMES), things=chance.choice(_THINGS), **numbers)
        target = arithmetic.evaluate(template.expression.format(**numbers))
        problems.append(Problem(f"words-{seed}-{i}", story, i, str(target), "word_problem"))
    return problems


def expression_of(story: str) -> str | None:
    """The expression that answers a story made from these templates, None for any other text."""
    for template, pattern in _PATTERNS:
        if match := pattern.fullmatch(story.strip()):
            return template.expression.format(**match.groupdict())
    return None


def gold_plan(story: str) -> tuple[Plan, list[str]]:
    """One subtask per operation and the right result of each; DIRECT for a single operation.

    Raises ValueError for a text that is no story of ours.
    """
    expression = expression_of(story)
    if expression is None:
        raise ValueError(f"not a story of these templates: {story[:80]!r}")
    return arithmetic.gold_plan(arithmetic.parse(expression))


def _pattern(template: Template) -> re.Pattern[str]:
    pattern = re.escape(template.story)
    for field in "abc":
        pattern = pattern.replace(re.escape(f"{{{field}}}"), rf"(?P<{field}>\d+)")
    return re.compile(re.sub(r"\\\{(?:name|things)\\\}", r"\\w+", pattern), re.ASCII)


_PATTERNS = tuple((template, _pattern(template)) for template in TEMPLATES)


def _from_source(source: Source, n: int, seed: int) -> Iterator[Problem]:
    source.only("seed")
    return iter(generate(n, source.number("seed", seed)))


BENCHMARK = Benchmark(
    name="word_problem",
    is_correct=arithmetic.is_correct,
    malformed=no_number,
    answer_tokens=24,
    generate=_from_source,
    gold_plan=gold_plan,
)
