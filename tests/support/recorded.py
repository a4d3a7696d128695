"""Synthetic recorded answers: three models whose agreement says how sure one can be."""

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MODELS = ("weak", "other", "strong")


def recorded_rows(n: int = 120, seed: int = 0, benchmark: str = "sums") -> list[dict[str, Any]]:
    """Rows in the long form. `weak` and `other` are right on 3 of 4 questions, each on its own, and wrong in ways of
    their own, so that two equal results are right; `strong` is right on 19 of 20, and costs 20 times as much."""
    chance = random.Random(f"{benchmark} {seed}")
    rows = []
    for i in range(n):
        gold = str(100 + i)
        for model, share, cost in zip(MODELS, (0.75, 0.75, 0.95), (0.0001, 0.0001, 0.002), strict=True):
            is_right = chance.random() < share
            result = gold if is_right else f"{model} {i}"
            rows.append(
                {
                    "id": f"{benchmark}-{seed}-{i}",
                    "benchmark": benchmark,
                    "question": f"{benchmark} {seed}: which number is {i} more than a hundred, in words {i % 7}?",
                    "answer": gold,
                    "model": model,
                    "output": f"I think.\nAnswer: {result}",
                    "model_answer": result,
                    "correct": is_right,
                    "output_tokens": 10 + i % 5,
                    "cost_usd": cost,
                }
            )
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """The rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path
