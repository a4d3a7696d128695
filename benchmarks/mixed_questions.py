"""Writes N generated questions, a third each arithmetic, SCAN and word problems, shuffled: python benchmarks/mixed_questions.py 300 questions.jsonl"""

import json
import random
import sys
from pathlib import Path

from r2.problems import arithmetic, scan, words


def main(n: int, path: Path) -> None:
    third = n // 3
    problems = [*arithmetic.generate(third, 3), *scan.generate(third, 3), *words.generate(n - 2 * third, 3)]
    random.Random(1).shuffle(problems)
    rows = [
        {"id": p.problem_id, "question": p.question, "answer": p.target, "benchmark": p.benchmark} for p in problems
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
