"""Writes generated questions of several kinds, shuffled.

    python benchmarks/mixed_questions.py 300 questions.jsonl                               a third each arithmetic, SCAN
    and word problems python benchmarks/mixed_questions.py 130 questions.jsonl --shares arithmetic=90,scan=40 --seed 5
    --held-out 0.1

With `--held-out` only questions on the test side of the training split (r2/problems/split.py), which no training has
seen.
"""

import argparse
import itertools
import json
import random
from pathlib import Path

from r2.problem import Problem
from r2.problems import arithmetic, scan, words
from r2.problems.split import split_of

MAKE = {"arithmetic": arithmetic.generate, "scan": scan.generate, "word_problem": words.generate}


def questions(counts: dict[str, int], seed: int, held_out: float | None) -> list[Problem]:
    """So many of each kind, in a seeded order."""
    chosen: list[Problem] = []
    for kind, n in counts.items():
        made = MAKE[kind](n if held_out is None else int(3 * n / held_out), seed)
        mine = (p for p in made if held_out is None or split_of(p.question, 0, held_out) == "test")
        chosen += itertools.islice(mine, n)
    random.Random(1).shuffle(chosen)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description="Generated questions of several kinds.")
    parser.add_argument("n", type=int)
    parser.add_argument("path", type=Path)
    parser.add_argument("--shares", help="KIND=N,...; their sum is n [default: a third each]")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--held-out", type=float)
    given = parser.parse_args()
    if given.shares:
        counts = {
            kind: int(n) if n.isdecimal() else 0
            for kind, _, n in (part.partition("=") for part in given.shares.split(","))
        }
    else:
        counts = {"arithmetic": given.n // 3, "scan": given.n // 3, "word_problem": given.n - 2 * (given.n // 3)}
    if sum(counts.values()) != given.n or set(counts) - set(MAKE):
        parser.error(f"--shares {given.shares}: expected kinds among {', '.join(MAKE)} that sum to {given.n}")
    rows = [
        {"id": p.problem_id, "question": p.question, "answer": p.target, "benchmark": p.benchmark}
        for p in questions(counts, given.seed, given.held_out)
    ]
    given.path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    main()
