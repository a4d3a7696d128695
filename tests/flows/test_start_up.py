"""What a command does before it works: nothing that it does not need, and it says so at once."""

import asyncio
import gzip
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from rich.console import Console

from flows.cli.console import STARTING
from flows.cli.root import COMMANDS
from flows.support import embedded_api
from flows.support.progress import _facts, _picture
from flows.support.ready import api_and_models
from r2.errors import EndpointError
from r2.pool.client.gauges import ModelGauge
from r2.pool.file.config import load_pool
from r2.pool.simulated.process import start_simulated, started_ahead
from r2.settings import AnswerSettings, Reasoning
from storage.lake.lake import Lake
from storage.runs.plan import read_plan
from tasks.answering.answer_rows import answer_rows
from tasks.answering.finish_run import finish_run
from tasks.answering.finished import finished_run
from tasks.answering.plan_file import plan_file
from tasks.answering.progress import Counts, Progress
from tasks.answering.session import open_session
from tests.support.paths import ROOT
from tests.support.provider import Provider
from tests.support.pty_command import R2, run

SIMULATED = ROOT / "pools" / "simulated.toml"
NO_API = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
"""Whoever needs Prefect's API fails."""


def settings_of(tmp_path: Path, provider: Provider) -> AnswerSettings:
    questions = [{"id": f"q{i}", "question": f"What is {i} + {4 - i}?", "answer": "4"} for i in range(6)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    return AnswerSettings(
        input=str(tmp_path / "q.jsonl"),
        pool=str(provider.pool(tmp_path / "pool.toml")),
        lake=str(tmp_path / "lake"),
        out=str(tmp_path / "a.jsonl"),
        reasoning=Reasoning(method="cot"),
    )


def command_of(settings: AnswerSettings) -> list[str]:
    places = ["--pool", settings.pool, "--lake", settings.lake, "--out", settings.out or ""]
    return [*R2, "answer", settings.input, "--method", "cot", *places]


async def answered(run_dir: Path) -> Progress:
    async with open_session(read_plan(run_dir)) as session:
        await answer_rows(session, 0)
        return session.progress


def test_a_finished_run_is_told_again_without_an_api_and_its_answers_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("R2_STATE_DIR", str(tmp_path / "state"))
    with Provider() as provider:
        settings = settings_of(tmp_path, provider)
        assert finished_run(settings) is None, "nothing is answered yet"
        run_dir = plan_file(settings)
        finish_run(run_dir, asyncio.run(answered(run_dir)), settings.out)
        (tmp_path / "a.jsonl").unlink()
        n_asked, units = len(provider.questions), Lake(tmp_path / "lake").units(run_dir.name)
        done = run(command_of(settings), {"R2_STATE_DIR": str(tmp_path / "state"), **NO_API})
        report = f"See it as one page: r2 report {run_dir.name} --lake {tmp_path / 'lake'}\n"
        assert (done.returncode, done.stderr) == (0, f"{STARTING}\n{report}")
        assert len(provider.questions) == n_asked == 6
    assert Lake(tmp_path / "lake").units(run_dir.name) == units, "nothing in the lake changes"
    assert len((tmp_path / "a.jsonl").read_text("utf-8").splitlines()) == 6


def test_an_input_that_cannot_be_read_to_its_end_is_said_without_an_api(tmp_path: Path):
    with Provider() as provider:
        settings = settings_of(tmp_path, provider)
        whole = gzip.compress((tmp_path / "q.jsonl").read_bytes())
        (tmp_path / "q.jsonl.gz").write_bytes(whole[:-12])
        torn = settings.model_copy(update={"input": str(tmp_path / "q.jsonl.gz")})
        done = run(command_of(torn), {"R2_STATE_DIR": str(tmp_path / "state"), **NO_API})
    assert done.returncode == 2, done.stderr
    assert "q.jsonl.gz" in done.stderr and "PREFECT_API_URL" not in done.stderr


def test_commands_that_ask_no_flow_load_no_prefect(tmp_path: Path):
    """Nor what takes as long: the packages of trainings."""
    script = (
        "import sys\n"
        "from flows.cli.app import app\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    app(line.split(), standalone_mode=False)\n"
        "print(*sorted({'prefect', 'torch', 'transformers', 'altair'} & set(sys.modules)), file=sys.stderr)\n"
    )
    (tmp_path / "q.jsonl").write_text('{"question": "What is 1 + 1?"}\n')
    lines = [
        f"answer {tmp_path}/q.jsonl --pool pools/simulated.toml --dry-run",
        "policy list",
        "label --problems scan --limit 3 --pool pools/simulated.toml --dry-run",
    ]
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="\n".join(lines),
        env={**os.environ, "COLUMNS": "120"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, ""), done.stderr


def test_the_command_s_own_help_loads_no_command_and_a_command_no_other():
    def loaded(*words: str) -> set[str]:
        script = (
            "import atexit, sys\nfrom flows.cli import _command\n"
            "atexit.register(lambda: print('loaded:', *sys.modules))\n_command()\n"
        )
        done = run([sys.executable, "-c", script, *words], {})
        return set(done.stdout.splitlines()[-1].split()[1:])

    every = {f"flows.cli.{name}" for name in COMMANDS}
    assert not loaded("--help") & {*every, "pydantic", "asyncio", "flows.cli.app"}
    assert loaded("report", "--help") & every == {"flows.cli.report"}


def test_what_tells_a_finished_run_loads_no_prefect():
    script = (
        "import sys, tasks.answering.finished, tasks.evaluation.finished, tasks.labelling.finished\n"
        "import tasks.training.sft_run, tasks.training.train_rounds\n"
        "print(*sorted({'prefect', 'torch', 'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def children() -> list[str]:
    """Which of our servers this process has as children."""
    servers = ("flows.support.embedded_api", "r2.pool.simulated.process")
    return sorted(name for child in psutil.Process().children() for name in servers if name in child.cmdline())


def test_the_api_and_the_simulated_models_start_side_by_side(monkeypatch: pytest.MonkeyPatch):
    """Both are on their way when the API is waited for; where it does not come, neither is left behind."""
    before, at_the_wait = children(), list[str]()

    def never_comes(server: embedded_api._Server) -> None:
        at_the_wait.extend(children())
        raise EndpointError("seen enough")

    monkeypatch.setattr(embedded_api._Server, "start", never_comes)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with (
        pytest.raises(EndpointError, match="seen enough"),
        api_and_models(load_pool(SIMULATED), importing="flows.answer_questions"),
    ):
        raise AssertionError("opened")
    assert at_the_wait == sorted([*before, "flows.support.embedded_api", "r2.pool.simulated.process"])
    assert children() == before


def test_the_server_that_was_started_ahead_is_the_one_that_answers():
    pool = load_pool(SIMULATED)
    before = children()

    async def n_servers() -> int:
        async with start_simulated(pool) as address:
            assert address.startswith("http://127.0.0.1:")
            return len(children()) - len(before)

    with started_ahead(pool):
        assert asyncio.run(n_servers()) == 1
        assert children() == before, "it ends with the run that took it"
        assert asyncio.run(n_servers()) == 1, "and the next run starts its own"


def test_a_run_loads_no_package_of_trainings_evaluations_and_reports(tmp_path: Path):
    script = (
        "import asyncio, sys\n"
        "import flows.cli.answer, flows.answer_questions as flow, flows.support.embedded_api as api\n"
        "from r2.settings import AnswerSettings\n"
        "from tasks.answering import answer_rows, finish_run, plan_file, session\n"
        "async def answered(run_dir):\n"
        "    async with session.open_session(flow.read_plan(run_dir)) as open_session:\n"
        "        await answer_rows.answer_rows(open_session, 0)\n"
        "        return open_session.progress\n"
        "given = dict(zip(('input', 'pool', 'lake', 'out'), sys.argv[1:]))\n"
        "run_dir = plan_file.plan_file(AnswerSettings(**given))\n"
        "finish_run.finish_run(run_dir, asyncio.run(answered(run_dir)), given['out'])\n"
        "for name in api._LATE_IMPORTS: __import__(name)\n"
        "heavy = 'torch transformers trl datasets sklearn scipy altair gguf xllamacpp'\n"
        "print('loaded:', *sorted(set(heavy.split()) & set(sys.modules)))\n"
    )
    (tmp_path / "q.jsonl").write_text('{"question": "What is 1 + 1?", "benchmark": "arithmetic"}\n')
    places = [str(tmp_path / "q.jsonl"), str(SIMULATED), str(tmp_path / "lake"), str(tmp_path / "a.jsonl")]
    done = run([sys.executable, "-c", script, *places], {"R2_STATE_DIR": str(tmp_path / "state")})
    assert done.stdout == "loaded:\n", done.stderr
    assert len((tmp_path / "a.jsonl").read_text("utf-8").splitlines()) == 1


def session_of(n_settled: int, *, seconds: float) -> Any:
    """What the display reads of a session: 100 questions, of which some were settled in the time since it began."""
    progress = Progress(100, started_at=time.time() - seconds)
    progress.settle("shard", Counts(n_answered=n_settled, cost_usd=0.5))
    gauge = ModelGauge("sim-4b", 1, 64, 50, 5.0, 0, 0, 0.1, 0.2, 0.5)
    return SimpleNamespace(
        plan=SimpleNamespace(run_id="r2-1"),
        progress=progress,
        client=SimpleNamespace(gauges=lambda: [gauge]),
        lanes=None,
    )


def drawn(session: Any) -> list[str]:
    shown = io.StringIO()
    Console(file=shown, width=120).print(_picture(session))
    return shown.getvalue().splitlines()


def test_the_table_has_its_headings_on_a_line_of_their_own_below_the_bar():
    head, bar, headings, row = drawn(session_of(50, seconds=10))
    assert head.startswith("r2-1  50 answered")
    assert set(bar.strip()) <= set("━╸╺ ")
    assert headings.split()[:3] == ["model", "in", "flight"]
    assert row.startswith("sim-4b")


def test_the_display_says_what_reused_calls_saved():
    session = session_of(50, seconds=10)
    assert "saved" not in drawn(session)[0]
    session.progress.settle("another", Counts(n_answered=1, saved_usd=0.25))
    assert "saved" not in "".join(drawn(session)[1:])
    assert "0.250000 saved" in " ".join(drawn(session))
    assert (_facts(session)["usd"], _facts(session)["usd_saved"]) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("n_settled", "seconds", "said"),
    [(0, 10, ""), (50, 10, "about 10 s left"), (10, 20, "about 3 min left"), (1, 300, "about 8 h left")],
)
def test_the_display_says_how_long_the_rest_takes(n_settled: int, seconds: float, said: str):
    head = drawn(session_of(n_settled, seconds=seconds))[0]
    found = re.search(r"about .* left", head)
    assert (found[0] if found else "") == said
    left = _facts(session_of(n_settled, seconds=seconds))["seconds_left"]
    assert left == (None if n_settled == 0 else round((100 - n_settled) * seconds / n_settled))
