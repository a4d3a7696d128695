"""What goes wrong around a run arrives as one message with the right exit code, soon, and costs no answer."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from flows.cli.console import STARTING
from flows.support.embedded_api import _is_healthy
from r2.lifeline import end, spawn
from tests.support.paths import ROOT
from tests.support.prefect_api import shared_api
from tests.support.prefect_home import new_home
from tests.support.prefect_sockets import LEAVES_SOCKETS
from tests.support.provider import Provider
from tests.support.pty_command import R2, run

pytestmark = LEAVES_SOCKETS
SERVER = [sys.executable, "-m", "flows.support.embedded_api", "--port"]


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    with shared_api():
        yield str(PREFECT_API_URL.value())


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as serving:
        yield serving


@pytest.fixture
def env(tmp_path: Path, api: str) -> dict[str, str]:
    return {
        "R2_STATE_DIR": str(tmp_path / "state"),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": api,
    }


def answer(tmp_path: Path, provider: Provider, lake: str = "lake", out: str = "a.jsonl") -> list[str]:
    questions = [{"id": f"q{i}", "question": f"What is {i} + {4 - i}?", "answer": "4"} for i in range(6)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    return [
        *(*R2, "answer", str(tmp_path / "q.jsonl"), "--method", "cot"),
        *("--pool", str(provider.pool(tmp_path / "pool.toml"))),
        *("--lake", str(tmp_path / lake), "--out", str(tmp_path / out)),
    ]


def only_message(done: "subprocess.CompletedProcess[str]", code: int) -> str:
    """All that the command said on stderr, but that it starts: one line that begins with `r2: `."""
    assert done.returncode == code, done.stderr
    said = done.stderr.removeprefix(f"{STARTING}\n")
    assert said.startswith("r2: "), done.stderr
    assert said.count("\n") == 1, done.stderr
    return said


# The disk is full once the lake is to be written: os.fsync is where Linux says so of a file in the cache.
FULL_DISK = """
import errno, os, sys
from flows.cli import main
sync, lake = os.fsync, sys.argv.pop(1)
def full(descriptor):
    if os.readlink(f"/proc/self/fd/{descriptor}").startswith(lake):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    sync(descriptor)
os.fsync = full
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which file a descriptor is")
@pytest.mark.parametrize("table", ["trajectories", "_manifest"])
def test_a_full_disk_is_said_at_once_and_the_same_command_goes_on_without_paying_twice(
    tmp_path: Path, provider: Provider, env: dict[str, str], table: str
):
    command = answer(tmp_path, provider)
    full = [sys.executable, "-c", FULL_DISK, str(tmp_path / "lake" / table), *command[len(R2) :]]
    said = only_message(run(full, env), 1)
    assert str(tmp_path / "lake") in said
    assert "no space left on device. Make room on the disk. Nothing is lost" in said
    done = run(command, env)
    assert done.returncode == 0, done.stderr
    assert len(provider.questions) == 6


def test_a_lake_that_is_deleted_while_a_run_works_on_it(tmp_path: Path, provider: Provider, env: dict[str, str]):
    provider.at_first_question = lambda: shutil.rmtree(tmp_path / "lake")
    said = only_message(run(answer(tmp_path, provider), env), 1)
    assert str(tmp_path / "lake") in said


@pytest.mark.parametrize(
    ("lake", "out", "says"),
    [
        ("lake", "file/a.jsonl", "--out {}/file: nothing can be written there: "),
        ("lake", "", "--out {}: this is a folder; the name of a file was expected."),
        ("file/lake", "a.jsonl", "--lake {}/file/lake: nothing can be written there: "),
    ],
    ids=["out below a file", "out is a folder", "lake below a file"],
)
def test_a_place_that_cannot_be_written_is_wrong_usage_and_said_before_anything_is_asked(
    tmp_path: Path, provider: Provider, env: dict[str, str], lake: str, out: str, says: str
):
    (tmp_path / "file").write_text("in the way")
    said = only_message(run(answer(tmp_path, provider, lake, out), env), 2)
    assert says.format(tmp_path) in said
    assert provider.questions == []


def test_answers_are_written_though_the_api_that_the_user_named_is_lost(
    tmp_path: Path, provider: Provider, env: dict[str, str]
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = {"PREFECT_HOME": new_home(tmp_path / "server")}
    server = spawn([*SERVER, str(port)], log=tmp_path / "server.log", env=os.environ | home)
    try:
        while not _is_healthy(url := f"http://127.0.0.1:{port}/api"):
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            time.sleep(0.1)
        provider.at_first_question = server.kill
        done = run(answer(tmp_path, provider), env | {"PREFECT_API_URL": url, "PREFECT_CLIENT_MAX_RETRIES": "1"})
    finally:
        end(server)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("r2: Prefect's API was lost: ")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["answered"] * 6


@pytest.mark.parametrize("flag", [[], ["--debug"]], ids=["plain", "debug"])
def test_a_traceback_is_shown_only_to_who_asks_for_it(flag: list[str]):
    script = (
        "from flows.support.ending import as_command\n"
        "def work():\n"
        "    import logging\n"
        "    try: 1 / 0\n"
        "    except ZeroDivisionError as error:\n"
        "        logging.getLogger('prefect').exception('failed')\n"
        "        raise ExceptionGroup('shards', [error])\n"
        "as_command(work)\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "R2_DEBUG"}
    done = subprocess.run(
        [sys.executable, "-c", script, *flag], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("r2: ZeroDivisionError: division by zero. This is a bug")
    assert ("Traceback" in done.stderr) == bool(flag)


def test_the_reader_of_a_pipe_may_go_before_the_end(tmp_path: Path, env: dict[str, str]):
    command = f"{sys.executable} -m flows.cli --help | head -c 1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
