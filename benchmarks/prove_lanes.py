"""Simulated questions with plans through the batch lanes of three imitated providers, killed again and again.

    python benchmarks/prove_lanes.py                       # 2,000 questions, 20 kills; or: make prove-lanes
    python benchmarks/prove_lanes.py --rows 200 --kills 4

The imitations (tests/support/providers/) have OpenAI's, Anthropic's and Gemini's forms, with live and batch endpoints
on one bill, and answer as simulated models do: the same prompt has the same answer live and by batch. `r2 answer` runs
as a user runs it, in a process of its own, and is killed with SIGKILL at moments drawn at random; between kills creates
lose their answers, polls fail, and jobs expire or have rows twice. Then the same questions are answered live.

Exits with 1 where a question is not there exactly once, an answer differs from the live run's, a job was created twice,
a row was paid that the live run did not ask, or asked less often, or the bill is not 0.50 to 0.52 of the live one. Live
calls that were on their way at a kill may be asked again; they are counted. Waiting times of the lanes are shortened
(seconds in the place of minutes): `child` is the command with these.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from r2.pool.simulated.mind import expected_skills  # noqa: E402
from r2.problems import arithmetic  # noqa: E402
from storage.sql.query import connect  # noqa: E402
from tests.support.providers.anthropic import Anthropic  # noqa: E402
from tests.support.providers.batch import Batches, Job, digest_of  # noqa: E402
from tests.support.providers.gemini import Gemini  # noqa: E402
from tests.support.providers.imitation import Imitation  # noqa: E402
from tests.support.providers.openai import OpenAI  # noqa: E402
from tests.support.providers.simulated import simulated  # noqa: E402

ABILITIES = {"gpt-4.1-mini": 2.0, "claude-haiku-4-5": 3.5, "gemini-2.5-flash": 5.0}
ENTRIES = (
    ("mini", OpenAI, "gpt-4.1-mini", "small"),
    ("haiku", Anthropic, "claude-haiku-4-5", "medium"),
    ("flash", Gemini, "gemini-2.5-flash", "large"),
)
JOB_FAULTS = ((), ("twice",), ("shuffled", "foreign"), (), ("expires",), ("cancelled",), ())
"""Of the jobs of a killed run, one after the other. None of them loses a row that was paid, so that every row must be
paid once; what an expired job of Gemini's has done is lost, so none expires there."""
REQUEST_FAULTS = ("create_reset", "poll_5xx", "download_breaks", "upload_breaks", "late_file", "create_5xx", "rate")
METHOD = "dot"
"""The default of `--method`: a plan, and every step sampled from the smallest model and asked of a stronger one where
the samples differ, so that waves of calls go to all three providers."""
MICRO_USD = Decimal("0.000001")
MOST_S = 1500.0


def write_questions(path: Path, n: int) -> None:
    """Expressions of several operations, no two alike."""
    rows, seen = [], set()
    for problem in arithmetic.generate(4 * n, seed=11):
        if problem.question not in seen and len(rows) < n:
            seen.add(problem.question)
            row = {"id": problem.problem_id, "question": problem.question, "answer": problem.target}
            rows.append(json.dumps({**row, "benchmark": problem.benchmark}))
    path.write_text("\n".join(rows) + "\n", "utf-8")


def pool_text(servers: dict[str, Imitation], lane: str) -> str:
    tables = ['[router]\ndecomposer = "haiku"\nallocator = "haiku"\nfinalizer = "last_step"\n']
    for name, _, model, tier in ENTRIES:
        skills = ", ".join(f"{skill} = {min(0.99, p):.2f}" for skill, p in expected_skills(ABILITIES[model]).items())
        lines = {
            "profile": f"{{{skills}, plan = 0.99}}",
            "guided": "false",
            "logprobs": "false",
            "lane": json.dumps(lane),
        }
        if name == "flash":
            lines["reasoning_effort"] = '"none"'
        tables.append(servers[name].entry(name, model, tier=tier, key_env=f"KEY_{name.upper()}", **lines))
    return "\n".join(tables)


def started() -> dict[str, Imitation]:
    return {name: make(answers=simulated(ABILITIES)) for name, make, *_ in ENTRIES}


