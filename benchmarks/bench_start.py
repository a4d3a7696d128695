"""How long a command takes that has little to do: seconds on the clock and of the cores.

    python benchmarks/bench_start.py                   each command 5 times, one after the other
    python benchmarks/bench_start.py --rounds 9

The models are those of pools/simulated.toml with their latencies; Prefect's API is the embedded one. Each run of a
round has an empty folder of its own, but for those that read what another wrote. Other work on the same cores shows in
the first figure, hardly in the second.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import ROOT, Part, at_most
from benchmarks.run_part import run_part
from r2.problems import arithmetic

N_ROWS = 20
BARS = {"r2 --help": at_most(0.3), "r2 answer, 1 row": at_most(6), "r2 answer, 20 rows": at_most(8)}
"""Seconds on the clock."""


def write_questions(folder: Path) -> None:
    """`q20.jsonl` and `q1.jsonl` with the benchmark's name, and `semicolon.csv`, whose rows are anybody's own."""
    problems = arithmetic.generate(N_ROWS, seed=3)
    rows = [
        {"id": p.problem_id, "question": p.question, "answer": p.target, "benchmark": p.benchmark} for p in problems
    ]
    for n in (N_ROWS, 1):
        (folder / f"q{n}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:n]), "utf-8")
    lines = [f"{p.problem_id};{p.question};{p.target}\n" for p in problems]
    (folder / "semicolon.csv").write_text("qid;prompt;gold\n" + "".join(lines), "utf-8")


def commands() -> Iterator[tuple[str, list[str]]]:
    """What is run in a round, in order; the last three need what is answered by then."""
    pool = ["--pool", str(ROOT / "pools" / "simulated.toml")]
    one_model = ["--method", "cot", "--model", "sim-0.6b"]
    for what, words in {
        "r2 answer, 20 rows": ["q20.jsonl"],
        "r2 answer, 20 rows, --method cot --model sim-0.6b": ["q20.jsonl", *one_model],
        "r2 answer, 20 rows of a semicolon CSV": ["semicolon.csv"],
        "r2 answer, 1 row": ["q1.jsonl"],
    }.items():
        yield what, ["answer", words[0], *words[1:], *pool, "--lake", f"lake of {what}"]
    yield "r2 answer, 20 rows again", ["answer", "q20.jsonl", *pool, "--lake", "lake of r2 answer, 20 rows"]
    counted = "select request_model, count(*) from calls group by 1"
    yield "r2 sql", ["sql", counted, "--lake", "lake of r2 answer, 20 rows"]
    yield "r2 --help", ["--help"]


def seconds_of(words: list[str], folder: Path) -> tuple[float, float]:
    """On the clock, and of the cores with all child processes."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "R2_STATE_DIR": str(folder / "state")}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"r2 {' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, cpu_s


def measure(part: Part, options: argparse.Namespace) -> None:
    """Each command once a round, in an empty folder."""
    taken: dict[str, list[tuple[float, float]]] = {}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="bench-start-") as name:
            folder = Path(name)
            write_questions(folder)
            for what, words in commands():
                taken.setdefault(what, []).append(seconds_of(words, folder))
    for what, both in taken.items():
        part.add("seconds on the clock", what, "s", (wall_s for wall_s, _ in both), BARS.get(what))
        part.add("seconds of the cores", what, "s", (cpu_s for _, cpu_s in both))


def main() -> None:
    parser = argparse.ArgumentParser(description="How long commands take that have little to do.")
    parser.add_argument("--rounds", type=int, default=5)
    run_part("start", "python benchmarks/bench_start.py", measure, parser.parse_args())


if __name__ == "__main__":
    main()
