"""What every scenario works in: a provider that outlives the commands and counts what it was paid for, a Prefect API,
folders, commands, and the check of a lake's accounts."""

import asyncio
import json
import logging
import os
import random
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from aiohttp import web

from benchmarks.torture.figures import Row
from r2.lifeline import end, spawn
from r2.pool.file.config import load_pool
from r2.pool.simulated.server import Conditions, ServedRequest, SimulatedServer
from r2.problems import arithmetic
from storage.sql.query import connect
from tests.support.loopback import free_port
from tests.support.paths import ROOT

SIMULATED = ROOT / "pools/simulated.toml"
R2 = [sys.executable, "-m", "flows.cli"]
LONGEST_S = 900.0
"""Of one command, on a machine that does other things too."""
VIEWS = ("reconcile_cost", "reconcile_tokens", "reconcile_counts", "reconcile_duplicates")
Result = TypeVar("Result")


class CountingServer(SimulatedServer):
    """The simulated models, with a bill: every answer is billed once it is computed, whoever is left to hear it."""

    def __init__(self, time_scale: float = 1.0) -> None:
        pool = load_pool(SIMULATED)
        super().__init__(pool, Conditions(time_scale=time_scale))
        self._prices = {name: pool.price(name) for name in pool.models}
        self.paid: Counter[bytes] = Counter()
        self.bill_usd = 0.0
        self.n_open = 0
        self._ended_at: deque[float] = deque(maxlen=10_000)

    async def _answer(self, request: web.Request, exchange: ServedRequest, reply: dict[str, Any]) -> web.StreamResponse:
        self.n_open += 1
        try:
            return await super()._answer(request, exchange, reply)
        finally:
            self.n_open -= 1
            self._ended_at.append(time.monotonic())
            if exchange.status == 200:
                price = self._prices[exchange.model]
                self.paid[exchange.key] += 1
                self.bill_usd += (exchange.input_tokens * price.input + exchange.output_tokens * price.output) / 1e6

    def in_flight(self, within_s: float = 0.5) -> int:
        """Requests that are worked on, or whose answers left less than so long ago: the client may not have stored
        them."""
        return self.n_open + sum(at > time.monotonic() - within_s for at in self._ended_at)

    @property
    def n_requests(self) -> int:
        return sum(counts["requests"] for counts in self.counts.values())


class Loop:
    """An event loop in a thread of its own, for servers."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def call(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, what it said, and the most memory that it took itself."""

    code: int
    said: str
    wall_s: float
    peak_mb: int