async def answered(
    folder: Path, servers: dict[str, Imitation], lane: str, n_kills: int, chance: random.Random, method: str
) -> int:
    """Runs the command until it ends by itself; how many times it was killed."""
    (folder / "pool.toml").write_text(pool_text(servers, lane), "utf-8")
    command = ("answer", "rows.jsonl", "--pool", "pool.toml", "--lake", "lake", "--out", "answers.jsonl")
    keys = {f"KEY_{name.upper()}": server.key for name, server in servers.items()}
    own = {"R2_STATE_DIR": str(folder / "state"), "PYTHONPATH": str(ROOT)}
    killed = 0
    with (folder / "said.txt").open("ab") as said:
        while True:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, __file__, "child", *command, "--method", method),
                cwd=folder,
                env={**os.environ, **keys, **own},
                stdout=said,
                stderr=said,
            )
            wait_s = chance.uniform(5.0, 18.0) if killed < n_kills else MOST_S
            try:
                code = await asyncio.wait_for(process.wait(), wait_s)
            except TimeoutError:
                if killed >= n_kills:
                    process.send_signal(signal.SIGKILL)
                    await process.wait()
                    raise RuntimeError(f"no end after {MOST_S:.0f} s; see {folder}/said.txt") from None
                process.send_signal(signal.SIGKILL)
                await process.wait()
                killed += 1
                continue
            if code not in (0, 1):
                raise RuntimeError(f"exit code {code}; see {folder}/said.txt")
            return killed


async def trouble(servers: dict[str, Imitation], stop: asyncio.Event, chance: random.Random) -> None:
    """Failures of jobs and requests, as long as the run is killed."""
    for server in servers.values():
        for faults in JOB_FAULTS * 3:
            _batches(server).fail_job(*(set(faults) - {"expires"} if isinstance(server, Gemini) else faults))
    while not stop.is_set():
        server = chance.choice(list(servers.values()))
        _batches(server).fail_request(chance.choice(REQUEST_FAULTS))
        await asyncio.sleep(chance.uniform(0.5, 3.0))


async def prove(n: int, n_kills: int, folder: Path, seed: int, method: str) -> int:
    chance = random.Random(seed)
    results = {}
    for lane in ("batch", "live"):
        at = folder / lane
        at.mkdir()
        write_questions(at / "rows.jsonl", n)
        servers = started()
        began = time.monotonic()
        for server in servers.values():
            await server.__aenter__()
            _batches(server).terms.run_s = 5.0 if n_kills else 1.0
        stop = asyncio.Event()
        work = [asyncio.create_task(trouble(servers, stop, chance))] if lane == "batch" and n_kills else []
        try:
            killed = await answered(at, servers, lane, n_kills if lane == "batch" else 0, chance, method)
        finally:
            stop.set()
            await asyncio.gather(*work)
            for server in servers.values():
                await server.__aexit__()
        results[lane] = (at, servers, killed, time.monotonic() - began)
    if results["batch"][2] < n_kills:
        print(f"only {results['batch'][2]} of {n_kills} kills: the run ended before; give it more rows")
        return 1
    return report(n, results)


