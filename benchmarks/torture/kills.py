"""SIGKILL of answer, label, evaluate and GRPO, again and again, each beside the same command unbroken.

Two moments in three are after so many requests, so that the work is met and not the start; the third is any moment,
with the start and the end. One command in five starts its own API. Every broken run must end like the unbroken one.
Each has its share of the hour; where another program takes the machine meanwhile, the kills are fewer, and it is said.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.torture.figures import Row
from benchmarks.torture.world import R2, ROOT, Ended, World, answer_command, check_lake, settled, write_questions
from r2.evaluation.comparison import Comparison
from storage.evaluations.store import CALLS, FOLDER, evaluation_ids, read_comparison, read_evaluation
from storage.runs.journal import Journal

Command = Callable[[str], Sequence[str]]
"""Name of a lake -> the command that works on it."""
Same = Callable[[Path, Path], list[str]]
"""Two lakes -> what differs."""


def killed_often(
    world: World, row: Row, folder: Path, command: Command, n_kills: int, per_round: int, most_s: float
) -> list[Path]:
    """Rounds of kills, each on a new lake and brought to its end, until there were `n_kills` or the time is up. The
    lakes, the unbroken one first. Adds what was paid again."""
    ends_at = time.monotonic() + most_s
    unbroken, began = Counter(world.server.paid), time.monotonic()
    first = whole(world, command("unbroken"), folder)
    row.needs(first.code == 0, f"the unbroken command ended with {first.code}: {first.said[-300:]}")
    whole_s, expected = time.monotonic() - began, world.server.paid - unbroken
    lakes, killed = [folder / "unbroken"], 0
    while killed < n_kills and not row.broken and time.monotonic() < ends_at:
        name, before, bill_usd = f"broken-{len(lakes)}", Counter(world.server.paid), world.server.bill_usd
        n_now = min(per_round, n_kills - killed)
        n_killed = kill(world, command(name), folder, n_now, whole_s, expected.total(), ends_at)
        killed += n_killed
        done = whole(world, command(name), folder)
        row.needs(done.code == 0, f"{name}: after {n_killed} kills it ended with {done.code}: {done.said[-300:]}")
        paid = world.server.paid - before
        row.twice += (paid - expected).total()
        row.needs(not expected - paid, f"{name}: {(expected - paid).total()} calls of the unbroken run were never made")
        lakes.append(folder / name)
        bills[lakes[-1]] = world.server.bill_usd - bill_usd
    row.times = killed
    row.needs(killed > 0, "nothing was killed: the unbroken command took all the time")
    if killed < n_kills:
        row.done += f"; the time was up at {killed} of {n_kills}"
    return lakes


bills: dict[Path, float] = {}
"""Lake -> what the server billed its run over all its sessions, in USD."""


def whole(world: World, command: Sequence[str], folder: Path) -> Ended:
    """The command to its end; where the clock met it in its last moments, once more."""
    return world.run(command, folder)


def kill(
    world: World, command: Sequence[str], folder: Path, n: int, whole_s: float, n_calls: int, ends_at: float
) -> int:
    """Starts the command and kills it, up to `n` times; ends early where it came to its end unharmed, or the time is
    up."""
    for done in range(n):
        if time.monotonic() > ends_at:
            return done
        process = world.start(command, folder, own_api=world.chance.random() < 0.2)
        began, first = time.monotonic(), world.server.n_requests
        if world.chance.random() < 2 / 3:
            until = first + world.chance.randint(1, max(2, n_calls // n))
            while world.server.n_requests < until and process.poll() is None and time.monotonic() < began + 120:
                time.sleep(0.002)
            time.sleep(world.chance.uniform(0.0, 0.03))
        else:
            moment = began + world.chance.uniform(0.05, 0.7) * whole_s
            while time.monotonic() < moment and process.poll() is None:
                time.sleep(0.002)
        has_ended = process.poll() is not None
        process.kill()
        process.wait()
        if has_ended:
            return done
    return n


def same_rows(unbroken: Path, broken: Path) -> list[str]:
    return [] if settled(unbroken) == settled(broken) else [f"{broken.name}: other rows than unbroken"]


def n_answered(lake: Path) -> int:
    return sum(status == "answered" for _, _, status, *_ in settled(lake))


def answer(world: World, n_kills: int, n_questions: int, most_s: float) -> Row:
    row = Row("SIGKILL in answer", "killed, same command, until it ends")
    folder = world.fresh("kill answer")
    write_questions(folder / "q.jsonl", n_questions)
    lakes = killed_often(world, row, folder, lambda lake: answer_command(lake, shard_size=100), n_kills, 15, most_s)
    for lake in lakes[1:]:
        check_lake(row, lake, n_questions, bills[lake])
        row.broken += same_rows(lakes[0], lake)
        rows = [json.loads(line) for line in (folder / f"{lake.name}.jsonl").read_text("utf-8").splitlines()]
        row.needs(len(rows) == n_questions, f"{lake.name}.jsonl has {len(rows)} rows of {n_questions}")
    return row


def label(world: World, n_kills: int, n_problems: int, most_s: float) -> Row:
    row = Row("SIGKILL in label", "killed, same command, until it ends")
    folder = world.fresh("kill label")

    def command(lake: str) -> list[str]:
        words = ["label", "--problems", "scan", "--limit", str(n_problems), "--pool", "pool.toml", "--lake", lake]
        words += ["--out", f"{lake}-sets", "--shard-size", "20", "--judge", "sim-8b", "--candidates", "4"]
        return [*R2, *words]

    lakes = killed_often(world, row, folder, command, n_kills, 7, most_s)
    for lake in lakes[1:]:
        check_lake(row, lake, n_answered(lakes[0]), bills[lake])
        row.broken += same_rows(lakes[0], lake)
        for name in ("decomposer.parquet", "allocator.parquet"):
            sets = [pq.read_table(folder / f"{one.name}-sets" / name) for one in (lakes[0], lake)]
            row.needs(sets[0].equals(sets[1]), f"{lake.name}: another {name}")
    return row


def evaluate(world: World, n_kills: int, n_problems: int, most_s: float) -> Row:
    row = Row("SIGKILL in evaluate", "killed, same command, until it ends")
    folder = world.fresh("kill evaluate")

    def command(lake: str) -> list[str]:
        words = ["evaluate", "--problems", "arithmetic", "--problems", "scan", "--limit", str(n_problems)]
        words += ["--pool", "pool.toml", "--lake", lake, "--methods", "direct:sim-0.6b,cot:sim-4b,datashunt,r2"]
        return [*R2, *words]

    lakes = killed_often(world, row, folder, command, n_kills, 8, most_s)
    tables = [[_timeless(read_comparison(lake, name)) for name in evaluation_ids(lake)] for lake in lakes]
    for lake, table in zip(lakes[1:], tables[1:], strict=True):
        check_lake(row, lake, n_answered(lakes[0]))
        row.needs(table == tables[0], f"{lake.name}: another table than unbroken")
        paid_usd = sum(read_evaluation(lake, name).paid_usd for name in evaluation_ids(lake))
        row.needs(bills[lake] <= paid_usd + 1e-9, f"{lake.name}: billed {bills[lake]:.9f} USD, it says {paid_usd:.9f}")
        row.broken += same_rows(lakes[0], lake)
        row.in_flight += n_lost(lake / FOLDER / CALLS)
    return row


def _timeless(comparison: Comparison) -> Comparison:
    """Without how long the answers took, which no two runs measure alike."""
    methods = [replace(method, latency_p50_s=0.0, latency_p95_s=0.0) for method in comparison.methods]
    return replace(comparison, methods=tuple(methods))


def grpo(world: World, n_kills: int, n_steps: int, most_s: float) -> Row:
    row = Row("SIGKILL in GRPO", "killed, same command, until it ends")
    folder = world.fresh("kill grpo")

    def command(lake: str) -> list[str]:
        for name in ("tiny-decomposer", "tiny-allocator"):
            if not (folder / f"{lake}-policies" / name).exists():
                shutil.copytree(ROOT / "policies" / name, folder / f"{lake}-policies" / name)
        words = ["grpo", "--problems", "scan", "--limit", "60", "--pool", "pool.toml", "--rounds", "1"]
        words += ["--steps", str(n_steps), "--decomposer", "tiny-decomposer", "--allocator", "tiny-allocator"]
        words += ["--group-size", "2", "--save-steps", "2", "--n-held-out", "20", "--threads", "1"]
        return [*R2, *words, "--policies-dir", f"{lake}-policies", "--lake", lake]

    lakes = killed_often(world, row, folder, command, n_kills, n_kills, most_s)
    ends = [sorted(json.dumps(_after(path)) for path in lake.glob("_runs/*/round-00/result.json")) for lake in lakes]
    for lake, end in zip(lakes[1:], ends[1:], strict=True):
        row.needs(end == ends[0] and len(end) == 1, f"{lake.name}: the round ended otherwise than unbroken")
        row.in_flight += sum(n_lost(path) for path in lake.glob("_runs/*/calls.journal"))
    return row


def _after(path: Path) -> object:
    """How the held-out problems were answered after a round."""
    return json.loads(path.read_text("utf-8"))["after"]


def n_lost(journal: Path) -> int:
    """Calls of a journal that were on their way at a kill."""
    with Journal.glance(journal) as opened:
        return len(opened.lost_at_open)
