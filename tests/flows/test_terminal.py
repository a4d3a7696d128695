"""Ctrl-C in a real terminal, which signals every process of the command: 130, in time, summed up, and gone on from."""

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from flows.support.terminal import END_S
from tests.support.paths import ROOT
from tests.support.prefect_api import shared_api
from tests.support.prefect_home import new_home
from tests.support.prefect_sockets import LEAVES_SOCKETS
from tests.support.provider import Provider
from tests.support.pty_command import CTRL_C, R2, PtyCommand, run

pytestmark = LEAVES_SOCKETS
IN_TIME_S = 10.0
AT_ONCE_S = 1.0
SIMULATED = "pools/simulated.toml"


def check_farewell(terminal: PtyCommand, command: list[str]) -> None:
    """What every interrupted command owes its user."""
    assert terminal.code == 130, terminal.said
    assert "Traceback" not in terminal.said
    assert "nanobind" not in terminal.said
    assert f"resumes it:\r\n  {shlex.join(['r2', *command[len(R2) :]])}" in terminal.said
    deadline = time.monotonic() + 5
    while terminal.children():
        assert time.monotonic() < deadline, [child.cmdline() for child in terminal.children()]
        time.sleep(0.05)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(n_prompt=8) as serving:
        yield serving


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"R2_STATE_DIR": str(tmp_path / "state"), "PREFECT_HOME": new_home(tmp_path / "prefect")}


@pytest.fixture(scope="module")
def api() -> Iterator[dict[str, str]]:
    """An API that several commands share: each then starts in half the time. That one which a command starts itself
    does not hear Ctrl-C is what the tests of `r2 answer` are for."""
    with shared_api():
        yield {"PREFECT_API_URL": str(PREFECT_API_URL.value())}