class World:
    """Everything of one torture. `chance` draws all moments, so that a seed repeats them as far as a clock can."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance, self.loop = folder, random.Random(seed), Loop()
        self.port = free_port()
        self.server = CountingServer()
        self._runner: web.AppRunner | None = None
        self._expected: dict[tuple[int, int], Counter[bytes]] = {}

    def __enter__(self) -> Self:
        self.loop.__enter__()
        self.open_server()
        self._api_port = free_port()
        (self.folder / "api").mkdir()
        command = [sys.executable, "-m", "flows.support.embedded_api", "--port", str(self._api_port)]
        env = {**os.environ, "PREFECT_HOME": str(self.folder / "api"), "PYTHONPATH": str(ROOT)}
        self._api = spawn(command, log=self.folder / "api.log", env=env)
        deadline = time.monotonic() + 180
        while not self._is_healthy():
            if self._api.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Prefect's API does not come up; see {self.folder / 'api.log'}")
            time.sleep(0.1)
        return self

    def __exit__(self, *exc: object) -> None:
        end(self._api)
        self.close_server()
        self.loop.__exit__()

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._api_port}/api/health", timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def open_server(self) -> None:
        """Serves, at the same address each time, with the same counts."""
        self._runner = self.loop.call(serve(self.server, self.port))

    def close_server(self) -> None:
        if self._runner is not None:
            self.loop.call(self._runner.cleanup())
            self._runner = None

    def fresh(self, name: str) -> Path:
        """A new folder with a pool file of the counting server."""
        folder = self.folder / name.replace(" ", "-")
        folder.mkdir()
        (folder / "pool.toml").write_text(simulated_at(SIMULATED.read_text("utf-8"), self.port), "utf-8")
        return folder

    def env(self, folder: Path, *, own_api: bool = False) -> dict[str, str]:
        """`own_api`: the command starts an API of its own, as it does where none is named."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_API", "R2_"))}
        env |= {"R2_STATE_DIR": str(folder / "state"), "PREFECT_HOME": str(folder / "prefect")}
        env |= {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200"}
        return env if own_api else env | {"PREFECT_API_URL": f"http://127.0.0.1:{self._api_port}/api"}

    def start(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        own_api: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> "subprocess.Popen[bytes]":
        """What it says goes to said.txt in its folder."""
        with (folder / "said.txt").open("wb") as said:
            return subprocess.Popen(
                list(command),
                cwd=folder,
                env={**self.env(folder, own_api=own_api), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def expected(self, n_questions: int, seed: int = 11) -> Counter[bytes]:
        """How often each request is paid by `r2 answer` of these questions where nothing happens to it. Two questions
        may share a step, and each asks it."""
        if (n_questions, seed) not in self._expected:
            folder, before = self.fresh(f"expected {n_questions} {seed}"), Counter(self.server.paid)
            write_questions(folder / "q.jsonl", n_questions, seed)
            ended = self.run(answer_command(), folder)
            if ended.code != 0:
                raise RuntimeError(f"unharmed, {n_questions} questions ended with {ended.code}: {ended.said[-300:]}")
            self._expected[n_questions, seed] = self.server.paid - before
        return self._expected[n_questions, seed]

    def run(self, command: Sequence[str], folder: Path, **how: Any) -> Ended:
        """To its end; killed, with code -9, where that does not come."""
        began = time.monotonic()
        process = self.start(command, folder, **how)
        return self.ended(process, folder, began)

    def ended(self, process: "subprocess.Popen[bytes]", folder: Path, began: float) -> Ended:
        peak_mb, status = 0, Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            if time.monotonic() - began > LONGEST_S:
                process.kill()
            try:
                if found := re.search(r"VmHWM:\s+(\d+)", status.read_text("ascii")):
                    peak_mb = max(peak_mb, int(found[1]) >> 10)
            except OSError:
                peak_mb += 0  # it has ended
            time.sleep(0.03)
        said = (folder / "said.txt").read_text("utf-8", "replace")
        return Ended(process.returncode, said, time.monotonic() - began, peak_mb)


async def serve(server: CountingServer, port: int) -> web.AppRunner:
    logging.getLogger("aiohttp.server").disabled = True  # it says of every killed client that it hung up
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024, reuse_address=True).start()
    return runner


def simulated_at(pool: str, port: int) -> str:
    """A pool file of simulated models, which are asked at a port of this machine."""
    endpoint = rf'endpoint = "http://127.0.0.1:{port}/v1"\nserved_model = "\1"'
    return re.sub(r'endpoint = "simulated:(.+)"', endpoint, pool)


def write_questions(path: Path, n: int, seed: int = 11) -> None:
    with path.open("w", encoding="utf-8") as file:
        for problem in arithmetic.generate(n, seed=seed):
            question = f"{problem.question} (No. {problem.input_index})"
            row = {"id": problem.problem_id, "question": question, "answer": problem.target}
            file.write(json.dumps({**row, "benchmark": "arithmetic"}) + "\n")


def answer_command(lake: str = "lake", **flags: object) -> list[str]:
    """`r2 answer` of q.jsonl in its folder."""
    words = ["answer", "q.jsonl", "--pool", "pool.toml", "--lake", lake, "--out", f"{lake}.jsonl"]
    for name, value in flags.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return [*R2, *words]


def settled(lake: Path) -> list[tuple[object, ...]]:
    """What must not depend on what happened to the run."""
    with connect(lake) as db:
        rows = db.execute(
            "select problem_id, rollout, status, answer, is_correct, plan, n_calls, input_tokens, output_tokens, "
            "round(cost_usd, 12) from trajectories"
        ).fetchall()
    return sorted(rows, key=repr)


def check_lake(row: Row, lake: Path, n_rows: int, bill_usd: float | None = None) -> None:
    """Adds what is lost of a run, and what its calls lost; notes where its accounts do not add up.

    The identity: each question is settled once, costs and tokens of trajectories are those of their calls, a run's
    cost is at least the sum of its trajectories, and no less than what the provider billed.
    """
    with connect(lake) as db:
        if wrong := [view for view in VIEWS if db.execute(f"select 1 from {view} limit 1").fetchall()]:
            row.identity = False
            row.broken.append(f"{lake.name}: {', '.join(wrong)} are not empty")
        [(n_settled, n_different)] = db.execute(
            "select count(*), count(distinct (run_id, problem_id, rollout)) from trajectories where status = 'answered'"
        ).fetchall()
        [(run_usd, n_lost)] = db.execute(
            "select sum(usd), sum(n) from (select max(cost_usd) usd, max(n_calls_lost) n from runs group by run_id)"
        ).fetchall()
        [(rows_usd,)] = db.execute("select coalesce(sum(cost_usd), 0) from trajectories").fetchall()
    row.lost += n_rows - n_different
    row.needs(n_settled == n_different, f"{n_settled - n_different} rows are stored twice")
    row.in_flight += int(n_lost or 0)
    if run_usd is None or rows_usd > run_usd + 1e-9:
        row.identity = False
    if bill_usd is not None and bill_usd > (run_usd or 0.0) + 1e-9:
        row.identity = False
        row.broken.append(f"billed {bill_usd:.9f} USD, the run says {run_usd:.9f}")
