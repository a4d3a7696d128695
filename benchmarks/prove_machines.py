"""One run joined by two machines on loopback, one of which is killed half-way with all its processes.

    python -m benchmarks.prove_machines                              # 20,000 questions; or: make prove-machines
    python -m benchmarks.prove_machines --questions 2000 --by processes
    python -m benchmarks.prove_machines --by ray                     # needs the extra `ray`, and root for `unshare`

A machine here is a process tree of its own, with a state folder of its own. They share one lake folder, a PostgreSQL
(its programs must be installed) and one server of simulated models, which logs every request. `--by` says who places
the joins: `prefect` (a server, a work pool, two process workers with --limit 1, the deployment `join`), `ray` (two
raylets in a network namespace of their own, `r2 answer --join --runner ray`) or `processes` (`r2 answer --join` twice).
First one process alone joins the same questions in a lake of its own: the ratio is of the two rates of stored
questions, before the kill. All share this machine's cores, so the ratio says how much the machines hinder each other
where cores are short, not how it goes with twice as many.

Exits with 1 where a question is not there exactly once, requested is not answered + failed + deferred, a limit of
requests or tokens is passed in any 60 seconds of the server's log, a call was completed twice that the dead machine had
not on its way, the lake's bill is not the server's but for the calls that were lost, or the dead machine's shards are
taken over later than 90 s.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import asyncpg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from r2.problems import arithmetic  # noqa: E402
from storage.lake.lake import Lake  # noqa: E402
from storage.sql.query import connect  # noqa: E402
from tests.support.postgres import Postgres, binaries  # noqa: E402

TAKEN_OVER_S = 90.0
WINDOW_S = 60.0
MOST_S = 3000.0
ENTRIES = (  # name, tier, ability, USD per million tokens in and out
    ("small", "small", 2.0, 0.02, 0.05),
    ("medium", "medium", 3.4, 0.08, 0.2),
    ("large", "large", 4.8, 0.3, 0.8),
)
QUIET = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "RAY_USAGE_STATS_ENABLED": "0"}


def write_questions(path: Path, n: int) -> None:
    """No two alike: a request that comes twice is then a call that was made twice."""
    seen: set[str] = set()
    with path.open("w", encoding="utf-8") as file:
        for problem in arithmetic.generate(3 * n, seed=11):
            if problem.question not in seen and len(seen) < n:
                seen.add(problem.question)
                row = {"id": problem.problem_id, "question": problem.question, "answer": problem.target}
                file.write(json.dumps({**row, "benchmark": problem.benchmark}) + "\n")
    assert len(seen) == n, "the generator makes more that differ"


def pool_text(base_url: str | None, per_minute: int, tokens_per_minute: int) -> str:
    """The pool file of the server (None), or of those who ask it."""
    tables = ['[router]\ndecomposer = "medium"\nallocator = "medium"\nfinalizer = "last_step"\n']
    for name, tier, ability, price_in, price_out in ENTRIES:
        price = f'{{input = {price_in}, cached_input = {price_in}, output = {price_out}, date = "2026-11-24"'
        lines = [
            f"[models.{name}]",
            f'tier = "{tier}"',
            f'price_usd_per_mtok = {price}, source = "made up"}}',
            "context_tokens = 32768",
            "max_in_flight = 64",
            "logprobs = true",
            "profile = {add = 0.99, expression = 0.6, multiply = 0.8, plan = 0.99, word_problem = 0.8}",
        ]
        if base_url is None:
            lines += [
                f'endpoint = "simulated:{name}"',
                f"simulated = {{ability = {ability}, ttft_s = 0.05, tokens_per_s = 200}}",
            ]
        else:
            lines += [
                f'endpoint = "{base_url}"',
                f'served_model = "{name}"',
                f"max_requests_per_minute = {per_minute}",
                f"max_tokens_per_minute = {tokens_per_minute}",
            ]
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


class World:
    """What the machines share, and the processes that were started for it."""

    def __init__(self, folder: Path, given: argparse.Namespace, stack: ExitStack) -> None:
        programs = binaries()
        if programs is None:
            sys.exit("PostgreSQL's programs are not installed (apt-get install postgresql).")
        self.folder, self.given = folder, given
        self._stack = stack
        self.postgres = Postgres(programs)
        stack.callback(self.postgres.close)
        self.url = self.postgres.url()
        self.log = folder / "requests.jsonl"
        write_questions(folder / "questions.jsonl", given.questions)
        (folder / "server.toml").write_text(pool_text(None, 0, 0), "utf-8")
        server = self.start(
            "server",
            [sys.executable, "-m", "r2.pool.simulated.process", "--pool", "server.toml", "--log", str(self.log)],
        )
        base_url = self.said(server, "listening ").split()[1]
        pool = pool_text(base_url, given.requests_per_minute, given.tokens_per_minute)
        (folder / "pool.toml").write_text(pool, "utf-8")

    def settings(self, lake: str) -> dict[str, Any]:
        """Of a run, as `r2 answer --config` has them."""
        reasoning = {"method": self.given.method}
        if self.given.method == "cot":
            reasoning["model"] = "medium"
        at = self.folder
        return {
            "input": str(at / "questions.jsonl"),
            "pool": str(at / "pool.toml"),
            "lake": str(at / lake),
            "out": str(at / f"{lake}.answers.jsonl"),
            "max_cost_usd": 1000.0,
            "shard_size": self.given.shard_size,
            "reasoning": reasoning,
        }

    def command(self, lake: str) -> list[str]:
        """`r2 answer --join`."""
        wanted = self.settings(lake)
        model = ["--model", "medium"] if self.given.method == "cot" else []
        return [
            *(sys.executable, "-m", "flows.cli", "answer", wanted["input"]),
            *("--pool", wanted["pool"], "--lake", wanted["lake"], "--out", wanted["out"], "--join"),
            *("--max-cost-usd", "1000", "--shard-size", str(wanted["shard_size"])),
            *("--method", self.given.method, *model),
        ]

    def start(self, name: str, command: Sequence[str], **env: str) -> "subprocess.Popen[bytes]":
        """A process tree whose output goes to a file, and which ends with the proof."""
        own = self.folder / name
        own.mkdir(exist_ok=True)
        environ = {
            **os.environ,
            **QUIET,
            "R2_COORDINATION_URL": self.url,
            "R2_STATE_DIR": str(own / "state"),
            "PYTHONPATH": str(ROOT),
            "PREFECT_HOME": str(own / "prefect"),
            **env,
        }
        with (own / "output").open("ab") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environ, stdout=output, stderr=output, start_new_session=True
            )
        process.name = name  # type: ignore[attr-defined]
        self._stack.callback(kill_tree, process.pid)
        return process

    def said(self, process: "subprocess.Popen[bytes]", words: str) -> str:
        """The first line of its output that has these words."""
        path = self.folder / process.name / "output"  # type: ignore[attr-defined]
        for _ in waited(120):
            for line in path.read_text("utf-8", "replace").splitlines():
                if words in line:
                    return line
            if process.poll() is not None:
                break
        sys.exit(f"{path}: {path.read_text('utf-8', 'replace')[-2000:]}")

    def n_stored(self, lake: str) -> int:
        """Questions that the lake has."""
        root = self.folder / lake
        if not (root / "_manifest").is_dir():
            return 0
        notes = [entry.meta for entry in Lake(root).entries() if entry.unit[:1].isdigit()]
        return sum(note.get("n_answered", 0) + note.get("n_failed", 0) for note in notes)

    def asked(self, sql: str) -> list[Any]:
        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.url, timeout=10)
            try:
                found: list[Any] = await connection.fetch(sql)
                return found
            finally:
                await connection.close()

        return asyncio.run(ask())


def waited(seconds: float, pause_s: float = 0.5) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(pause_s)


def tree_of(pid: int) -> list[int]:
    """A process and all that it has started, whatever session they are in."""
    children: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            parent = int(stat.read_text("utf-8", "replace").rpartition(")")[2].split()[1])
            children[parent].append(int(stat.parent.name))
    found, left = [], [pid]
    while left:
        one = left.pop()
        found.append(one)
        left += children[one]
    return found


def kill_tree(pid: int) -> None:
    """SIGKILL to all of it at once: stopped first, so that nothing starts anew meanwhile."""
    pids = tree_of(pid)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for one in pids:
            with suppress(ProcessLookupError):
                os.kill(one, number)


def by_processes(world: World) -> list[int]:
    return [world.start(f"machine-{number}", world.command("lake")).pid for number in (1, 2)]


def by_prefect(world: World) -> list[int]:
    """Two process workers; the flow runs are placed by the server."""
    port = free_port()
    home = {"PREFECT_HOME": str(world.folder / "prefect-server"), "PREFECT_WORKER_QUERY_SECONDS": "2"}
    api = {**home, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "R2_HOME": str(ROOT)}
    prefect = [sys.executable, "-m", "prefect"]
    world.start("server-of-prefect", [*prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port)], **home)

    def run(*words: str) -> None:
        environ = {**os.environ, **QUIET, **api, "PYTHONPATH": str(ROOT)}
        command = [*prefect, *words]
        done = subprocess.run(command, check=False, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
        if done.returncode:
            sys.exit(f"prefect {' '.join(words)}: {done.stdout[-1000:]}{done.stderr[-1000:]}")

    import urllib.request

    for _ in waited(180, 1.0):
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2):
            break
    run("work-pool", "create", "r2", "--type", "process")
    run("--no-prompt", "deploy", "--name", "join")
    machines = []
    for number in (1, 2):
        worker = ["worker", "start", "--pool", "r2", "--limit", "1", "--name", f"machine-{number}"]
        machines.append(world.start(f"machine-{number}", [*prefect, *worker], **api).pid)
    for _ in machines:
        run("deployment", "run", "join-run/join", "--param", f"settings={json.dumps(world.settings('lake'))}")
    return machines


def by_ray(world: World) -> list[int]:
    """Two raylets, and a driver that places a join on each."""
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    small = ["--num-cpus", "1", "--object-store-memory", "120000000"]
    port = free_port()
    head = ["--head", "--port", str(port), "--include-dashboard", "false", "--temp-dir", str(world.folder / "ray")]
    # The head stays: with it Ray itself would be gone, and this is about the machines that join.
    first = world.start("machine-1", [*ray, *head, *small, "--node-ip-address", "127.0.0.1"])
    world.said(first, "Ray runtime started")
    second = world.start("machine-2", [*ray, "--address", f"127.0.0.1:{port}", *small])
    world.said(second, "Ray runtime started")
    world.start("driver", [*world.command("lake"), "--runner", "ray"], RAY_ADDRESS=f"127.0.0.1:{port}")
    return [first.pid, second.pid]


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


PLACED_BY = {"processes": by_processes, "prefect": by_prefect, "ray": by_ray}


def rate_of(world: World, lake: str, low: float, high: float) -> float:
    """Questions a second between two shares of the run, as they are stored."""
    n, began = world.given.questions, None
    for _ in waited(MOST_S):
        stored = world.n_stored(lake)
        if began is None and stored >= low * n:
            began = stored, time.monotonic()
        if began is not None and stored >= high * n and stored > began[0]:
            return (stored - began[0]) / (time.monotonic() - began[1])
    sys.exit(f"{lake}: {world.n_stored(lake)} of {n} questions after {MOST_S:.0f} s; see {world.folder}")


def most_in_any_window(requests: list[tuple[float, float]]) -> tuple[float, float]:
    """(requests, tokens): the most in any window of the server's log."""
    requests.sort()
    first = 0
    tokens = most_requests = most_tokens = 0.0
    for last, (at, n_tokens) in enumerate(requests):
        tokens += n_tokens
        while at - requests[first][0] >= WINDOW_S:
            tokens -= requests[first][1]
            first += 1
        most_requests, most_tokens = max(most_requests, last - first + 1), max(most_tokens, tokens)
    return most_requests, most_tokens


