"""Rows for a specialist: a small model trained on the subtasks of one kind of problem (ours).

Problems are generated with their gold plans; each subtask with its right result is a row, asked with the very prompt that a `bare` pool
entry is asked with. Only questions on the `train` side of the split are used (`r2/split.py`), whole commands of the `test` side are
never seen. Left out: full questions, which would make a specialist a solver of the benchmark, and leave the router nothing to do.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from r2.call import Message
from r2.errors import ConfigError
from r2.plan import Plan
from r2.problem import Problem
from r2.problems import arithmetic, scan
from r2.problems.source import parse_source
from r2.prompts import solve_messages
from r2.split import Side, split_of
from r2.training.data import ChatRow, chat_row

DIRECT_KIND = "direct"


@dataclass(frozen=True, slots=True)
class SolvedSubtask:
    """One subtask with its right result. `task` is None for the question of a direct plan; `results` are those of the steps it needs, by
    1-based number. `kind` is the task's first word in lower case, or `direct`."""

    kind: str
    problem: Problem
    task: str | None
    results: Mapping[int, str]
    answer: str

    def messages(self) -> tuple[Message, ...]:
        """The prompt of a bare entry."""
        return solve_messages(self.problem, self.task, self.results, "bare")

    def row(self) -> ChatRow:
        return chat_row(self.messages(), self.answer)


def solved_subtasks(problem: Problem, plan: Plan, results: Sequence[str]) -> list[SolvedSubtask]:
    """Every subtask of a plan with the right result of each."""
    if plan.is_direct:
        return [SolvedSubtask(DIRECT_KIND, problem, None, {}, results[0])]
    return [
        SolvedSubtask(
            subtask.text.split()[0].lower(), problem, subtask.text, {need + 1: results[need] for need in subtask.needs}, result
        )
        for subtask, result in zip(plan.subtasks, results, strict=True)
    ]  # fmt: skip


def generated_subtasks(
    source: str, limit: int, seed: int, *, side: Side, split_seed: int = 0, test_share: float = 0.1
) -> list[SolvedSubtask]:
    """Subtasks of up to `limit` generated problems (before the split) whose question is on `side`. ConfigError for a source without gold
    plans."""
    problems, gold = _generated(source, limit, seed)
    return [
        solved
        for problem in problems
        if split_of(problem.question, split_seed, test_share) == side
        for solved in solved_subtasks(problem, *gold(problem))
    ]


def balanced(subtasks: Iterable[SolvedSubtask], n: int, seed: int) -> list[SolvedSubtask]:
    """`n` subtasks, as many of each kind (ours: as they come, joins drown the few phrases whose translations must be learned by heart; by
    equal text, the phrases drown the repeats, in which a small model must learn to count). A kind with fewer different prompts than its
    share has them several times."""
    by_kind: dict[str, dict[tuple[Message, ...], SolvedSubtask]] = defaultdict(dict)
    for solved in subtasks:
        by_kind[solved.kind].setdefault(solved.messages(), solved)
    chance = random.Random(f"balanced:{seed}")
    chosen: list[SolvedSubtask] = []
    for position, kind in enumerate(sorted(by_kind)):
        different = list(by_kind[kind].values())
        n_kind = n // len(by_kind) + (position < n % len(by_kind))
        while n_kind > 0:
            drawn = chance.sample(different, min(n_kind, len(different)))
            chosen += drawn
            n_kind -= len(drawn)
    chance.shuffle(chosen)
    return chosen


def _generated(
    source_text: str, limit: int, seed: int
) -> tuple[list[Problem], Callable[[Problem], tuple[Plan, list[str]]]]:
    source = parse_source(source_text)
    if source.name == "scan":
        source.only("split")
        split = source.options.get("split", "simple")
        n_commands = min(limit, len(scan.commands_of(split)))
        return scan.generate(n_commands, seed, split), lambda problem: scan.gold_plan(problem.question)
    if source.name == "arithmetic":
        source.only("min_operations", "max_operations", "max_number")
        problems = arithmetic.generate(
            limit, seed, min_operations=source.number("min_operations", 1), max_operations=source.number("max_operations", 4),
            max_number=source.number("max_number", 99),
        )  # fmt: skip
        return problems, _arithmetic_plan
    raise ConfigError(
        f"--problems {source}: no gold plans with results to train a specialist on. Known: scan, arithmetic."
    )


def _arithmetic_plan(problem: Problem) -> tuple[Plan, list[str]]:
    return arithmetic.gold_plan(arithmetic.parse(problem.question.removeprefix("What is ").removesuffix("?")))
