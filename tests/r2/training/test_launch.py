"""How trainings are started on several devices: the command by value, accelerate's own reading of every shipped
configuration, and the ranks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from r2.errors import ConfigError
from r2.lifeline import end, spawn
from r2.training.curve import MetricsFile
from r2.training.launch import accelerate_arguments, training_command
from r2.training.ranks import gathered, is_writer, n_processes, rank, suffixed, wait_for
from r2.training.sft.settings import SftSettings
from tasks.training.sft_process import PolicySpec, read_result
from tests.support.paths import ROOT

CONFIGS = sorted((ROOT / "configs/accelerate").glob("*.yaml"))
SPEC = Path("spec.json")
TWO_PROCESSES = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29517")
"""accelerate needs MPI for several processes without a GPU; torchrun, which it uses for GPUs, does not."""


def test_without_a_configuration_a_training_is_one_process_of_this_python():
    assert training_command("tasks.training.grpo_process", SPEC) == [
        sys.executable,
        "-m",
        "tasks.training.grpo_process",
        "spec.json",
    ]


def test_a_configuration_starts_accelerate_and_a_launcher_is_put_in_front():
    config, between = str(CONFIGS[0]), [sys.executable, "-m", "r2.training.launch"]
    assert training_command("tasks.training.grpo_process", SPEC, accelerate_config=config) == [
        *between,
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        config,
        "-m",
        "tasks.training.grpo_process",
        "spec.json",
    ]
    assert training_command("tasks.training.sft_process", SPEC, launcher=("torchrun", "--nproc_per_node", "4")) == [
        *between,
        "torchrun",
        "--nproc_per_node",
        "4",
        "-m",
        "tasks.training.sft_process",
        "spec.json",
    ]


def test_a_missing_configuration_and_two_ways_at_once_are_refused():
    with pytest.raises(ConfigError, match=r"no such file.*configs/accelerate"):
        training_command("tasks.training.grpo_process", SPEC, accelerate_config="nowhere.yaml")
    with pytest.raises(ConfigError, match="give one of them"):
        training_command("tasks.training.grpo_process", SPEC, accelerate_config=str(CONFIGS[0]), launcher=("torchrun",))


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
    code = (
        "import sys, pathlib; from r2.training.ranks import wait_for; wait_for(pathlib.Path(sys.argv[1]), 0.01); "
        "print('seen')"
    )
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
    given = accelerate_arguments(str(path), "tasks.training.grpo_process", "spec.json")
    args, chosen, _ = _validate_launch_command(launch_command_parser().parse_args(given))
    assert (args.module, args.training_script, args.training_script_args) == (
        True,
        "tasks.training.grpo_process",
        ["spec.json"],
    )
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
        launch_command_parser().parse_args(accelerate_arguments(str(path), "tasks.training.grpo_process", "spec.json"))
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


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3)])
def test_the_settings_of_deepspeed_are_read_as_their_stage(name: str, stage: int, monkeypatch: pytest.MonkeyPatch):
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import DeepSpeedPlugin
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    path = ROOT / f"configs/accelerate/{name}.yaml"
    args, config, _ = _validate_launch_command(
        launch_command_parser().parse_args(accelerate_arguments(str(path), "tasks.training.grpo_process", "spec.json"))
    )
    args.deepspeed_fields_from_accelerate_config = ",".join(config.deepspeed_config)  # as `launch_command` does
    for variable, value in prepare_deepspeed_cmd_env(args)[1].items():
        monkeypatch.setenv(variable, value)
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == stage
    assert plugin.zero3_save_16bit_model == (stage == 3), "else rank 0 cannot save the weights"
    assert plugin.offload_param_device == "none"


@pytest.mark.slow
def test_two_processes_train_one_policy_and_one_of_them_writes(tmp_path: Path):
    spec = PolicySpec(
        settings=SftSettings(
            policy="specialist",
            problems="arithmetic",
            base="tiny",
            steps=3,
            batch_size=4,
            n_problems=200,
            n_held_out=4,
            threads=1,
        ),
        kind="specialist",
        run_id="two",
        work_dir=tmp_path / "work",
    )
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    command = training_command("tasks.training.sft_process", tmp_path / "spec.json", launcher=TWO_PROCESSES)
    process = spawn(command, log=tmp_path / "log")
    try:
        assert process.wait(240) == 0, (tmp_path / "log").read_text()
    finally:
        end(process)
    result = read_result(spec.work_dir)
    assert result is not None
    assert result.n_rows == 12
    losses = [point for point in MetricsFile(spec.work_dir / "curve.jsonl").points() if point.metric == "loss"]
    assert [point.step for point in losses] == [1, 2, 3]
    lines = (spec.work_dir / "curve.jsonl").read_text().splitlines()
    assert sum('"metric":"loss"' in line for line in lines) == 3, "the second process wrote none"
    assert (spec.weights / "model.safetensors").exists()


@pytest.mark.slow
def test_two_processes_learn_from_the_rollouts_of_both_and_end_with_the_same_weights(tmp_path: Path):
    (tmp_path / "work").mkdir()
    process = spawn(
        training_command("tests.support.grpo_ranks", tmp_path, launcher=TWO_PROCESSES), log=tmp_path / "log"
    )
    try:
        assert process.wait(240) == 0, (tmp_path / "log").read_text()
    finally:
        end(process)
    first, second = (json.loads((tmp_path / f"rank{i}.json").read_text()) for i in range(2))
    assert first["digest"] == second["digest"]
    assert first["kept"] == second["kept"], "gathered on every rank; the writer alone stores them"
    # 4 steps x 2 prompts x 8 rollouts of each rank.
    assert [step for step, _, _ in first["kept"]].count(0) == 32
    assert len({(place, rollout) for _, place, rollout in first["kept"]}) == len(first["kept"]) == 128
    points = [json.loads(line) for line in (tmp_path / "work/curve.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points if point["metric"] == "reward"] == [1, 2, 3, 4], "the writer's alone"