def prove(world: World) -> int:
    given, wrong = world.given, list[str]()
    table = Table(title=f"{given.questions} questions, {given.method}, placed by {given.by}", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    one_rate = None
    if not given.no_reference:
        alone = world.start("alone", world.command("alone"))
        one_rate = rate_of(world, "alone", 0.1, 0.5)
        kill_tree(alone.pid)
        table.add_row("one process alone, questions/s", f"{one_rate:.1f}")
        time.sleep(2.0)  # its last calls end, and are logged
    before = len(world.log.read_bytes().splitlines())
    machines = PLACED_BY[given.by](world)
    two_rate = rate_of(world, "lake", 0.1, 0.5)
    table.add_row("two machines, questions/s", f"{two_rate:.1f}")
    if one_rate:
        table.add_row("ratio to one process", f"{two_rate / one_rate:.2f}")
    owners = owners_of(world, machines)
    kill_tree(machines[1])
    killed_at = time.monotonic()
    dead = {row["owner"] for row in owners} & dead_owners(world, machines[1])
    taken_after_s = None
    for _ in waited(TAKEN_OVER_S * 2, 0.25):
        left = world.asked("select owner from r2_shared.shards where owner is not null and not done")
        if not {row["owner"] for row in left} & dead:
            taken_after_s = time.monotonic() - killed_at
            break
    answers = world.folder / "lake.answers.jsonl"
    for _ in waited(MOST_S):
        if answers.exists() and not list((world.folder / "lake" / "_runs").glob("*/joined.json")):
            break
    else:
        wrong.append(f"no end after {MOST_S:.0f} s; see {world.folder}")
    time.sleep(1.0)
    wrong += checked(world, table, before, taken_after_s)
    Console(width=120).print(table)
    for line in wrong:
        print(f"WRONG: {line}")
    return 1 if wrong else 0


DEAD: dict[int, set[int]] = {}


def owners_of(world: World, machines: Sequence[int]) -> list[Any]:
    """Who has shards now; the processes of each machine are noted, to tell which are whose."""
    for pid in machines:
        DEAD[pid] = set(tree_of(pid))
    return world.asked("select owner from r2_shared.shards where owner is not null and not done")


def dead_owners(world: World, machine: int) -> set[str]:
    """The workers that ran on it: `host:pid:...`."""
    found = {row["worker"] for row in world.asked("select worker from r2_shared.workers")}
    return {worker for worker in found if int(worker.rsplit(":", 2)[1]) in DEAD[machine]}


def checked(world: World, table: Table, n_before: int, taken_after_s: float | None) -> list[str]:
    """What is wrong with the run's end, by the lake and the server's log; the figures go into the table."""
    given, wrong = world.given, list[str]()
    root = world.folder / "lake"
    with connect(root) as db:
        [(n_rows, n_ids, n_answered, n_failed, lake_usd)] = db.execute(
            "select count(*), count(distinct problem_id), count(*) filter (status = 'answered'), "
            "count(*) filter (status = 'failed'), sum(cost_usd) from trajectories"
        ).fetchall()
    notes = [entry.meta for entry in Lake(root).entries() if entry.unit[:1].isdigit()]
    n_lost = sum(note["n_calls_lost"] for note in notes)
    lost_usd = sum(note["lost_cost_usd"] for note in notes)
    claims = Counter(note["claim"] for note in notes)
    workers = Counter(note["worker"] for note in notes)
    if (n_rows, n_ids, n_answered + n_failed) != (given.questions,) * 3:
        wrong.append(f"{given.questions} requested; {n_rows} rows, {n_ids} ids, {n_answered} + {n_failed} settled")
    lines = [json.loads(line) for line in world.log.read_bytes().splitlines()]
    mine = lines[n_before:]
    by_model: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in lines:  # the run alone before it counts as well: its limits are the same
        by_model[line["model"]].append((line["monotonic"], line["input_tokens"] + line["output_tokens"]))
    peaks = {name: most_in_any_window(requests) for name, requests in by_model.items()}
    for name, (requests, tokens) in peaks.items():
        table.add_row(f"{name}: most requests in any 60 s", f"{requests:.0f} of {given.requests_per_minute}")
        table.add_row(f"{name}: most tokens in any 60 s", f"{tokens:.0f} of {given.tokens_per_minute}")
        if requests > given.requests_per_minute or tokens > given.tokens_per_minute:
            wrong.append(f"{name}: {requests:.0f} requests, {tokens:.0f} tokens in some 60 s")
    completed = Counter(line["key"] for line in mine if line["completed"])
    n_twice = sum(completed.values()) - len(completed)
    if n_twice > n_lost:
        wrong.append(f"{n_twice} calls were completed twice, and {n_lost} were on their way at the kill")
    prices = {name: (price_in, price_out) for name, _, _, price_in, price_out in ENTRIES}
    billed_usd = sum(
        (line["input_tokens"] * prices[line["model"]][0] + line["output_tokens"] * prices[line["model"]][1]) / 1e6
        for line in mine
        if line["completed"]
    )
    if not lake_usd - 1e-9 <= billed_usd <= lake_usd + lost_usd + 1e-9:
        wrong.append(f"billed {billed_usd:.6f} USD, but the lake has {lake_usd:.6f} and {lost_usd:.6f} lost at most")
    if taken_after_s is None or taken_after_s > TAKEN_OVER_S:
        wrong.append(f"the dead machine's shards were taken over after {taken_after_s} s")
    table.add_row("answered + failed + deferred", f"{n_answered} + {n_failed} + 0 = {n_rows}")
    table.add_row("units by worker", ", ".join(str(n) for n in workers.values()))
    table.add_row("units of shards that were taken over", str(sum(n for token, n in claims.items() if token > 1)))
    table.add_row("taken over after, s", "never" if taken_after_s is None else f"{taken_after_s:.1f}")
    table.add_row("calls completed by the server", str(sum(completed.values())))
    table.add_row("calls on their way at the kill", str(n_lost))
    table.add_row("of them completed twice", str(n_twice))
    table.add_row("USD in the lake", f"{lake_usd:.6f}")
    table.add_row("USD billed by the server", f"{billed_usd:.6f}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--method", default="cot", help="cot, r2, ...")
    parser.add_argument("--by", choices=sorted(PLACED_BY), default="prefect")
    parser.add_argument("--shard-size", type=int, default=250)
    parser.add_argument("--requests-per-minute", type=int, default=12_000)
    parser.add_argument("--tokens-per-minute", type=int, default=4_000_000)
    parser.add_argument("--no-reference", action="store_true", help="without one process alone")
    parser.add_argument("--keep", type=Path, help="folder for everything, which stays")
    given = parser.parse_args()
    if given.by == "ray" and os.environ.get("R2_OWN_NETWORK") is None:
        # Ray talks over the machine's own address: in a network namespace there is only loopback.
        words = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable]
        words += sys.orig_argv[1:]
        os.execvpe(words[0], words, {**os.environ, "R2_OWN_NETWORK": "1"})
    folder = given.keep or Path(tempfile.mkdtemp(prefix="r2-machines-"))
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if given.keep is None:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        code = prove(World(folder.resolve(), given, stack))
    sys.exit(code)


if __name__ == "__main__":
    main()
