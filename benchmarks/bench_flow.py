"""The whole flow on simulated models: memory, questions per second, where the CPU goes, and Prefect's share.

    python benchmarks/bench_flow.py memory             RSS of 10,000 and 100,000 questions, each in a process of its own
    python benchmarks/bench_flow.py prefect            10,000 questions with Prefect and without it, interleaved, median
    of 5 python benchmarks/bench_flow.py profile            py-spy over a run of 10,000 questions (needs py-spy on PATH)

The simulated models of the pool answer without their latencies: what is measured is the work, not the waiting. Their
server runs beside the client on the same machine, so both share its cores.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tomlkit

ROOT = Path(__file__).parent.parent
TARGET_RSS_GROWTH_MB = 60
TARGET_PREFECT_SHARE = 0.02


def without_latency(pool: Path, folder: Path) -> str:
    """A copy of the pool file whose simulated models answer at once."""
    document = tomlkit.parse(pool.read_text("utf-8"))
    for table in document["models"].values():
        table["simulated"].update({"ttft_s": 0.0, "tokens_per_s": 1e9})
    copy = folder / "pool.toml"
    copy.write_text(tomlkit.dumps(document), "utf-8")
    return str(copy)


def write_questions(path: Path, n: int) -> None:
    from r2.problems import arithmetic

    with path.open("w", encoding="utf-8") as file:
        for p in arithmetic.generate(n, seed=3):
            file.write(
                json.dumps({"id": p.problem_id, "question": p.question, "answer": p.target, "benchmark": p.benchmark})
                + "\n"
            )


def settings_for(folder: Path, n: int, pool: str) -> "object":
    from r2.settings import AnswerSettings

    questions = folder / f"q{n}.jsonl"
    if not questions.exists():
        write_questions(questions, n)
    lake = tempfile.mkdtemp(prefix="lake-", dir=folder)
    return AnswerSettings(input=str(questions), pool=pool, lake=lake, out=str(Path(lake) / "answers.jsonl"))


async def without_prefect(settings: "object") -> None:
    """The flow's steps, called directly: the same plan, session, shards in flight and closing."""
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
    close_session(plan.run_dir, progress)
    write_answers(plan, Lake(settings.lake), Path(settings.out))


def run_once(kind: str, n: int, folder: Path, pool: str) -> dict[str, float]:
    """One run in a fresh process: wall seconds of the run, of Prefect's start, CPU seconds and peak RSS of this
    process."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import bench_flow; "
        f"bench_flow.measured({kind!r}, {n}, {str(folder)!r}, {pool!r})"
    )
    env = {**os.environ, "R2_STATE_DIR": str(folder / "state"), "PREFECT_HOME": str(folder / "prefect")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=env,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def measured(kind: str, n: int, folder: str, pool: str) -> None:
    from flows.answer_questions import answer_questions  # before the clock starts, in both kinds
    from flows.support.embedded_api import embedded_api

    settings = settings_for(Path(folder), n, pool)
    started = time.perf_counter()
    start_s = 0.0
    if kind == "plain":
        asyncio.run(without_prefect(settings))
        wall_s = time.perf_counter() - started
    else:
        with embedded_api():
            start_s = time.perf_counter() - started
            began = time.perf_counter()
            asyncio.run(answer_questions(settings))
            wall_s = time.perf_counter() - began
    use = resource.getrusage(resource.RUSAGE_SELF)
    shutil.rmtree(settings.lake)
    print(
        json.dumps(
            {"wall_s": wall_s, "start_s": start_s, "cpu_s": use.ru_utime + use.ru_stime, "rss_mb": use.ru_maxrss / 1024}
        )
    )


def memory(folder: Path, pool: str) -> None:
    peaks = {}
    for n in (10_000, 100_000):
        facts = run_once("prefect", n, folder, pool)
        peaks[n] = facts["rss_mb"]
        print(
            f"{n:>7} questions: peak RSS {facts['rss_mb']:.0f} MB, {n / facts['wall_s']:.0f} questions/s, client CPU "
            f"{1000 * facts['cpu_s'] / n:.2f} ms a question",
            flush=True,
        )
    growth = peaks[100_000] - peaks[10_000]
    print(
        f"growth {growth:.0f} MB (target: at most {TARGET_RSS_GROWTH_MB}): "
        f"{'PASS' if growth <= TARGET_RSS_GROWTH_MB else 'MISS'}"
    )


def prefect_share(folder: Path, pool: str, n: int, rounds: int) -> None:
    walls: dict[str, list[float]] = {"plain": [], "prefect": []}
    starts = []
    for _ in range(rounds):
        for kind in ("plain", "prefect"):
            facts = run_once(kind, n, folder, pool)
            walls[kind].append(facts["wall_s"])
            if kind == "prefect":
                starts.append(facts["start_s"])
            print(f"{kind:>8}: {facts['wall_s']:.1f} s", flush=True)
    plain, prefect = (statistics.median(walls[kind]) for kind in ("plain", "prefect"))
    share = (prefect - plain) / prefect
    print(
        f"{n} questions, median of {rounds}: without Prefect {plain:.1f} s, with {prefect:.1f} s; Prefect's share "
        f"{share:.1%}"
    )
    print(f"start of the embedded API, once per command and none with a server: {statistics.median(starts):.1f} s")
    print(
        f"target: under {TARGET_PREFECT_SHARE:.0%} of the run's wall time: "
        f"{'PASS' if share < TARGET_PREFECT_SHARE else 'MISS'}"
    )


def profile(folder: Path, pool: str, n: int) -> None:
    """Top functions by own time, as py-spy sees them."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import bench_flow; "
        f"bench_flow.measured('plain', {n}, {str(folder)!r}, {pool!r})"
    )
    out = folder / "profile.txt"
    subprocess.run(
        ["py-spy", "record", "--format", "raw", "--output", str(out), "--", sys.executable, "-c", code],
        check=True,
        cwd=ROOT,
    )
    own: dict[str, int] = {}
    for line in out.read_text("utf-8").splitlines():
        stack, count = line.rsplit(" ", 1)
        own[stack.split(";")[-1]] = own.get(stack.split(";")[-1], 0) + int(count)
    total = sum(own.values())
    for name, count in sorted(own.items(), key=lambda item: -item[1])[:25]:
        print(f"{count / total:6.1%}  {name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "prefect", "profile", "all"], default="all", nargs="?")
    parser.add_argument("--pool", default=str(ROOT / "pools" / "simulated.toml"))
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen.pool = without_latency(Path(chosen.pool), Path(folder))
        if chosen.what in ("memory", "all"):
            memory(Path(folder), chosen.pool)
        if chosen.what in ("prefect", "all"):
            prefect_share(Path(folder), chosen.pool, chosen.n, chosen.rounds)
        if chosen.what == "profile":
            profile(Path(folder), chosen.pool, chosen.n)
