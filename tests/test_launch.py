"""How trainings are started on several devices: the command by value, accelerate's own reading of every shipped configuration, and the ranks."""

import subprocess
import sys
from pathlib import Path

import pytest

from r2.errors import ConfigError
from r2.training.launch import accelerate_arguments, training_command
from r2.training.ranks import gathered, is_writer, n_processes, rank, suffixed, wait_for

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs/accelerate").glob("*.yaml"))
SPEC = Path("spec.json")


def test_without_a_configuration_a_training_is_one_process_of_this_python():
    assert training_command("tasks.grpo_round", SPEC) == [sys.executable, "-m", "tasks.grpo_round", "spec.json"]


def test_a_configuration_starts_accelerate_and_a_launcher_is_put_in_front():
    config = str(CONFIGS[0])
    assert training_command("tasks.grpo_round", SPEC, accelerate_config=config) == [
        sys.executable, "-m", "r2.training.launch", config, "tasks.grpo_round", "spec.json",
    ]  # fmt: skip
    assert training_command("tasks.train_policy", SPEC, launcher=("torchrun", "--nproc_per_node", "4")) == [
        "torchrun", "--nproc_per_node", "4", "-m", "tasks.train_policy", "spec.json",
    ]  # fmt: skip
    assert accelerate_arguments("a.yaml", "tasks.grpo_round", "spec.json") == [
        "--config_file", "a.yaml", "-m", "tasks.grpo_round", "spec.json",
    ]  # fmt: skip


def test_a_missing_configuration_and_two_ways_at_once_are_refused():
    with pytest.raises(ConfigError, match=r"no such file.*configs/accelerate"):
        training_command("tasks.grpo_round", SPEC, accelerate_config="nowhere.yaml")
    with pytest.raises(ConfigError, match="give one of them"):
        training_command("tasks.grpo_round", SPEC, accelerate_config=str(CONFIGS[0]), launcher=("torchrun",))


def test_rank_0_writes_and_a_single_process_is_rank_0():
    assert (rank({}), n_processes({}), is_writer({})) == (0, 1, True)
    second = {"RANK": "1", "WORLD_SIZE": "8"}
    assert (rank(second), n_processes(second), is_writer(second)) == (1, 8, False)
    assert is_writer({"RANK": "0", "WORLD_SIZE": "8"})
    assert suffixed(Path("run/calls.journal"), {}) == Path("run/calls.journal")
    assert suffixed(Path("run/calls.journal"), second) == Path("run/calls-rank1.journal")
    assert gathered([1, 2]) == [1, 2]


def test_a_rank_waits_for_what_the_writer_makes(tmp_path: Path):
    made = tmp_path / "plans.json"
    code = "import sys, pathlib; from r2.training.ranks import wait_for; wait_for(pathlib.Path(sys.argv[1]), 0.01); print('seen')"
    waiting = subprocess.Popen([sys.executable, "-c", code, str(made)], stdout=subprocess.PIPE, cwd=ROOT)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.5)
    made.touch()
    out, _ = waiting.communicate(timeout=30)
    assert out == b"seen\n"
    wait_for(made)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_every_shipped_configuration_and_knows_all_its_keys(path: Path):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    config = load_config_from_file(str(path))
    given = accelerate_arguments(str(path), "tasks.grpo_round", "spec.json")
    args, chosen, _ = _validate_launch_command(launch_command_parser().parse_args(given))
    assert (args.module, args.training_script, args.training_script_args) == (True, "tasks.grpo_round", ["spec.json"])
    assert chosen is not None and chosen.distributed_type == config.distributed_type
    assert args.num_processes == config.num_processes
    assert args.mixed_precision == config.mixed_precision
    assert (args.use_fsdp, args.use_deepspeed) == ("fsdp" in path.stem or "nodes" in path.stem, "zero" in path.stem)


@pytest.mark.parametrize("name", ["fsdp2", "two_nodes"])
def test_the_settings_of_fsdp_are_those_of_its_second_version(name: str, monkeypatch: pytest.MonkeyPatch):
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env

    path = ROOT / f"configs/accelerate/{name}.yaml"
    args, _, _ = _validate_launch_command(
        launch_command_parser().parse_args(accelerate_arguments(str(path), "tasks.grpo_round", "spec.json"))
    )
    for variable, value in prepare_multi_gpu_env(args).items():
        monkeypatch.setenv(variable, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert plugin.cpu_ram_efficient_loading
    assert plugin.activation_checkpointing is False
    assert type(plugin.cpu_offload).__name__ == "OffloadPolicy", "FSDP2's word for none"
