"""Rows for a specialist: a small model trained on the subtasks of one kind of problem (ours).

Problems are generated with their gold plans; each subtask with its right result is a row, asked with the very prompt
that a `bare` pool entry is asked with. Only questions on the `train` side of the split are used
(`r2/problems/split.py`); those of the `test` side are never seen. For SCAN there are coarser steps besides (`phrase`,
`command`): small models translate whole phrases well, and miscount when they repeat or join long ones.
`scan?kinds=translate,phrase` trains on some kinds only.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from r2.answering.prompts import solve_messages
from r2.call import Message
from r2.errors import ConfigError
from r2.plan import Plan
from r2.problem import Problem
from r2.problems import arithmetic, scan
from r2.problems.source import parse_source
from r2.problems.split import Side, split_of
from r2.training.data import ChatRow, chat_row

DIRECT_KIND = "direct"
_OPERATION = {"+": "add", "-": "subtract", "*": "multiply"}


@dataclass(frozen=True, slots=True)
class SolvedSubtask:
    """One subtask with its right result. `task` is None for the question of a direct plan; `results` are those of the
    steps it needs, by 1-based number. `kind` is the task's first word in lower case, or `direct`; of arithmetic it is
    the operation. `worked` is what a specialist writes to get there, ended by the answer; None: the answer alone."""

    kind: str
    problem: Problem
    task: str | None
    results: Mapping[int, str]
    answer: str
    worked: str | None = None

    def messages(self) -> tuple[Message, ...]:
        """The prompt of a bare entry."""
        return solve_messages(self.problem, self.task, self.results, "bare")

    def row(self) -> ChatRow:
        return chat_row(self.messages(), self.worked or self.answer)


def solved_subtasks(problem: Problem, plan: Plan, results: Sequence[str]) -> list[SolvedSubtask]:
    """Every subtask of a plan with the right result of each."""
    if plan.is_direct:
        return [SolvedSubtask(DIRECT_KIND, problem, None, {}, results[0])]
    return [
        SolvedSubtask(
            subtask.text.split()[0].lower(),
            problem,
            subtask.text,
            {need + 1: results[need] for need in subtask.needs},
            result,
        )
        for subtask, result in zip(plan.subtasks, results, strict=True)
    ]


def generated_subtasks(
    source: str, limit: int, seed: int, *, side: Side, split_seed: int = 0, test_share: float = 0.1
) -> list[SolvedSubtask]:
    """Subtasks of up to `limit` generated problems (before the split) whose question is on `side`. ConfigError for a
    source without gold plans."""
    problems, steps = _generated(source, limit, seed)
    named = parse_source(source).options.get("kinds")
    made = [
        solved
        for problem in problems
        if split_of(problem.question, split_seed, test_share) == side
        for solved in steps(problem)
    ]
    if named is None:
        return made
    kinds, known = named.split(","), {solved.kind for solved in made}
    if unknown := sorted(set(kinds) - known):
        raise ConfigError(
            f"--problems {source}: no subtasks of kind {', '.join(unknown)}. Known: {', '.join(sorted(known))}."
        )
    return [solved for solved in made if solved.kind in kinds]


def coarser_subtasks(problem: Problem) -> list[SolvedSubtask]:
    """A SCAN command as a whole, and its phrases with their "twice" and "thrice" as steps of a coarser plan."""
    phrases = re.split(r" (?:and|after) ", problem.question)
    steps = [
        SolvedSubtask("phrase", problem, f"Translate '{phrase}'", {}, scan.interpret(phrase))
        for phrase in phrases
        if phrase.split()[-1] in scan.TIMES
    ]
    return [*steps, SolvedSubtask("command", problem, None, {}, scan.interpret(problem.question))]


def balanced(subtasks: Iterable[SolvedSubtask], n: int, seed: int) -> list[SolvedSubtask]:
    """`n` subtasks, as many of each kind (ours: as they come, joins drown the few phrases whose translations must be
    learned by heart; by equal text, the phrases drown the repeats, in which a small model must learn to count). A kind
    with fewer different prompts than its share has them several times."""
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
) -> tuple[list[Problem], Callable[[Problem], list[SolvedSubtask]]]:
    source = parse_source(source_text)
    if source.name == "scan":
        source.only("split", "kinds")
        split = source.options.get("split", "simple")
        n_commands = min(limit, len(scan.commands_of(split)))
        return scan.generate(n_commands, seed, split), _scan_steps
    if source.name == "arithmetic":
        source.only("kinds", "min_operations", "max_operations", "max_number")
        problems = arithmetic.generate(
            limit,
            seed,
            min_operations=source.number("min_operations", 1),
            max_operations=source.number("max_operations", 4),
            max_number=source.number("max_number", 99),
        )
        return problems, _arithmetic_steps
    raise ConfigError(
        f"--problems {source}: no gold plans with results to train a specialist on. Known: scan, arithmetic."
    )


def _scan_steps(problem: Problem) -> list[SolvedSubtask]:
    fine = solved_subtasks(problem, *scan.gold_plan(problem.question))
    return fine + (coarser_subtasks(problem) if len(fine) > 1 else [])


def _arithmetic_steps(problem: Problem) -> list[SolvedSubtask]:
    """Each operation with its working. A small model cannot multiply at once, but digit by digit it can."""
    expression = arithmetic.asked_for(problem.question)
    return [
        replace(
            solved,
            kind=DIRECT_KIND if solved.task is None else _OPERATION[step.op],
            worked=arithmetic.worked(
                arithmetic.Operation(step.op, arithmetic.value(step.left), arithmetic.value(step.right))
            ),
        )
        for solved, step in zip(
            solved_subtasks(problem, *arithmetic.gold_plan(expression)), arithmetic.operations(expression), strict=True
        )
    ]
