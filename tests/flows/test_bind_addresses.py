"""Whatever a command serves while it works, only this machine can reach."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.support.paths import ROOT
from tests.support.prefect_home import new_home


def listening(process: psutil.Process) -> set[tuple[str, str]]:
    """(address, program) of every socket that the command and its children listen on."""
    found: set[tuple[str, str]] = set()
    for one in [process, *process.children(recursive=True)]:
        try:
            sockets, words = one.net_connections(kind="tcp"), one.cmdline()
        except psutil.Error:  # it has ended meanwhile
            continue
        name = next((word for word in words if word.startswith(("flows.", "r2."))), "the command")
        found |= {(socket.laddr.ip, name) for socket in sockets if socket.status == psutil.CONN_LISTEN}
    return found


def test_a_run_listens_on_this_machine_alone(tmp_path: Path):
    """It has two servers of its own: Prefect's API, and the simulated models."""
    rows = [json.dumps({"id": str(i), "question": f"What is {i} + {i}?", "benchmark": "arithmetic"}) for i in range(80)]
    (tmp_path / "q.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    command = [sys.executable, "-m", "flows.cli", "answer", str(tmp_path / "q.jsonl"), "--lake", str(tmp_path / "lake")]
    command += ["--pool", "pools/simulated.toml", "--out", str(tmp_path / "a.jsonl")]
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    env |= {"R2_STATE_DIR": str(tmp_path / "state"), "PREFECT_HOME": new_home(tmp_path / "prefect")}
    seen: set[tuple[str, str]] = set()
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        told = psutil.Process(running.pid)
        while running.poll() is None:
            seen |= listening(told)
            time.sleep(0.05)
        assert running.stdout is not None
        said = running.stdout.read().decode()
    assert running.returncode == 0, said
    assert {name for _, name in seen} >= {"flows.support.embedded_api", "r2.pool.simulated.process"}
    assert {address for address, _ in seen} == {"127.0.0.1"}
