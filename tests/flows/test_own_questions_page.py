"""docs/own_questions.md, followed by a reader in a fresh folder: every command as it stands there, in its order, with
its time."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r2.pool.file.config import load_pool
from r2.pool.servers.fetch import catalogue, find_weights
from tests.support.page import Section, command_lines, section
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "own_questions.md"
FIRST, LAST_SIMULATED, LOCAL = "The rows", "Answer new rows", "The same on local models"
MODELS = Path(os.environ.get("R2_MODELS_DIR", ROOT / "models"))


def follow(part: Section, folder: Path) -> dict[str, str]:
    """Saves the files and gives the commands to a shell; command -> what it printed. The times are printed, in seconds.

    The shell has `r2` and `python` as an installed environment has them, and a home of its own.
    """
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "r2").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m flows.cli "$@"\n')
    (programs / "r2").chmod(0o755)
    (programs / "python").unlink(missing_ok=True)
    (programs / "python").symlink_to(sys.executable)
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "R2_STATE_DIR": str(folder / "state"),
        "R2_MODELS_DIR": str(MODELS),
        "COLUMNS": "160",
    }
    for name, text in part.files.items():
        (folder / name).write_text(text, "utf-8")
    printed: dict[str, str] = {}
    began = time.monotonic()
    for command in part.commands:
        started = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        took_s = time.monotonic() - started
        sys.stdout.write(f"{took_s:7.1f} s  {command}\n{done.stdout}")
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr[-4000:]}"
        printed[command] = done.stdout
    sys.stdout.write(f"{time.monotonic() - began:7.1f} s  in all\n")
    return printed


def said_by(printed: dict[str, str], beginning: str) -> str:
    """What the commands printed that begin so."""
    return "".join(text for command, text in printed.items() if command.startswith(beginning))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The part on simulated models, in a folder that has nothing else."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("R2_POLICIES_DIR", raising=False)
        return folder, follow(section(PAGE, FIRST, LAST_SIMULATED), folder)


def test_the_commands_of_a_block_are_read_as_a_shell_reads_them():
    assert command_lines("r2 a --x 1 \\\n    --y 2   # why\n\n# a remark\nr2 b 'c # d'\n") == [
        "r2 a --x 1 --y 2",
        "r2 b 'c # d'",
    ]


def test_the_page_has_the_files_that_its_commands_name():
    part = section(PAGE, FIRST, LOCAL)
    assert {"make_invoices.py", "grade.py", "label.toml"} <= set(part.files)
    named = {word for command in part.commands for word in command.split() if word.endswith(".toml")}
    made = {command.split()[3] for command in part.commands if command.startswith("r2 pool init ")}
    assert {name for name in named if "/" not in name} == {name for name in part.files if name.endswith(".toml")} | made


@pytest.mark.slow
def test_300_rows_become_a_trained_and_evaluated_router_on_simulated_models(
    followed: tuple[Path, dict[str, str]],
):
    folder, printed = followed
    assert len(rows_of(folder / "invoices.csv")) == 300
    assert "labelled" in said_by(printed, "r2 label")
    assert "exact_plan" in said_by(printed, "r2 sft")
    assert "invoice-allocator@v2" in said_by(printed, "r2 grpo")
    table = said_by(printed, "r2 evaluate")
    assert "judged by: grade.py:ok" in table and "> trained" in table and "decompose_one" in table
    assert {"planner", "allocator"} <= set(load_pool(folder / "own_pool.toml", folder / "policies").models)
    for name in ("new.answers.csv", "rule.answers.csv"):
        assert [row["status"] for row in rows_of(folder / name)] == ["answered"] * 3


@pytest.mark.slow
def test_the_same_rows_train_and_evaluate_a_router_on_local_models(followed: tuple[Path, dict[str, str]]):
    if not all(find_weights(name).path(MODELS).exists() for name in catalogue()):
        pytest.skip(f"no weights in {MODELS}: r2 pool fetch")
    folder, _ = followed
    printed = follow(section(PAGE, LOCAL, LOCAL), folder)
    assert "labelled" in said_by(printed, "r2 label")
    table = said_by(printed, "r2 evaluate")
    assert "judged by: grade.py:ok" in table and "> trained" in table
    assert [row["status"] for row in rows_of(folder / "local.answers.csv")] == ["answered"] * 3
