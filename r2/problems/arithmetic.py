"""Integer arithmetic: expressions with gold plans, made by seed, and a small evaluator that is never `eval`."""

import operator
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from r2.plan import Plan, Subtask
from r2.problem import Problem
from r2.problems.checks import no_number, same_number
from r2.problems.record import Benchmark
from r2.problems.source import Source

MAX_DIGITS = 40
"""Longer numbers, read or computed, are refused: the text comes from models."""
MAX_TOKENS = 200
"""Longer expressions are refused, which bounds their depth too: no text exhausts the stack."""
WIDTH = 6
"""Digits to which `worked` fills numbers up; longer ones stay as they are."""

_TOKEN = re.compile(r"\s*(?:(\d+)|(.))")


@dataclass(frozen=True, slots=True)
class Operation:
    """`left op right`; operands are integers or operations."""

    op: str
    left: "Expression"
    right: "Expression"


Expression = int | Operation
_COMPUTE: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def parse(text: str) -> Expression:
    """Reads +, -, *, parentheses and unary minus, with the usual precedence. Raises ValueError for anything else.

    "×" and "−" are read as * and -. A minus in front of a number is the number's sign, not an operation.
    """
    return _Reader(text).read()


class _Reader:
    """Recursive descent over a text's tokens: sum -> product -> factor."""

    def __init__(self, text: str) -> None:
        plain = text.replace("×", "*").replace("−", "-").strip()
        self.tokens: list[str] = [number or symbol for number, symbol in _TOKEN.findall(plain)]
        self.position = 0
        if len(self.tokens) > MAX_TOKENS:
            raise ValueError(f"{len(self.tokens)} tokens; an expression has at most {MAX_TOKENS}")

    def read(self) -> Expression:
        expression = self.sum()
        if self.position != len(self.tokens):
            raise ValueError(f"unexpected {self.peek()!r}")
        return expression

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.position += 1
        return token

    def sum(self) -> Expression:
        left = self.product()
        while self.peek() in ("+", "-"):
            left = Operation(self.take(), left, self.product())
        return left

    def product(self) -> Expression:
        left = self.factor()
        while self.peek() == "*":
            left = Operation(self.take(), left, self.factor())
        return left

    def factor(self) -> Expression:
        token = self.take()
        if token.isascii() and token.isdigit() and len(token) <= MAX_DIGITS:
            return int(token)
        if token == "-":
            negated = self.factor()
            return -negated if isinstance(negated, int) else Operation("-", 0, negated)
        if token == "(":
            inner = self.sum()
            if self.take() != ")":
                raise ValueError("a parenthesis is not closed")
            return inner
        raise ValueError(f"expected a number, got {token!r}")


def value(expression: Expression) -> int:
    """The integer an expression stands for. Raises ValueError where a number would grow past MAX_DIGITS."""
    if isinstance(expression, int):
        return expression
    result = _COMPUTE[expression.op](value(expression.left), value(expression.right))
    if abs(result) >= 10**MAX_DIGITS:
        raise ValueError("too large a number")
    return result


def asked_for(question: str) -> Expression:
    """The expression of a question "What is <expression>?". Raises ValueError for any other text."""
    return parse(question.removeprefix("What is ").removesuffix("?"))


def evaluate(text: str) -> int | None:
    """The value of an expression in text form, None if it is none."""
    try:
        return value(parse(text))
    except ValueError:
        return None


def operations(expression: Expression) -> list[Operation]:
    """Every operation, operands before what uses them, left before right."""
    if isinstance(expression, int):
        return []
    return [*operations(expression.left), *operations(expression.right), expression]


def render(expression: Expression) -> str:
    """Text with the parentheses that are needed; `parse(render(e))` has the value of `e`."""
    if isinstance(expression, int):
        return str(expression)
    left, right = render(expression.left), render(expression.right)
    if expression.op == "*":
        left = f"({left})" if isinstance(expression.left, Operation) and expression.left.op != "*" else left
        right = f"({right})" if isinstance(expression.right, Operation) else right
    elif expression.op == "-" and isinstance(expression.right, Operation) and expression.right.op != "*":
        right = f"({right})"
    return f"{left} {expression.op} {right}"


