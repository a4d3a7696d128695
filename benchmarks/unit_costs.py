"""The unit costs behind docs/scale.md, measured here and now, and the day of 100 million questions that follows.

    python benchmarks/unit_costs.py [--questions 3000] [--rounds 1] [--write docs/scale.md]

Questions of arithmetic on the simulated pool without its latencies, method r2, in shards of 1,000: what is measured is
the work, not the waiting. CPU is of this process alone; the simulated server is another. PostgreSQL is started where
its programs are installed. Two minutes on two cores.
"""

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import tomlkit
import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bench_client import REPLY  # noqa: E402
from benchmarks.figures import memory_mb  # noqa: E402
from benchmarks.scale_model import UnitCosts, printed, write_into  # noqa: E402
from deploy.stack_postgres import Postgres  # noqa: E402
from deploy.stack_programs import StackError  # noqa: E402
from r2.call import Attempt, Completion  # noqa: E402
from r2.ledger import Usage  # noqa: E402
from r2.problems import arithmetic  # noqa: E402
from r2.settings import AnswerSettings  # noqa: E402
from storage.lake.lake import Lake  # noqa: E402
from storage.runs.journal import Journal  # noqa: E402
from storage.runs.plan import read_plan  # noqa: E402
from storage.sql.query import connect  # noqa: E402
from tasks.answering.answer_rows import answer_rows  # noqa: E402
from tasks.answering.plan_file import plan_file  # noqa: E402
from tasks.answering.session import open_session  # noqa: E402

SHARD = 1000
CLAIM = """update shards set owner = 'me', until = now() + interval '60 s', token = token + 1 where idx = (
  select idx from shards where until is null order by idx limit 1 for update skip locked) returning idx, token"""


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def pool_without_latency(folder: Path) -> Path:
    document = tomlkit.parse((ROOT / "pools/simulated.toml").read_text("utf-8"))
    for model in document["models"].values():  # type: ignore[union-attr]
        model["simulated"].update({"ttft_s": 0.0, "tokens_per_s": 1e9})
    path = folder / "pool.toml"
    path.write_text(tomlkit.dumps(document), "utf-8")
    return path


async def answered(settings: AnswerSettings) -> float:
    """CPU seconds of a whole run but its plan."""
    plan = read_plan(plan_file(settings), settings)
    before = cpu_s()
    async with open_session(plan) as session:
        for shard in list(session.open_shards()):
            await answer_rows(session, shard.index)
    return cpu_s() - before


def lake_size(lake: Path) -> tuple[int, int]:
    """(files, bytes) of tables and manifest."""
    folders = [path for path in lake.iterdir() if path.is_dir() and path.name != "runs"]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return len(files), sum(file.stat().st_size for file in files)


async def journalled(path: Path, n: int) -> tuple[float, int]:
    """(calls a second, bytes a call) of durable commits, 64 at once."""
    usage = Usage(170, 0, 120)
    attempt = Attempt("small", 0, 200, time.time(), 0.5, usage=usage, raw_body=REPLY)
    body = Completion("18 44 67 ".ljust(440, "4"), "small", (attempt,)).to_bytes("0" * 64)
    with Journal.open(path) as journal:

        async def worker(first: int) -> None:
            for number in range(first, n, 64):
                key = f"{number:032x}"
                journal.begin(key, 0.001)
                await journal.commit(key, body)

        began = time.perf_counter()
        await asyncio.gather(*(worker(first) for first in range(64)))
        seconds = time.perf_counter() - began
    return n / seconds, path.stat().st_size // n


async def claimed(url: str, n: int) -> float:
    """Shards claimed a second over one connection, each claim committed and durable."""
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute("create table shards (idx int primary key, owner text, until timestamptz, token int)")
        await connection.execute(f"insert into shards select g, null, null, 0 from generate_series(1, {n}) g")
        began = time.perf_counter()
        for _ in range(n):
            assert await connection.fetchrow(CLAIM) is not None
        return n / (time.perf_counter() - began)
    finally:
        await connection.close()


def claims_per_s(folder: Path) -> float:
    """0 where PostgreSQL is not installed."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    try:
        postgres = Postgres(Postgres.folder_for(folder), port, "of-a-benchmark")
        postgres.start(60)
    except StackError as error:
        print(f"PostgreSQL: not measured ({error})", file=sys.stderr)
        return 0.0
    try:
        return asyncio.run(claimed(postgres.url("postgres"), 1000))
    finally:
        postgres.stop()


def measured(n: int) -> UnitCosts:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        questions = folder / "q.jsonl"
        rows = [
            {"id": p.problem_id, "question": p.question, "benchmark": p.benchmark} for p in arithmetic.generate(n, 3)
        ]
        questions.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        settings = AnswerSettings(
            input=str(questions),
            pool=str(pool_without_latency(folder)),
            lake=str(folder / "lake"),
            out=str(folder / "answers.jsonl"),
            shard_size=SHARD,
        )
        run_cpu_s = uvloop.run(answered(settings))
        process_mb = memory_mb()[1]
        n_files, fresh_bytes = lake_size(folder / "lake")
        with connect(folder / "lake") as db:
            totals = db.execute(
                "select count(*), sum(input_tokens), sum(output_tokens), sum(cost_usd) from calls"
            ).fetchone()
        assert totals is not None
        lake, before = Lake(folder / "lake"), cpu_s()
        [run_id] = lake.manifest.run_ids()
        lake.compact(run_id)
        compaction_s = cpu_s() - before
        lake.vacuum(older_than_hours=0)
        _, lake_bytes = lake_size(folder / "lake")
        journal_per_s, journal_bytes = uvloop.run(journalled(folder / "journal", 6400))
        return UnitCosts(
            *(float(total) / n for total in totals),
            cpu_ms=run_cpu_s / n * 1000,
            process_mb=process_mb,
            files_per_shard=n_files / -(-n // SHARD),
            fresh_bytes=fresh_bytes / n,
            lake_bytes=lake_bytes / n,
            compaction_cpu_ms=compaction_s / n * 1000,
            journal_calls_per_s=journal_per_s,
            journal_bytes=journal_bytes,
            claims_per_s=claims_per_s(folder),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--write", type=Path, help="page whose tables are written anew")
    options = parser.parse_args()
    costs = [measured(options.questions) for _ in range(options.rounds)]
    print(printed(costs))
    if options.write is not None:
        write_into(options.write, costs[0])


if __name__ == "__main__":
    main()
