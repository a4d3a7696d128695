"""kill -9 at random moments of the real command, against a simulated server that outlives it and counts what it was
paid for."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from prefect.settings import PREFECT_API_URL

from r2.problems import arithmetic
from storage.evaluations.verify import verify_lake
from storage.lake.lake import Lake
from storage.sql.query import connect
from tests.support.paths import ROOT
from tests.support.prefect_api import shared_api
from tests.support.prefect_home import new_home
from tests.support.prefect_sockets import LEAVES_SOCKETS
from tests.support.s3_server import BUCKET, real_server, use

pytestmark = LEAVES_SOCKETS
R2 = [sys.executable, "-m", "flows.cli"]


@contextlib.contextmanager
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A simulated server in a process of its own, and a pool file whose entries reach it over plain HTTP."""
    process = subprocess.Popen(
        [*R2, "pool", "serve", "--pool", str(ROOT / "pools/simulated.toml"), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    base_url = next(word for word in process.stdout.readline().split() if word.startswith("http"))
    text = (ROOT / "pools/simulated.toml").read_text("utf-8")
    lines = []
    for line in text.splitlines():
        if line.startswith("endpoint"):
            name = line.split("simulated:")[1].strip().strip('"')
            line = f'endpoint = "{base_url}"\nserved_model = "{name}"'
        lines.append(line)
    pool = tmp_path / "pool.toml"
    pool.write_text("\n".join(lines), "utf-8")
    try:
        yield base_url, pool
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
        if process.stdin:
            process.stdin.close()


def write_questions(path: Path, n: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for problem in arithmetic.generate(n, seed=11):
            row = {
                "id": problem.problem_id,
                "question": f"{problem.question} (No. {problem.input_index})",
                "answer": problem.target,
                "benchmark": "arithmetic",
            }
            file.write(json.dumps(row) + "\n")


def command(tmp_path: Path, lake: str, pool: Path, bucket: str = "", shard_size: int = 200) -> list[str]:
    return [
        *R2,
        "answer",
        str(tmp_path / "q.jsonl"),
        "--pool",
        str(pool),
        "--lake",
        f"{bucket or tmp_path}/{lake}",
        "--out",
        str(tmp_path / f"{lake}.jsonl"),
        "--shard-size",
        str(shard_size),
    ]


def opened(lake: str) -> duckdb.DuckDBPyConnection:
    """By lake.duckdb where there is one; a lake in a bucket has none."""
    return connect(lake) if "://" in lake else duckdb.connect(f"{lake}/lake.duckdb", read_only=True)


def settled(lake: str) -> list[tuple[object, ...]]:
    """What must not depend on how often the run was killed."""
    with opened(lake) as db:
        return db.execute(
            "select problem_id, rollout, status, answer, is_correct, plan, n_calls, input_tokens, output_tokens, "
            "round(cost_usd, 12) "
            "from trajectories order by input_index"
        ).fetchall()


def label_command(tmp_path: Path, lake: str, pool: Path, n_problems: int) -> list[str]:
    return [
        *R2,
        "label",
        "--problems",
        "scan",
        "--limit",
        str(n_problems),
        "--pool",
        str(pool),
        "--lake",
        str(tmp_path / lake),
        "--out",
        str(tmp_path / f"{lake}-sets"),
        "--shard-size",
        "20",
        "--judge",
        "sim-8b",
        "--candidates",
        "4",
    ]


def kill_and_go_on(
    tmp_path: Path,
    command: Callable[[str, Path], list[str]],
    n_rows: int,
    n_kills: int,
    bucket: str = "",
    api: str | None = None,
) -> None:
    """Runs the command unbroken into the lake `unbroken`, and killed at random moments into `broken`; both must have
    come to the same. Each command starts an API of its own, which its kill ends, unless it is given one."""
    env = {**os.environ, "R2_STATE_DIR": str(tmp_path / "state"), "PREFECT_HOME": new_home(tmp_path / "prefect")}
    if api is not None:
        env["PREFECT_API_URL"] = api
    with server(tmp_path) as (base_url, pool):
        began = time.monotonic()
        subprocess.run(command("unbroken", pool), check=True, env=env, cwd=ROOT, stdout=subprocess.DEVNULL)
        whole_s = time.monotonic() - began
        before = stats(base_url)
        moments = random.Random(5)
        for _ in range(n_kills):
            process = subprocess.Popen(
                command("broken", pool),
                env=env,
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moments.uniform(0.2, 1.0) * whole_s)
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        subprocess.run(command("broken", pool), check=True, env=env, cwd=ROOT, stdout=subprocess.DEVNULL)
        after = stats(base_url)
    broken, unbroken = (f"{bucket or tmp_path}/{lake}" for lake in ("broken", "unbroken"))
    assert settled(broken) == settled(unbroken)
    assert len({row[0] for row in settled(broken)}) == n_rows
    with opened(broken) as db:
        [(in_flight,)] = db.execute("select max(n_calls_lost) from runs").fetchall()
    # Every request of the second run is one the first run made too, so the server counts each at least twice in all.
    paid_twice = after["completed"] - 2 * before["completed"]
    print(f"{n_kills} kills: {paid_twice} completed calls made again, {in_flight} calls in flight at the kills")
    assert paid_twice <= in_flight


def stats(base_url: str) -> dict[str, int]:
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/stats", timeout=5) as reply:
        return json.load(reply)["total"]


def answering(tmp_path: Path, n_questions: int, n_kills: int, shard_size: int) -> None:
    write_questions(tmp_path / "q.jsonl", n_questions)
    kill_and_go_on(
        tmp_path, lambda lake, pool: command(tmp_path, lake, pool, shard_size=shard_size), n_questions, n_kills
    )


def answering_into_a_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_questions: int, n_kills: int, api: str | None = None
) -> None:
    pytest.importorskip("obstore")
    write_questions(tmp_path / "q.jsonl", n_questions)
    with real_server("moto", tmp_path / "objects") as url:
        use(monkeypatch, url, tmp_path / "state")
        bucket = f"s3://{BUCKET}"
        kill_and_go_on(
            tmp_path, lambda lake, pool: command(tmp_path, lake, pool, bucket, 20), n_questions, n_kills, bucket, api
        )
        lake = Lake(f"{bucket}/broken")
        assert verify_lake(lake.root) == []
        use(monkeypatch, url, tmp_path / "another machine")
        assert settled(f"{bucket}/broken") == settled(f"{bucket}/unbroken")
        assert (tmp_path / "broken.jsonl").read_bytes() == (tmp_path / "unbroken.jsonl").read_bytes()


def labelling(tmp_path: Path, n_problems: int, n_kills: int, api: str | None = None) -> None:
    kill_and_go_on(
        tmp_path, lambda lake, pool: label_command(tmp_path, lake, pool, n_problems), n_problems, n_kills, api=api
    )
    for name in ("decomposer.parquet", "allocator.parquet"):
        broken, unbroken = (pq.read_table(tmp_path / f"{lake}-sets" / name) for lake in ("broken", "unbroken"))
        assert broken.num_rows > 0.9 * n_problems
        assert broken.equals(unbroken), name


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    """To start it takes as long as to work for a while; the first test, and the slow ones, kill it with the command."""
    with shared_api():
        yield str(PREFECT_API_URL.value())


def test_a_run_killed_three_times_ends_like_an_unbroken_one(tmp_path: Path):
    """2,000 questions and 20 kills below, as `make test-slow`."""
    answering(tmp_path, n_questions=160, n_kills=3, shard_size=80)


def test_a_run_into_a_bucket_killed_twice_ends_like_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: str
):
    answering_into_a_bucket(tmp_path, monkeypatch, n_questions=60, n_kills=2, api=api)


def test_labelling_killed_three_times_pays_nothing_twice_and_yields_the_same_sets(tmp_path: Path, api: str):
    labelling(tmp_path, n_problems=40, n_kills=3, api=api)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_like_an_unbroken_one(tmp_path: Path):
    answering(tmp_path, n_questions=2000, n_kills=20, shard_size=200)


@pytest.mark.slow
def test_a_run_into_a_bucket_killed_twenty_times_ends_like_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    answering_into_a_bucket(tmp_path, monkeypatch, n_questions=200, n_kills=20)


@pytest.mark.slow
def test_labelling_killed_twelve_times_pays_nothing_twice_and_yields_the_same_sets(tmp_path: Path):
    labelling(tmp_path, n_problems=300, n_kills=12)
