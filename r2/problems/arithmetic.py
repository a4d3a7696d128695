"""Integer arithmetic: expressions with gold plans, made by seed, and a small evaluator that is never `eval`."""

import random
import re
from dataclasses import dataclass

from r2.plan import Plan, Subtask
from r2.problem import Problem

MAX_DIGITS = 40
"""Larger numbers are refused: text comes from models, and 9**9**9 must not be computed."""

_TOKEN = re.compile(r"\s*(?:(\d+)|(.))")


@dataclass(frozen=True, slots=True)
class Operation:
    """`left op right`; operands are integers or operations."""

    op: str
    left: "Expression"
    right: "Expression"


Expression = int | Operation
_COMPUTE = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def parse(text: str) -> Expression:
    """Reads +, -, *, parentheses and unary minus, with the usual precedence. Raises ValueError for anything else."""
    tokens = [number or symbol for number, symbol in _TOKEN.findall(text.replace("×", "*").strip())]
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1]

    def level(ops: str, below: "object", depth: int) -> Expression:
        left = below(depth)  # type: ignore[operator]
        while peek() and peek() in ops:
            left = Operation(take(), left, below(depth))  # type: ignore[operator]
        return left

    def total(depth: int) -> Expression:
        return level("+-", lambda d: level("*", factor, d), depth)

    def factor(depth: int) -> Expression:
        if depth > 50:
            raise ValueError("nested too deeply")
        token = take() if peek() else ""
        if token.isascii() and token.isdigit() and len(token) <= MAX_DIGITS:
            return int(token)
        if token == "-":
            return Operation("-", 0, factor(depth + 1))
        if token == "(":
            inner = total(depth + 1)
            if not peek() or take() != ")":
                raise ValueError("a parenthesis is not closed")
            return inner
        raise ValueError(f"expected a number, got {token!r}")

    expression = total(0)
    if position != len(tokens):
        raise ValueError(f"unexpected {peek()!r}")
    return expression


def value(expression: Expression) -> int:
    """The integer an expression stands for. Raises ValueError where a number would grow past MAX_DIGITS."""
    if isinstance(expression, int):
        return expression
    result = _COMPUTE[expression.op](value(expression.left), value(expression.right))
    if abs(result) >= 10**MAX_DIGITS:
        raise ValueError("too large a number")
    return result


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


def generate(n: int, seed: int, *, min_operations: int = 1, max_operations: int = 4, max_number: int = 99) -> list[Problem]:
    """`n` questions "What is <expression>?" with their values; ids and expressions depend on the arguments alone."""
    chance = random.Random(f"arithmetic:{seed}:{min_operations}:{max_operations}:{max_number}")
    problems = []
    for i in range(n):
        expression = _random_expression(chance, chance.randint(min_operations, max_operations), max_number)
        problems.append(Problem(f"arithmetic-{seed}-{i}", f"What is {render(expression)}?", i, str(value(expression)), "arithmetic"))
    return problems


def _random_expression(chance: random.Random, n_operations: int, max_number: int) -> Expression:
    if n_operations == 0:
        return chance.randint(2, max_number)
    n_left = chance.randint(0, n_operations - 1)
    left = _random_expression(chance, n_left, max_number)
    right = _random_expression(chance, n_operations - 1 - n_left, max_number)
    return Operation(chance.choice("++--*"), left, right)