def report(n: int, results: dict[str, tuple[Path, dict[str, Imitation], int, float]]) -> int:
    """Prints what was answered and billed; 1 where anything is wrong."""
    console, wrong = Console(width=140), []
    answers = {lane: _answers(at) for lane, (at, *_) in results.items()}
    for lane, rows in answers.items():
        ids = Counter(row["id"] for row in rows)
        if len(ids) != n or max(ids.values()) > 1:
            wrong.append(f"{lane}: {len(rows)} answers to {n} questions, {len(ids)} of them different")
    by_id = {lane: {row["id"]: row.get("answer") for row in rows} for lane, rows in answers.items()}
    n_other = sum(by_id["batch"].get(key) != answer for key, answer in by_id["live"].items())
    if n_other:
        wrong.append(f"{n_other} answers differ from the live run's")
    table = Table(
        "lane", "killed", "s", "jobs", "rows paid", "live calls", "bill, USD", "of it live", "our ledger, USD"
    )
    bills = {}
    for lane, (at, servers, killed, wall_s) in results.items():
        bills[lane] = bill = sum((server.bill_usd for server in servers.values()), Decimal(0))
        batch = sum((_batches(server).billed_usd for server in servers.values()), Decimal(0))
        n_rows = sum(len(_batches(server).ledger) for server in servers.values())
        n_jobs = sum(len(_batches(server).jobs) for server in servers.values())
        n_live = sum(_live_calls(server).total() for server in servers.values())
        ledger = _ledger(at / "lake")
        figures = (str(n_jobs), str(n_rows), str(n_live), f"{bill:.6f}", f"{bill - batch:.6f}", f"{ledger:.6f}")
        table.add_row(lane, str(killed), f"{wall_s:.0f}", *figures)
        if abs(ledger - bill) > MICRO_USD and not killed:
            wrong.append(f"{lane}: our ledger {ledger:.6f} and their bill {bill:.6f} differ")
        for name, server in servers.items():
            jobs = Counter(_our_id(job) for job in _batches(server).jobs.values() if job.ending != "failed")
            if more := [key for key, times in jobs.items() if key and times > 1]:
                wrong.append(f"{lane}: {name} has {len(more)} jobs twice: {more[:3]}")
    console.print(table)
    for name, server in results["batch"][1].items():
        expected = _live_calls(results["live"][1][name])
        by_batch = Counter(charge.request for charge in _batches(server).ledger)
        if more := by_batch - expected:
            wrong.append(f"{name}: {more.total()} rows were paid more often than the live run asked them")
        both = by_batch + _live_calls(server)
        if missing := expected - both:
            wrong.append(f"{name}: {missing.total()} requests of the live run were not paid at all")
        if again := both - expected:
            console.print(f"{name}: {again.total()} live calls were on their way at a kill, and were asked again")
    share = bills["batch"] / bills["live"]
    console.print(f"the bill is {share:.4f} of the live run's")
    if not Decimal("0.50") <= share.quantize(Decimal("0.0001")) <= Decimal("0.52"):
        wrong.append(f"the bill is {share:.4f} of the live run's, and not 0.50 to 0.52")
    for line in wrong:
        console.print(line, markup=False)
    console.print("all of it holds" if not wrong else f"{len(wrong)} things are wrong", style="bold")
    return int(bool(wrong))


def _batches(server: Imitation) -> Batches:
    assert server.batches is not None
    return server.batches


def _live_calls(server: Imitation) -> Counter[str]:
    """Digest of each live request that was billed, as the ledger of batches has them -> how often."""
    return Counter(digest_of(exchange.body) for exchange in server.requests if exchange.tokens is not None)


def _our_id(job: Job) -> str:
    """Our id of a job: every custom_id begins with it."""
    return job.rows[0][0][:16] if job.rows else ""


def _answers(at: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (at / "answers.jsonl").read_text("utf-8").splitlines()]


def _ledger(lake: Path) -> Decimal:
    with connect(lake) as db:
        [(usd,)] = db.execute("select sum(cost_usd::decimal(18, 12)) from calls").fetchall()
    return Decimal(usd)


class Quick:
    """A provider whose list of jobs is up to date at once, as the imitations' are."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self.limits = replace(provider.limits, listing_lag_s=0.2)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)


def child(arguments: list[str]) -> None:
    """The command, with lanes that wait seconds and not minutes."""
    from r2.pool.batch import opening

    opened = opening.open_provider

    def open_quick(*given: Any, **further: Any) -> Any:
        provider = opened(*given, **further)
        return None if provider is None else Quick(provider)

    times = replace(
        opening.TIMES,
        gather_s=0.3,
        poll_first_s=0.3,
        poll_most_s=1.0,
        retry_first_s=0.2,
        retry_most_s=1.0,
        queue_first_s=0.5,
        queue_most_s=2.0,
    )
    vars(opening).update(open_provider=open_quick, TIMES=times)
    sys.argv = ["r2", *arguments]
    from flows.cli import main as command

    command()


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default=METHOD, help="of r2 answer; start_steps asks a quarter as much")
    parser.add_argument("--keep", type=Path, help="a new folder for everything, which stays")
    given = parser.parse_args()
    if given.keep is not None:
        given.keep.mkdir(parents=True)
        sys.exit(asyncio.run(prove(given.rows, given.kills, given.keep, given.seed, given.method)))
    with tempfile.TemporaryDirectory(prefix="r2-lanes-") as folder:
        sys.exit(asyncio.run(prove(given.rows, given.kills, Path(folder), given.seed, given.method)))


if __name__ == "__main__":
    main()