def answer_command(tmp_path: Path, provider: Provider) -> list[str]:
    questions = [{"id": f"q{i}", "question": f"What is {i} + {4 - i}?", "answer": "4"} for i in range(24)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    pool = provider.pool(tmp_path / "pool.toml")
    return [
        *R2,
        *("answer", str(tmp_path / "q.jsonl"), "--method", "cot", "--pool", str(pool)),
        *("--lake", str(tmp_path / "lake"), "--out", str(tmp_path / "a.jsonl")),
    ]


def test_answering_stops_in_time_though_calls_hang_and_goes_on_without_paying_twice(
    tmp_path: Path, provider: Provider, env: dict[str, str]
):
    command = answer_command(tmp_path, provider)
    with PtyCommand(command, env) as terminal:
        terminal.until(lambda said: len(provider.questions) >= 16, within_s=120)
        terminal.press(CTRL_C)
        assert terminal.ended(within_s=60) < IN_TIME_S
        check_farewell(terminal, command)
    assert "Interrupted; 16 questions are left." in terminal.said, terminal.said
    assert terminal.said.count("answered") >= 1
    first = provider.questions[:8]
    with PtyCommand(command, env) as terminal:  # and now without any patience
        terminal.until(lambda said: len(provider.questions) >= 24, within_s=120)
        terminal.press(CTRL_C)
        terminal.until(lambda said: "Stopping" in said, within_s=10)
        terminal.press(CTRL_C)
        assert terminal.ended(within_s=60) < AT_ONCE_S
        check_farewell(terminal, command)
    provider.is_awake.set()
    done = run(command, env)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["answered"] * 24
    assert all(provider.questions.count(question) == 1 for question in first), "what was answered is not asked again"


@pytest.mark.parametrize("moment", ["imports", "api"])
def test_a_command_that_is_only_starting_ends_at_once(
    tmp_path: Path, provider: Provider, env: dict[str, str], moment: str
):
    command = answer_command(tmp_path, provider)
    began = time.monotonic()
    is_reached: dict[str, Callable[[str], bool]] = {
        "imports": lambda said: time.monotonic() > began + 0.5,
        "api": lambda said: any("flows.support.embedded_api" in child.cmdline() for child in terminal.children()),
    }
    with PtyCommand(command, env) as terminal:
        terminal.until(is_reached[moment], within_s=60)
        terminal.press(CTRL_C)
        assert terminal.ended(within_s=60) < IN_TIME_S
        check_farewell(terminal, command)
    assert provider.questions == []
    assert "Stopping" not in terminal.said


def label(tmp_path: Path) -> list[str]:
    return [*R2, "label", "--problems", "scan", "--limit", "40", "--pool", SIMULATED, "--out", str(tmp_path / "sets")]


def evaluate(tmp_path: Path) -> list[str]:
    return [*R2, "evaluate", "--problems", "scan", "--limit", "20", "--pool", SIMULATED, "--methods", "cot:sim-4b,r2"]


def sft(tmp_path: Path) -> list[str]:
    return [
        *(*R2, "sft", "--policy", "specialist", "--problems", "arithmetic", "--base", "tiny", "--steps", "150"),
        *("--batch-size", "2", "--n-held-out", "2", "--threads", "1", "--policies-dir", str(tmp_path / "policies")),
    ]


def grpo(tmp_path: Path) -> list[str]:
    for name in ("tiny-decomposer", "tiny-allocator"):
        shutil.copytree(ROOT / "policies" / name, tmp_path / "policies" / name)
    return [
        *(*R2, "grpo", "--problems", "scan", "--limit", "60", "--pool", SIMULATED, "--rounds", "1", "--steps", "4"),
        *("--decomposer", "tiny-decomposer", "--allocator", "tiny-allocator", "--group-size", "2", "--save-steps", "1"),
        *("--n-held-out", "4", "--threads", "1", "--policies-dir", str(tmp_path / "policies")),
    ]


def has_worked(lake: Path) -> bool:
    """Something is there that a second session goes on from: paid calls, or a checkpoint."""
    journals = [*lake.glob("_runs/*/journal/*.journal"), *lake.glob("_evaluations/calls.journal")]
    checkpoints = [*lake.glob("_training/*/*/checkpoint-*"), *lake.glob("_runs/*/round-00/*/checkpoint-*")]
    return bool(checkpoints) or any(journal.stat().st_size > 3000 for journal in journals)


@pytest.mark.parametrize(
    "make",
    [label, evaluate, pytest.param(sft, marks=pytest.mark.slow), pytest.param(grpo, marks=pytest.mark.slow)],
    ids=["label", "evaluate", "sft", "grpo"],
)
def test_a_long_command_stops_in_time_and_goes_on(
    tmp_path: Path, env: dict[str, str], api: dict[str, str], make: Callable[[Path], list[str]]
):
    command = [*make(tmp_path), "--lake", str(tmp_path / "lake")]
    with PtyCommand(command, env | api) as terminal:
        terminal.until(lambda said: has_worked(tmp_path / "lake"), within_s=300)
        terminal.press(CTRL_C)
        assert terminal.ended(within_s=60) < IN_TIME_S
        check_farewell(terminal, command)
    assert "Interrupted" in terminal.said, terminal.said
    done = run(command, env | api)
    assert done.returncode == 0, done.stderr
    assert "nanobind" not in done.stderr


def test_what_hangs_is_left_after_some_seconds(tmp_path: Path):
    """The last line of defence: a command that neither stops nor gives up."""
    script = (
        "import signal, time\n"
        "from flows.support import terminal\n"
        "class Deaf:\n"
        "    def stop(self, reason): print('asked', flush=True)\n"
        "    def give_up(self): print('asked again', flush=True)\n"
        "terminal.END_S = terminal.GIVE_UP_S + 0.5\n"
        "terminal.listen()\n"
        "with terminal.stopped_by_signals(Deaf()):\n"
        "    print('ready', flush=True)\n"
        "    while True: time.sleep(0.1)\n"
    )
    with PtyCommand([sys.executable, "-c", script], {}) as terminal:
        terminal.until(lambda said: "ready" in said, within_s=60)
        terminal.press(CTRL_C)
        assert 4 < terminal.ended(within_s=60) < END_S
    assert terminal.code == 130
    assert terminal.said.index("asked") < terminal.said.index("asked again") < terminal.said.index("Ended after")


def test_without_a_terminal_a_sigterm_is_heard_the_same(tmp_path: Path):
    script = (
        "from flows.support.ending import as_command\n"
        "import time\n"
        "def work():\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally: print('closed', flush=True)\n"
        "as_command(work)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    said, told = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "closed\n")
    assert "Interrupted. The same command resumes it:" in told
    assert "Traceback" not in told
