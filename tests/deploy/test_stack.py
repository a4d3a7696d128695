"""`make stack` and `make stack-down`: the whole installation for real, used and ended. Without PostgreSQL's programs it
skips."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.stack_postgres import _programs
from deploy.stack_programs import Programs, StackError
from storage.sql.query import connect
from tests.support.paths import ROOT

PATIENCE_S = 300


class Running:
    """A stack in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def stack(self, what: str) -> str:
        command = [sys.executable, str(ROOT / "deploy/stack.py"), what, "--folder", str(self.folder)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, check=False, env=environ, capture_output=True, text=True, timeout=2 * PATIENCE_S)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def environ(self) -> dict[str, str]:
        lines = (self.folder / "env").read_text("utf-8").splitlines()
        named = dict(line.removeprefix("export ").split("=", 1) for line in lines)
        return {name: value.strip("'") for name, value in named.items()}

    def api(self, path: str, body: object = None, method: str = "POST") -> Any:
        request = urllib.request.Request(
            f"{self.environ['PREFECT_API_URL']}{path}",
            data=None if method == "GET" else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
            method=method,
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as reply:
            return json.loads(reply.read())

    def start(self, settings: dict[str, Any]) -> str:
        """A flow run of answer-questions/bulk; its id."""
        deployment = self.api("/deployments/name/answer-questions/bulk", method="GET")
        body = {"parameters": {"settings": settings}}
        return str(self.api(f"/deployments/{deployment['id']}/create_flow_run", body)["id"])

    def state(self, run: str) -> str:
        return str(self.api(f"/flow_runs/{run}", method="GET")["state"]["type"])

    def until(self, run: str, *states: str) -> str:
        deadline = time.monotonic() + PATIENCE_S
        while (state := self.state(run)) not in states:
            assert time.monotonic() < deadline, f"{run} is {state}"
            assert state not in ("FAILED", "CRASHED"), self.logs(run)
            time.sleep(0.5)
        return state

    def logs(self, run: str) -> str:
        rows = self.api("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})
        return "\n".join(str(row["message"]) for row in rows) + self.said()

    def said(self) -> str:
        return "".join(path.read_text("utf-8", "replace")[-3000:] for path in (self.folder / "log").glob("worker-*"))


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    try:
        _programs()
    except StackError as error:
        pytest.skip(str(error))
    folder = Path(f"/tmp/r2-stack-of-a-test-{os.getpid()}")
    stack = Running(folder)
    try:
        yield stack
    finally:
        if folder.exists():
            stack.stack("down")
        shutil.rmtree(folder, ignore_errors=True)


def processes_that_name(text: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except (OSError, ProcessLookupError):
            continue
        if text.encode() in command and int(folder.name) != os.getpid():
            found.append(folder.name)
    return found


@pytest.mark.slow
def test_a_stack_from_nothing_answers_is_cancelled_resumed_and_ended(running: Running):
    said = running.stack("up")
    for what in ("PostgreSQL", "S3", "Prefect's server", "worker-1", "worker-2"):
        assert what in said
    environ = running.environ
    secrets = [environ["AWS_SECRET_ACCESS_KEY"], re.findall(r":([0-9a-f]{32})@", environ["R2_COORDINATION_URL"])[0]]
    assert not any(secret in said for secret in secrets)
    assert oct((running.folder / "env").stat().st_mode)[-3:] == "600"

    pids = {name: Programs(running.folder).pid(name) for name in ("prefect", "s3", "worker-1", "worker-2")}
    again = running.stack("up")
    assert {name: Programs(running.folder).pid(name) for name in pids} == pids, again

    # A run through a worker, cancelled in its middle, and another run of the same questions.
    rows = [
        {"id": str(n), "question": f"What is {n} + {n}?", "answer": str(2 * n), "benchmark": "arithmetic"}
        for n in range(400)
    ]
    (running.folder / "home/many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    settings = {
        "input": "many.jsonl",
        "pool": "pools/simulated.toml",
        "lake": "lake",
        "out": "answers.jsonl",
        "reasoning": {"method": "cot"},
        "max_in_flight": 4,
        "shard_size": 100,
    }
    first = running.start(settings)
    journals = running.folder / "home/lake"
    deadline = time.monotonic() + PATIENCE_S
    while sum(path.stat().st_size for path in journals.rglob("*.journal")) < 20_000:
        assert time.monotonic() < deadline, running.logs(first)
        time.sleep(0.1)
    running.api(f"/flow_runs/{first}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert running.until(first, "CANCELLED", "COMPLETED") == "CANCELLED"
    second = running.start(settings)
    running.until(second, "COMPLETED")
    answers = [json.loads(line) for line in (running.folder / "home/answers.jsonl").read_text("utf-8").splitlines()]
    assert len(answers) == 400
    with connect(running.folder / "home/lake") as db:
        sessions = db.execute("select status, n_answered from runs order by session").fetchall()
        [(n_calls, n_problems)] = db.execute("select count(*), count(distinct problem_id) from calls").fetchall()
    assert (n_calls, n_problems) == (400, 400), "no call was paid twice"
    assert [status for status, _ in sessions][-1] == "completed"
    assert len(sessions) == 2
    assert 0 < sessions[0][1] < 400, "what was paid when it was cancelled is kept"

    end = running.stack("down")
    assert "nothing runs any more" in end
    assert not running.folder.exists()
    deadline = time.monotonic() + 10
    while (left := processes_that_name(str(running.folder))) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
    assert "no stack in" in running.stack("down")
