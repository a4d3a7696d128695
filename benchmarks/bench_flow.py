"""The whole flow on simulated models: questions per second, CPU, memory, growth, and where the CPU goes.

    python benchmarks/bench_flow.py                    questions per second of two methods, without Prefect and with it
    python benchmarks/bench_flow.py growth             1,000 to 1,000,000 questions: memory, time, growth exponent
    python benchmarks/bench_flow.py profile            py-spy over a run without Prefect (needs py-spy on PATH)

The simulated models answer without their latencies: what is measured is the work, not the waiting. Their server runs
beside the client on the same machine, so both share its cores. Every run has a process and a lake of its own. "Without
Prefect" calls the flow's steps directly; "with Prefect" is the flow, and its API, which also runs beside it, is up
before the clock starts.
"""

import argparse
import asyncio
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit

from benchmarks.figures import ROOT, Part, at_least, at_most, memory_mb, say
from benchmarks.run_part import run_part

LEAST_PER_S = 1200
MOST_GROWTH_MB = 60
MOST_EXPONENT = 1.05
GROWTH = (1_000, 10_000, 100_000, 1_000_000)
QUESTIONS = {"cot": 10_000, "r2": 3_000}
KINDS = {"plain": "without Prefect", "prefect": "with Prefect"}


def measure(part: Part, options: argparse.Namespace) -> None:
    """Questions per second and CPU of `cot` and `r2`, with Prefect and without it, in turns."""
    sizes = {method: n // 10 if options.small else n for method, n in QUESTIONS.items()}
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    with _folder() as folder:
        for _ in range(options.rounds):
            for method, n in sizes.items():
                for kind in KINDS:
                    runs.setdefault((method, kind), []).append(run_once(kind, n, folder, method))
    for (method, kind), facts in runs.items():
        n = sizes[method]
        who = f"r2 answer --method {method}, {KINDS[kind]}"
        bar = at_least(LEAST_PER_S) if (method, kind) == ("cot", "plain") else None
        part.add("questions per second", who, "questions/s", (n / one["wall_s"] for one in facts), bar)
        part.add("client CPU per call", who, "us", (1e6 * one["cpu_s"] / one["n_calls"] for one in facts))
        part.add("client CPU per question", who, "us", (1e6 * one["cpu_s"] / n for one in facts))
        part.add("simulated server's CPU per call", who, "us", (1e6 * one["child_s"] / one["n_calls"] for one in facts))


def measure_growth(part: Part, options: argparse.Namespace) -> None:
    """Memory and time of `cot` by the number of questions, and how time grows."""
    sizes = GROWTH[:2] if options.small else GROWTH
    who = "r2 answer --method cot, with Prefect"
    runs: dict[int, dict[str, float]] = {}
    with _folder() as folder:
        for n in sizes:
            runs[n] = run_once("prefect", n, folder, "cot")
            say(f"growth: {n:,} questions: {runs[n]}")
    for n, facts in runs.items():
        part.add(f"{n:,} questions: peak memory", who, "MB", facts["rss_mb"])
        part.add(f"{n:,} questions: rate", who, "questions/s", n / facts["wall_s"])
        part.add(f"{n:,} questions: client CPU per question", who, "us", 1e6 * facts["cpu_s"] / n)
    first, last = (10_000, sizes[-1]) if len(sizes) > 2 else sizes
    grown = runs[last]["rss_mb"] - runs[first]["rss_mb"]
    part.add(f"memory, {first:,} to {last:,} questions", who, "MB more", grown, at_most(MOST_GROWTH_MB))
    over = f"exponent of {sizes[0]:,} to {sizes[-1]:,} questions"
    part.add(f"clock: {over}", who, "", exponent({n: one["wall_s"] for n, one in runs.items()}), at_most(MOST_EXPONENT))
    cpu = exponent({n: one["cpu_s"] for n, one in runs.items()})
    part.add(f"client CPU: {over}", who, "", cpu, at_most(MOST_EXPONENT))


def exponent(seconds_of: Mapping[int, float]) -> float:
    """The slope of log seconds over log n, by least squares: 1 where twice the questions take twice the time."""
    points = [(math.log(n), math.log(seconds)) for n, seconds in seconds_of.items()]
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bench-flow-")


def pool_without_latency(folder: Path) -> str:
    """A copy of the simulated pool whose models answer at once."""
    copy = folder / "pool.toml"
    if not copy.exists():
        document = tomlkit.parse((ROOT / "pools" / "simulated.toml").read_text("utf-8"))
        for model in document["models"].values():  # type: ignore[union-attr]
            model["simulated"].update({"ttft_s": 0.0, "tokens_per_s": 1e9})
        copy.write_text(tomlkit.dumps(document), "utf-8")
    return str(copy)


def write_questions(path: Path, n: int) -> None:
    from r2.problems import arithmetic

    with path.open("w", encoding="utf-8") as file:
        for p in arithmetic.generate(n, seed=3):
            row = {"id": p.problem_id, "question": p.question, "answer": p.target, "benchmark": p.benchmark}
            file.write(json.dumps(row) + "\n")


def settings_for(folder: Path, n: int, method: str) -> Any:
    from r2.settings import AnswerSettings, Reasoning

    lake = tempfile.mkdtemp(prefix="lake-", dir=folder)
    return AnswerSettings(
        input=str(folder / f"q{n}.jsonl"),
        pool=pool_without_latency(folder),
        lake=lake,
        out=str(Path(lake) / "answers.jsonl"),
        reasoning=Reasoning(method=method),
    )


async def without_prefect(settings: Any) -> int:
    """The flow's steps, called directly: the same plan, session, shards in flight and closing. Returns the calls."""
    from r2.pool.file.config import load_pool
    from storage.lake.lake import Lake
    from storage.runs.answers import write_answers
    from storage.runs.plan import plan_run
    from tasks.answering.answer_rows import answer_rows
    from tasks.answering.finish_run import close_session
    from tasks.answering.session import open_session

    plan = plan_run(settings, load_pool(settings.pool).digest)
    async with open_session(plan) as session:
        gate = asyncio.Semaphore(settings.shards_in_flight)

        async def answer(index: int) -> None:
            async with gate:
                await answer_rows(session, index)

        async with asyncio.TaskGroup() as shards:
            for shard in session.open_shards():
                shards.create_task(answer(shard.index))
        progress = session.progress
    summary = close_session(plan.run_dir, progress)
    write_answers(plan, Lake(settings.lake), Path(settings.out))
    return summary.n_calls


def run_once(kind: str, n: int, folder: str, method: str) -> dict[str, float]:
    """One run in a fresh process: seconds of the run, CPU seconds and peak RSS of this process, CPU seconds of the
    children that ended in the run, and the calls made. The questions are written before the process starts."""
    questions = Path(folder) / f"q{n}.jsonl"
    if not questions.exists():
        write_questions(questions, n)
    command = [sys.executable, "-m", "benchmarks.bench_flow", "run", kind, str(n), folder, method]
    env = {
        **os.environ,
        "R2_STATE_DIR": str(Path(folder) / "state"),
        "PREFECT_HOME": str(Path(folder) / "prefect"),
        "PREFECT_LOGGING_LEVEL": "ERROR",
    }
    env.pop("PREFECT_API_URL", None)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    facts: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return facts


def measured(kind: str, n: int, folder: str, method: str) -> None:
    """What `run_once` runs: prints its facts as JSON."""
    import uvloop

    from flows.answer_questions import answer_questions  # before the clock starts, in both kinds
    from flows.support.embedded_api import embedded_api

    settings = settings_for(Path(folder), n, method)
    if kind == "plain":
        clock = _Clock()
        n_calls = uvloop.run(without_prefect(settings))
        facts = clock.facts()
    else:
        with embedded_api():
            clock = _Clock()
            n_calls = uvloop.run(answer_questions(settings)).summary.n_calls
            facts = clock.facts()
    shutil.rmtree(settings.lake)
    print(json.dumps({**facts, "n_calls": n_calls}))


class _Clock:
    """Counts from when it was made. Children count once they have ended, as the simulated models' server has by
    then."""

    def __init__(self) -> None:
        self._at, self._own, self._children = time.perf_counter(), _cpu_s("SELF"), _cpu_s("CHILDREN")

    def facts(self) -> dict[str, float]:
        return {
            "wall_s": time.perf_counter() - self._at,
            "cpu_s": _cpu_s("SELF") - self._own,
            "child_s": _cpu_s("CHILDREN") - self._children,
            "rss_mb": memory_mb()[1],
        }


def _cpu_s(whose: str) -> float:
    used = resource.getrusage(getattr(resource, f"RUSAGE_{whose}"))
    return used.ru_utime + used.ru_stime


def profile(n: int, method: str) -> None:
    """Where the client's Python goes: own time by package, and the functions that have most of it. Only the thread that
    holds the interpreter counts, so that neither waiting for a disk nor for a server is in it."""
    with _folder() as folder:
        write_questions(Path(folder) / f"q{n}.jsonl", n)
        out = Path(folder) / "profile.txt"
        spy = ["py-spy", "record", "--gil", "--function", "--rate", "200", "--format", "raw", "--output", str(out)]
        ran = [sys.executable, "-m", "benchmarks.bench_flow", "run", "plain", str(n), folder, method]
        subprocess.run([*spy, "--", *ran], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        stacks = [line.rsplit(" ", 1) for line in out.read_text("utf-8").splitlines()]
    by_place: Counter[str] = Counter()
    by_function: Counter[str] = Counter()
    for stack, count in stacks:
        own = stack.split(";")[-1]
        by_function[own] += int(count)
        by_place[_place(own)] += int(count)
    total = by_place.total()
    for counts, most in ((by_place, 20), (by_function, 25)):
        for name, count in counts.most_common(most):
            print(f"{count / total:6.1%}  {name}")
        print()


def _place(frame: str) -> str:
    """`r2/pool`, `storage/runs`, `aiohttp` of a frame `name (path)`."""
    path = frame.rpartition("(")[2].removesuffix(")")
    folders = path.split("/")
    return "/".join(folders[:2]) if folders[0] in ("r2", "storage", "tasks", "flows") else folders[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="The whole flow on simulated models.")
    parser.add_argument("what", choices=["flow", "growth", "profile", "run"], default="flow", nargs="?")
    parser.add_argument("given", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="fewer questions")
    parser.add_argument("--n", type=int, default=10_000, help="questions that are profiled")
    parser.add_argument("--method", default="cot", help="method that is profiled")
    chosen = parser.parse_args()
    if chosen.what == "run":
        kind, n, folder, method = chosen.given
        measured(kind, int(n), folder, method)
    elif chosen.what == "profile":
        profile(chosen.n, chosen.method)
    else:
        command = f"python benchmarks/bench_flow.py{' growth' if chosen.what == 'growth' else ''}"
        run_part(chosen.what, command, measure if chosen.what == "flow" else measure_growth, chosen)


if __name__ == "__main__":
    main()
