"""`r2 answer --join` and `r2 join` as a user has them: two processes on one run, and what each is told."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomlkit

from flows.cli.join import join
from flows.support.ray_joins import join_on_ray
from r2.errors import ConfigError
from storage.joined.mark import new_mark, read_mark, set_mark
from storage.sql.query import connect
from tests.support.paths import ROOT
from tests.support.postgres import Postgres
from tests.support.prefect_home import new_home

N = 60


def pool_without_latency(folder: Path) -> Path:
    document = tomlkit.parse((ROOT / "pools" / "simulated.toml").read_text("utf-8"))
    for table in document["models"].values():  # type: ignore[union-attr]
        table["simulated"].update({"ttft_s": 0.0, "tokens_per_s": 1e9})
    path = folder / "pool.toml"
    path.write_text(tomlkit.dumps(document), "utf-8")
    return path


def started(folder: Path, url: str | None, number: int, *words: str) -> "subprocess.Popen[str]":
    """The command on a machine of its own, but for the lake."""
    state = folder / f"machine-{number}"
    environ = {
        **{name: value for name, value in os.environ.items() if name != "R2_COORDINATION_URL"},
        "PYTHONPATH": str(ROOT),
        "R2_STATE_DIR": str(state),
        "PREFECT_HOME": new_home(state / "prefect"),
        **({} if url is None else {"R2_COORDINATION_URL": url}),
    }
    command = [sys.executable, "-m", "flows.cli", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environ, stdout=pipe, stderr=pipe, text=True)


def test_two_commands_share_one_run_and_either_may_be_asked_for_its_end(tmp_path: Path, postgres: Postgres):
    url = postgres.new_database()
    pool = pool_without_latency(tmp_path)
    rows = [{"id": f"q{i}", "question": f"What is {i} + 2?", "answer": str(i + 2)} for i in range(N)]
    lines = (json.dumps({**row, "benchmark": "arithmetic"}) + "\n" for row in rows)
    (tmp_path / "q.jsonl").write_text("".join(lines), "utf-8")
    words = ("answer", "q.jsonl", "--pool", str(pool), "--method", "cot", "--model", "sim-8b")
    joined = (*words, "--shard-size", "5", "--max-cost-usd", "5", "--join")

    alone = started(tmp_path, None, 0, *joined)
    assert alone.wait(60) == 2 and "R2_COORDINATION_URL" in alone.communicate()[1]
    machines = [started(tmp_path, url, number, *joined) for number in (1, 2)]
    said = [machine.communicate(timeout=180) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    answers = str(tmp_path / "q.answers.jsonl")
    assert any(answers.endswith(line) for out, _ in said for line in out.splitlines() if line), said
    assert len(Path(answers).read_text("utf-8").splitlines()) == N
    with connect(tmp_path / "lake") as db:
        counts = db.execute("select count(*), count(distinct problem_id) from trajectories").fetchall()
        [[run_id]] = db.execute("select distinct run_id from trajectories").fetchall()
    assert counts == [(N, N)]
    assert "not-a-secret" not in "".join(out + err for out, err in said)
    assert read_mark(tmp_path / "lake" / "_runs" / run_id) is None

    set_mark(tmp_path / "lake" / "_runs" / run_id, new_mark(run_id, "lake", "PostgreSQL at db/r2"))
    status = started(tmp_path, url, 1, "join", run_id, "--status")
    out, err = status.communicate(timeout=60)
    assert status.returncode == 0, err
    assert str(N) in out and "0 of 12" in out and "none" in out


def test_without_ray_its_runner_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'r2-reasoner\[ray\]'"):
        asyncio.run(join_on_ray("lake", "cot-1"))


def test_what_join_cannot_do_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("R2_COORDINATION_URL", "postgresql://127.0.0.1:1/r2")
    with pytest.raises(ConfigError, match="--runner dask: ray"):
        join("cot-1", runner="dask")
    with pytest.raises(ConfigError, match="one of them at a time"):
        join("cot-1", stop=True, resume=True)
    with pytest.raises(ConfigError, match="lake has no run cot-1"):
        join("cot-1")
