"""A run of `r2 answer` in this process, without Prefect, whose disk fails at each of its writes in turn, as a program:
`python -m benchmarks.torture.every_write HOW FOLDER FIRST STEP`, with `full` or `read_only` as HOW (`failing.py`).

The first run counts its writes; then, for each of them from FIRST on in steps of STEP, a run on a lake of its own fails
from that write on and is gone on with on a good disk. The last line is the row of what came of it, as JSON.
"""

import asyncio
import os
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import orjson
from aiohttp import web

from benchmarks.torture.failing import ARRANGED, Writes
from benchmarks.torture.figures import Row
from benchmarks.torture.world import (
    SIMULATED,
    CountingServer,
    Loop,
    World,
    check_lake,
    serve,
    settled,
    simulated_at,
    write_questions,
)
from r2.settings import AnswerSettings
from storage.lake.lake import Lake
from storage.runs.plan import read_plan
from tasks.answering.answer_rows import answer_rows
from tasks.answering.finish_run import finish_run
from tasks.answering.finished import finished_run
from tasks.answering.plan_file import plan_file
from tasks.answering.session import open_session
from tasks.cause import message
from tests.support.loopback import free_port

N = 8
"""Questions, in two shards."""
NEVER = 10**9
N_CORES = 2


def every_write(world: World, how: str) -> Row:
    """The program in two processes, one for each core, each with every second write; the row of both."""
    with ThreadPoolExecutor(N_CORES) as pool:
        first, *others = pool.map(lambda place: _part(world, how, place), range(1, N_CORES + 1))
    for other in others:
        for name in ("times", "lost", "twice", "in_flight"):
            setattr(first, name, getattr(first, name) + getattr(other, name))
        first.identity = first.identity and other.identity
        first.broken += other.broken
    return first


def _part(world: World, how: str, first: int) -> Row:
    folder = world.fresh(f"every write {how} {first}")
    words = [how, str(folder), str(first), str(N_CORES)]
    ended = world.run([sys.executable, "-m", "benchmarks.torture.every_write", *words], folder)
    if ended.code != 0:
        raise RuntimeError(f"it ended with {ended.code}: {ended.said[-600:]}")
    return Row(**orjson.loads(ended.said.strip().splitlines()[-1]))


def tried(how: str, folder: Path, first: int, step: int) -> Row:
    """A trial for each of these writes."""
    number, word, fail = ARRANGED[how]
    (folder / "unharmed").mkdir()
    writes = Writes(number, NEVER, folder / "unharmed" / "lake")
    fail(writes)
    row = Row(f"disk {how}, every write", f"disk {how.replace('_', '-')} from each write on, in one process", times=0)
    server, port = CountingServer(time_scale=0.0), free_port()
    with Loop() as loop:
        runner: web.AppRunner = loop.call(serve(server, port))
        (folder / "pool.toml").write_text(simulated_at(SIMULATED.read_text("utf-8"), port), "utf-8")
        write_questions(folder / "q.jsonl", N)
        answered(settings_in(folder, "unharmed"))
        expected, whole = Counter(server.paid), settled(folder / "unharmed" / "lake")
        for place in range(first, writes.n + 1, step):
            settings = settings_in(folder, "harmed")
            before, bill_usd = Counter(server.paid), server.bill_usd
            writes.aim(place, folder / "harmed" / "lake")
            try:
                answered(settings)
            except Exception as error:
                row.times += 1
                said = message(error)
                row.needs(word in said.lower(), f"write {place}: nothing of {word!r} in {said!r}")
            writes.aim(NEVER, folder / "harmed" / "lake")
            answered(settings)
            row.twice += (server.paid - before - expected).total()
            check_lake(row, folder / "harmed" / "lake", N, server.bill_usd - bill_usd)
            row.needs(settled(folder / "harmed" / "lake") == whole, f"write {place}: other rows than unharmed")
            shutil.rmtree(folder / "harmed")
        loop.call(runner.cleanup())
    return row


def settings_in(folder: Path, name: str) -> AnswerSettings:
    (folder / name).mkdir(exist_ok=True)
    reasoning = {"method": "cot", "model": "sim-4b"}
    places = {"input": folder / "q.jsonl", "pool": folder / "pool.toml", "lake": folder / name / "lake"}
    places["out"] = folder / name / "answers.jsonl"
    words = {key: str(path) for key, path in places.items()}
    return AnswerSettings.model_validate({**words, "shard_size": N // 2, "reasoning": reasoning})


def answered(settings: AnswerSettings) -> None:
    """As `r2 answer` does it: a finished run is told again, another one goes on."""
    if finished_run(settings) is None:
        asyncio.run(_gone_on(settings))


async def _gone_on(settings: AnswerSettings) -> None:
    run_dir = plan_file(settings)
    plan = read_plan(run_dir, settings)
    with Lake(settings.lake).run_lock(plan.run_id):
        async with open_session(plan) as session:
            for shard in session.left():
                await answer_rows(session, shard)
        finish_run(run_dir, session.progress, settings.out)


def main() -> None:
    how, folder, first, step = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    os.environ["R2_STATE_DIR"] = str(folder / "state")
    sys.stdout.write("\n" + orjson.dumps(asdict(tried(how, folder, first, step))).decode() + "\n")


if __name__ == "__main__":
    main()
