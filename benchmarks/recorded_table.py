"""The recorded replies of benchmarks as one table for `r2 evaluate --outcomes`: a row per question and pool entry.

    python benchmarks/recorded_table.py recorded.parquet
    python benchmarks/recorded_table.py strategyqa.parquet --benchmarks strategyqa
    r2 evaluate --outcomes recorded.parquet

Costs are the recorded tokens at the prices of `--pool`; an entry that writes programs costs its reply and the seconds
of the run. Only entries that have a part for every benchmark are in it. The others are named, and so are the benchmarks
that we know and that are not recorded.
"""

import argparse
import gzip
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from r2.answering.confidence import token_confidence
from r2.call import Completion
from r2.errors import InputFileError, R2Error
from r2.pool.file.config import load_pool
from r2.pool.reused import priced_anew
from r2.problems.benchmark import benchmark_names, benchmarks
from r2.settings import Reasoning

RECORDED = Path(__file__).parent / "recorded"
Row = dict[str, object]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help=".parquet")
    parser.add_argument("--recorded", type=Path, default=RECORDED)
    parser.add_argument("--benchmarks", help="NAME,... [default: all that are recorded]")
    parser.add_argument("--pool", default="pools/local.toml", help="whose prices count [default: pools/local.toml]")
    parser.add_argument("--quantile", type=float, default=Reasoning().confidence_quantile, help="of the confidence")
    given = parser.parse_args()
    try:
        rows, left_out = table_of(
            given.recorded, given.pool, given.quantile, given.benchmarks.split(",") if given.benchmarks else None
        )
    except R2Error as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for line in left_out:
        sys.stderr.write(f"{line}\n")
    pq.write_table(pa.Table.from_pylist(rows), given.out)
    entries, names = ({str(row[column]) for row in rows} for column in ("model", "benchmark"))
    sys.stdout.write(f"{given.out}: {len(rows)} rows, {len(entries)} entries, {len(names)} benchmarks\n")
    return 0


def table_of(
    folder: Path, pool: str, quantile: float = Reasoning().confidence_quantile, wanted: Sequence[str] | None = None
) -> tuple[list[Row], list[str]]:
    """The rows of these benchmarks (None: of all that are recorded) and what is left out of them, by name.
    InputFileError where nothing is recorded."""
    parts = parts_in(folder)
    if not parts:
        raise InputFileError(f"{folder}: no recording. benchmarks/record.py makes them.")
    if missing := [name for name in wanted or () if name not in parts]:
        raise InputFileError(
            f"{folder}: no recording of {', '.join(missing)}; there are {', '.join(parts)}. benchmarks/record.py makes "
            "them."
        )
    parts = {name: entries for name, entries in parts.items() if wanted is None or name in wanted}
    whole = set.intersection(*(set(entries) for entries in parts.values()))
    left_out = [
        f"{name}: left out, for not being recorded on every benchmark: {', '.join(left)}"
        for name, entries in parts.items()
        if (left := sorted(set(entries) - whole))
    ]
    if wanted is None and (unknown := [name for name in published_names() if name not in parts]):
        left_out.append(f"not recorded: {', '.join(unknown)}")
    prices = {name: card.price for name, card in load_pool(pool).roster().by_name.items()}
    rows: list[Row] = []
    for name, entries in parts.items():
        questions = {str(row["id"]): row for row in lines_of(folder / f"{name}.questions.jsonl.gz")}
        for entry in sorted(whole):
            rows += rows_of(questions, entry, entries[entry], prices, quantile)
    return rows, left_out


def published_names() -> list[str]:
    """The benchmarks whose published files we read."""
    return [name for name in benchmark_names() if (one := benchmarks().get(name)) is not None and one.read is not None]


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
