"""The recorded replies of benchmarks as one table for `r2 evaluate --outcomes`: a row per question and pool entry.

    python benchmarks/recorded_table.py recorded.parquet
    r2 evaluate --outcomes recorded.parquet

Costs are the recorded tokens at the prices of `--pool`; an entry that writes programs costs its reply and the seconds
of the run. Only entries that have a part for every benchmark are in it; the others are named.
"""

import argparse
import gzip
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from r2.answering.confidence import token_confidence
from r2.call import Completion
from r2.pool.file.config import load_pool
from r2.pool.reused import priced_anew
from r2.settings import Reasoning

RECORDED = Path(__file__).parent / "recorded"
Row = dict[str, object]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help=".parquet")
    parser.add_argument("--recorded", type=Path, default=RECORDED)
    parser.add_argument("--pool", default="pools/local.toml", help="whose prices count [default: pools/local.toml]")
    parser.add_argument("--quantile", type=float, default=Reasoning().confidence_quantile, help="of the confidence")
    given = parser.parse_args()
    parts = parts_in(given.recorded)
    if not parts:
        sys.stderr.write(f"{given.recorded}: no recording. benchmarks/record.py makes them.\n")
        return 2
    whole = set.intersection(*(set(entries) for entries in parts.values()))
    for name, entries in parts.items():
        if left := sorted(set(entries) - whole):
            sys.stderr.write(f"{name}: left out, for not being recorded on every benchmark: {', '.join(left)}\n")
    prices = {name: card.price for name, card in load_pool(given.pool).roster().by_name.items()}
    rows: list[Row] = []
    for name, entries in parts.items():
        questions = {str(row["id"]): row for row in lines_of(given.recorded / f"{name}.questions.jsonl.gz")}
        for entry in sorted(whole):
            rows += rows_of(questions, entry, entries[entry], prices, given.quantile)
    pq.write_table(pa.Table.from_pylist(rows), given.out)
    sys.stdout.write(f"{given.out}: {len(rows)} rows, {len(whole)} entries, {len(parts)} benchmarks\n")
    return 0


def parts_in(folder: Path) -> dict[str, dict[str, Path]]:
    """Benchmark -> entry -> its part."""
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.glob("*.jsonl.gz")):
        benchmark, _, entry = path.name.removesuffix(".jsonl.gz").partition(".")
        if entry != "questions":
            found[benchmark][entry] = path
    return dict(found)


def rows_of(questions: dict[str, Row], entry: str, part: Path, prices: dict, quantile: float) -> Iterator[Row]:
    """One row for each question of the part: what the entry wrote, whether it was right, what it cost."""
    calls: dict[str, list[Row]] = defaultdict(list)
    for line in lines_of(part):
        if "problem_id" in line:
            calls[str(line["problem_id"])].append(line)
    for problem_id, lines in calls.items():
        said = [priced_anew(Completion.from_bytes(orjson.dumps(line["completion"])), prices) for line in lines]
        question = questions[problem_id]
        yield {
            "id": problem_id,
            "benchmark": question["benchmark"],
            "question": "\n".join(filter(None, [question["question"], *_further(question)])),
            "answer": question["answer"],
            "model": entry,
            "output": said[-1].text,
            "correct": bool(lines[-1]["is_correct"]),
            "cost_usd": sum(one.worth_usd for one in said),
            "input_tokens": sum(one.usage.input_tokens for one in said),
            "output_tokens": sum(one.usage.output_tokens for one in said),
            "confidence": token_confidence(said[0], quantile) if said[0].is_ok else 0.0,
        }


def _further(question: Row) -> Iterator[str]:
    if choices := question.get("choices"):
        assert isinstance(choices, list)
        yield " ".join(str(choice) for choice in choices)
    if context := question.get("context"):
        yield str(context)


def lines_of(path: Path) -> Iterator[Row]:
    with gzip.open(path) as file:
        for line in file:
            yield orjson.loads(line)


if __name__ == "__main__":
    sys.exit(main())
