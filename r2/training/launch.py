"""How the process (or processes) of a training are started: plain Python, or through `accelerate launch` with a configuration file.

`training_command` builds the command; the flow does not know more than that. Run as a module, this file is the launcher between the flow and the
ranks: it ties itself to the flow, the ranks to itself, and hands over to accelerate. On further machines the same accelerate command is run by hand
(docs/gpu.md).
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from r2.errors import ConfigError
from r2.pool.lifeline import PARENT_VARIABLE, die_with_parent


def training_command(
    module: str, spec: Path, *, accelerate_config: str | None = None, launcher: Sequence[str] = ()
) -> list[str]:
    """The command that runs `python -m module spec`, once or once per GPU.

    `launcher` is put before `-m` (torchrun, srun); else `accelerate_config` names a file for `accelerate launch`; else this Python runs it
    alone. ConfigError where the file is missing, or both are given.
    """
    if launcher and accelerate_config:
        raise ConfigError("launcher and accelerate_config are two ways to start a training; give one of them.")
    if launcher:
        return [*launcher, "-m", module, str(spec)]
    if accelerate_config is None:
        return [sys.executable, "-m", module, str(spec)]
    if not Path(accelerate_config).is_file():
        raise ConfigError(
            f"accelerate_config {accelerate_config}: no such file. Shipped ones are in configs/accelerate, docs/gpu.md says which is for what."
        )
    return [sys.executable, "-m", "r2.training.launch", accelerate_config, module, str(spec)]


def accelerate_arguments(config: str, module: str, spec: str) -> list[str]:
    """What `accelerate launch` is given, on this machine or by hand on another."""
    return ["--config_file", config, "-m", module, spec]


def main(config: str, module: str, spec: str) -> None:
    """Launches the ranks and ends with the last of them; with the flow that started it, should that die."""
    from accelerate.commands.launch import launch_command, launch_command_parser

    die_with_parent()
    os.environ[PARENT_VARIABLE] = str(os.getpid())  # accelerate starts the ranks from this very process
    launch_command(launch_command_parser().parse_args(accelerate_arguments(config, module, spec)))


if __name__ == "__main__":
    main(*sys.argv[1:])