def gold_plan(expression: Expression) -> tuple[Plan, list[str]]:
    """One subtask per operation and the right result of each; DIRECT for a single operation."""
    steps = operations(expression)
    if len(steps) < 2:
        return Plan(), [str(value(expression))]
    place = {id(step): i for i, step in enumerate(steps)}
    subtasks = []
    for step in steps:
        needs = sorted(place[id(side)] for side in (step.left, step.right) if isinstance(side, Operation))
        sides = [
            f"the result of step {place[id(side)] + 1}" if isinstance(side, Operation) else str(side)
            for side in (step.left, step.right)
        ]
        subtasks.append(Subtask(f"Compute {sides[0]} {step.op} {sides[1]}", tuple(needs)))
    return Plan(tuple(subtasks)), [str(value(step)) for step in steps]


def is_correct(problem: Problem, answer: str) -> bool:
    """The last number of the answer is the target's."""
    return same_number(answer, problem.target or "")


def worked(operation: Operation) -> str:
    """One operation on two integers worked out digit by digit, as a small model can learn to write it (ours), ended by
    "Answer: ...".

    The first line has signs settled; then come digits in reverse, units first, so that carries go the way the text
    does, and filled up to one width, so that digits that belong together are always as far apart. A product is a line
    for each digit of its shorter side, and their sum.

    >>> print(worked(Operation("*", -47, 83)))
    -(47*83)
    740000*3=141000
    740000*8=673000
    141000+067300=109300
    Answer: -3901
    """
    if not isinstance(operation.left, int) or not isinstance(operation.right, int):
        raise ValueError(f"{render(operation)}: expected an operation on two integers")
    left, right = operation.left, -operation.right if operation.op == "-" else operation.right
    a, b = abs(left), abs(right)
    is_negative = (left < 0) != (right < 0)
    if operation.op == "*":
        settled, lines = f"{a}*{b}", _product(a, b)
    elif is_negative:
        a, b, is_negative = max(a, b), min(a, b), left + right < 0
        settled, lines = f"{a}-{b}", [_columns(a, "-", b)]
    else:
        is_negative = left < 0
        settled, lines = f"{a}+{b}", [_columns(a, "+", b)]
    return "\n".join([f"-({settled})" if is_negative else settled, *lines, f"Answer: {value(operation)}"])


def _product(a: int, b: int) -> list[str]:
    """The lines of a * b."""
    a, b = (a, b) if len(str(a)) >= len(str(b)) else (b, a)
    parts = [a * int(digit) for digit in _digits(b)]
    lines = [f"{_column(a)}*{digit}={_column(part)}" for digit, part in zip(_digits(b), parts, strict=True)]
    total = parts[0]
    for place, part in enumerate(parts[1:], start=1):
        lines.append(_columns(total, "+", part * 10**place))
        total += part * 10**place
    return lines


def _columns(a: int, op: str, b: int) -> str:
    """The line of a + b or a - b."""
    return f"{_column(a)}{op}{_column(b)}={_column(_COMPUTE[op](a, b))}"


def _column(number: int) -> str:
    return f"{_digits(number):0<{WIDTH}}"


def _digits(number: int) -> str:
    """Units first."""
    return str(number)[::-1]


def generate(
    n: int, seed: int, *, min_operations: int = 1, max_operations: int = 4, max_number: int = 99
) -> list[Problem]:
    """`n` questions "What is <expression>?" with their values; ids and expressions depend on the arguments alone.

    Difficulty grows with the number of operations (drawn evenly from the two bounds) and with `max_number`, the largest
    number written; the smallest is 2.
    """
    chance = random.Random(f"arithmetic:{seed}:{min_operations}:{max_operations}:{max_number}")
    problems = []
    for i in range(n):
        expression = _random_expression(chance, chance.randint(min_operations, max_operations), max_number)
        problems.append(
            Problem(f"arithmetic-{seed}-{i}", f"What is {render(expression)}?", i, str(value(expression)), "arithmetic")
        )
    return problems


def _random_expression(chance: random.Random, n_operations: int, max_number: int) -> Expression:
    if n_operations == 0:
        return chance.randint(2, max_number)
    n_left = chance.randint(0, n_operations - 1)
    left = _random_expression(chance, n_left, max_number)
    right = _random_expression(chance, n_operations - 1 - n_left, max_number)
    return Operation(chance.choice("++--*"), left, right)


def _from_source(source: Source, n: int, seed: int) -> Iterator[Problem]:
    known = ("min_operations", "max_operations", "max_number")
    source.only("seed", *known)
    options = {name: source.number(name, 0) for name in known if name in source.options}
    return iter(generate(n, source.number("seed", seed), **options))


BENCHMARK = Benchmark(
    name="arithmetic",
    is_correct=is_correct,
    malformed=no_number,
    answer_tokens=24,
    generate=_from_source,
    gold_plan=lambda question: gold_plan(asked_for(question)),
)
