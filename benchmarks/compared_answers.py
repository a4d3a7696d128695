"""The first file of answers against each other one, by question: what it saves, and how much more is right.

    python benchmarks/compared_answers.py answers.r2.jsonl answers.cot.jsonl answers.program.jsonl

The files are those that `r2 answer` wrote for the same questions, as JSONL, with their answers to be held against. A
question that failed counts as wrong, at what it cost. Intervals are 95 %: Wilson's of a share, else a paired bootstrap.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from r2.evaluation.intervals import percentile_interval, resampled_means, wilson_interval


def read(path: Path) -> dict[str, tuple[float, float]]:
    """Of each question, by id: 1 where it is right, and USD."""
    try:
        rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        if not rows:
            sys.exit(f"{path}: no answers in it")
        if unjudged := [row["id"] for row in rows if row["status"] == "answered" and row["is_correct"] is None]:
            sys.exit(f"{path}: {len(unjudged)} answers were not held against any, as that to {unjudged[0]}")
        return {str(row["id"]): (float(bool(row["is_correct"])), float(row["cost_usd"] or 0.0)) for row in rows}
    except OSError as error:
        sys.exit(f"{path}: cannot be read: {error.strerror}")
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        sys.exit(f"{path}: not answers of r2 answer as JSONL ({error!r}). Name the file with --out as .jsonl.")


def told(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> str:
    """`ours`, `theirs`: questions x (right, USD)."""
    drawn = resampled_means(np.hstack([ours, theirs]), 10_000)
    saved = percentile_interval(1 - drawn[:, 1] / drawn[:, 3])
    more = percentile_interval(100 * (drawn[:, 0] - drawn[:, 2]))
    assert saved is not None and more is not None, "every question costs something"
    share = 1 - ours[:, 1].mean() / theirs[:, 1].mean()
    points = 100 * (ours[:, 0].mean() - theirs[:, 0].mean())
    return (
        f"saves {share:.1%} [{saved.low:.1%}, {saved.high:.1%}] with {points:+.1f} points [{more.low:+.1f}, "
        f"{more.high:+.1f}] right"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("answers", type=Path, nargs="+", help=".jsonl")
    given = parser.parse_args()
    found = {path: read(path) for path in given.answers}
    ids = sorted(found[given.answers[0]])
    for path, rows in found.items():
        if sorted(rows) != ids:
            parser.error(f"{path}: other questions than in {given.answers[0]}")
    tables = {path: np.array([rows[one] for one in ids]) for path, rows in found.items()}
    for path, table in tables.items():
        low, high = wilson_interval(int(table[:, 0].sum()), len(ids))
        right, usd = table.sum(axis=0)
        print(f"{path}: {right:.0f}/{len(ids)} [{low:.1%}, {high:.1%}], {1e3 * usd / len(ids):.4f} USD per 1k")
    first, *others = given.answers
    for path in others:
        print(f"  against {path}: {told(tables[first], tables[path])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
