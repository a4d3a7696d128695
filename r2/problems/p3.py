"""P3, Python programming puzzles (Schuster et al., arXiv:2106.05784): find a value on which `sat` is True; checked in
the sandbox.

Published: one JSON list of {name, sat, sol_header, sol_bodies, ...}.
"""

from r2.problem import Problem
from r2.problems.record import Benchmark
from r2.problems.row import Row, id_of, list_of, text_of
from r2.problems.sandbox import solves

WORDING = (
    "The puzzle is a Python function sat. Find a value for its first argument on which it returns True. "
    "Answer with that value as one Python expression on one line."
)


def problem(row: Row, index: int) -> Problem:
    """A published or flat row. The target is the reference solution's code where there is one; any other value that
    solves is as right."""
    bodies = list_of(row, "sol_bodies") or ([row["answer"]] if row.get("answer") else [])
    target = f"{row.get('sol_header') or 'def sol():'}\n{bodies[0]}" if bodies else "any value on which sat is True"
    problem_id = str(row["name"]) if "name" in row else id_of(row, "p3", index)
    return Problem(problem_id, text_of(row, "sat", "question"), index, target, "p3")


def is_correct(problem: Problem, answer: str) -> bool:
    """`sat` of the puzzle is True on what the answer is worth, in the sandbox."""
    return solves(problem.question, answer.strip().strip("`"))


BENCHMARK = Benchmark(
    name="p3",
    is_correct=is_correct,
    is_slow=True,
    has_one_answer=False,
    wording=WORDING,
    answer_tokens=256,
    read=problem,
    licence="MIT",
)
