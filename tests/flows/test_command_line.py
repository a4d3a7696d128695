"""The command `r2` as its user meets it: every shipped settings file is accepted by the command it is named for."""

import importlib
import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from flows.cli.app import app
from tests.support.paths import ROOT

CONFIGS = sorted((ROOT / "configs").rglob("*.toml"))


def command_of(path: Path) -> str:
    """`configs/GOAL/[STEP_]COMMAND[_WHAT].toml`: the first word that is no number."""
    return next(word for word in path.stem.split("_") if not word.isdigit())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_config_is_accepted_by_the_command_it_is_named_for(path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[BaseModel] = []
    monkeypatch.setattr(importlib.import_module(f"flows.cli.{command_of(path)}"), "_print_estimate", seen.append)
    done = CliRunner().invoke(app, [command_of(path), "--config", str(path), "--dry-run"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    [settings] = seen
    assert settings.model_fields_set, "the file's settings arrived"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_config_says_with_which_command_it_runs(path: Path):
    name = path.relative_to(ROOT)
    assert f"#   r2 {command_of(path)} --config {name}" in path.read_text("utf-8")


def test_configs_of_one_goal_are_numbered_in_the_order_of_their_steps():
    for folder in {path.parent for path in CONFIGS}:
        steps = [int(found[1]) for path in sorted(folder.glob("*.toml")) if (found := re.match(r"(\d+)_", path.stem))]
        assert sorted(set(steps)) == list(range(1, len(set(steps)) + 1)), folder
