"""What docs/gpu.md tells people to run: its files load, its commands are ones that the installed programs know."""

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from flows.cli.app import app
from r2.pool.file.config import load_pool
from r2.training.grpo.settings import GrpoSettings, load_grpo_settings
from r2.training.launch import training_command
from r2.training.sft.settings import load_sft_settings
from tests.support.named import Text, lines_of_blocks
from tests.support.paths import ROOT

PAGE = (ROOT / "docs/gpu.md").read_text("utf-8")
COMMANDS = [named.name for named in lines_of_blocks(Text(ROOT / "docs/gpu.md", 1, PAGE, is_markdown=True))]


def commands(program: str) -> list[list[str]]:
    """The page's commands of one program, without variables before it."""
    found = []
    for command in COMMANDS:
        words = shlex.split(command)
        if Path(words[0]).name == program:
            found.append(words[1:])
    assert found, f"no command of {program} on the page"
    return found


def test_every_r2_command_of_the_page_is_one(monkeypatch: pytest.MonkeyPatch):
    group: Any = typer.main.get_command(app)
    for words in commands("r2"):
        command, rest = group, words
        while isinstance(command, TyperGroup):
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context(" ".join(words), list(rest), resilient_parsing=False).close()


def test_the_pages_accelerate_command_is_understood_and_its_files_are_there():
    from accelerate.commands.launch import launch_command_parser

    for words in commands("accelerate"):
        assert words[0] == "launch"
        args = launch_command_parser().parse_args(words[1:])
        assert (ROOT / args.config_file).is_file()
        assert (args.machine_rank, args.module, args.training_script) == (1, True, "tasks.training.grpo_process")
    for name in re.findall(r"configs/[\w/.]+\.\w+|pools/[\w.]+\.toml|tests/[\w/]+\.py|(?<![\w/])r2/[\w/]+\.py", PAGE):
        assert (ROOT / name).is_file(), name
    listed = set(re.findall(r"^\| `(\w+\.yaml)`", PAGE, re.MULTILINE))
    assert listed == {path.name for path in (ROOT / "configs/accelerate").glob("*.yaml")}


def test_the_training_of_the_page_starts_on_every_gpu_in_its_own_environment():
    settings = load_grpo_settings(ROOT / "configs/gpu/grpo.toml", {})
    command = training_command("tasks.training.grpo_process", Path("spec.json"), launcher=settings.launcher)
    assert command[3:] == [
        ".venv-gpu/bin/accelerate",
        "launch",
        "--config_file",
        "configs/accelerate/ddp.yaml",
        "-m",
        "tasks.training.grpo_process",
        "spec.json",
    ]
    assert settings.rounds * settings.steps == 1024
    sft = load_sft_settings(ROOT / "configs/gpu/sft.toml", {})
    assert sft.accelerate_config is not None
    assert (ROOT / sft.accelerate_config).is_file()


def test_the_settings_for_vllm_are_fields_of_the_trainer():
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.sft_config import SFTConfig

    grpo = GrpoSettings.model_validate(load_grpo_settings(ROOT / "configs/gpu/grpo.toml", {})).grpo
    assert set(grpo) <= {field.name for field in fields(GRPOConfig)}
    assert (grpo["use_vllm"], grpo["vllm_mode"]) == (True, "server")
    trainer = load_sft_settings(ROOT / "configs/gpu/sft.toml", {}).trainer
    assert set(trainer) <= {field.name for field in fields(SFTConfig)}


def test_trls_server_knows_the_pages_flags():
    from transformers import HfArgumentParser
    from trl.scripts.vllm_serve import ScriptArguments

    [words] = commands("trl")
    assert words[0] == "vllm-serve"
    [given] = HfArgumentParser(ScriptArguments).parse_args_into_dataclasses(words[1:])
    port = load_grpo_settings(ROOT / "configs/gpu/grpo.toml", {}).grpo["vllm_server_port"]
    assert given.port == port, "the trainer looks for it there"


def test_the_pool_on_vllm_serves_the_adapters_it_names():
    pool = load_pool(ROOT / "pools/vllm.example.toml")
    assert [card.name for card in pool.roster().solvers] == ["small-base", "large"]
    first, second = [words for words in commands("vllm") if words[0] == "serve"]
    modules = dict(word.split("=") for word in first[first.index("--lora-modules") + 1 :])
    for role in ("decomposer", "allocator"):
        table = pool.models[role]
        assert modules[table.served_model] == f"policies/{role}/v1"
        assert table.endpoint == f"http://127.0.0.1:{first[first.index('--port') + 1]}/v1"
        assert pool.roster()[role].prompt_mode == "bare"
    assert first[1] == pool.models["small-base"].served_model
    assert second[1] == pool.models["large"].served_model
    assert pool.roster()[pool.router.allocator].has_logprobs
