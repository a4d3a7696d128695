"""How the process (or processes) of a training are started: plain Python, or through `accelerate launch` with a
configuration file.

`training_command` builds the command; the flow does not know more than that. Run as a module, this file stands between
the flow and the launcher: it ties itself to the flow and the ranks to itself, and becomes the launcher. On further
machines the same accelerate command is run by hand (docs/gpu.md).
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from r2.errors import ConfigError
from r2.lifeline import PARENT_VARIABLE, die_with_parent
from r2.shipped.place import found

REFUSED = 2
"""Exit code of a training process that ends with an error that another try would meet again."""
LAST_WORD = "error: "
"""Begins the line of a training's log that says in one message what ended it."""


def training_command(
    module: str, spec: Path, *, accelerate_config: str | None = None, launcher: Sequence[str] = ()
) -> list[str]:
    """The command that runs `python -m module spec`, once or once per GPU.

    `launcher` is put before `-m` (torchrun with its options); else `accelerate_config` names a file for `accelerate
    launch`; else this Python runs it alone. Launchers must start the ranks as their own children. ConfigError where the
    file is missing, or both are given.
    """
    if launcher and accelerate_config:
        raise ConfigError("launcher and accelerate_config are two ways to start a training; give one of them.")
    if launcher:
        return [sys.executable, "-m", "r2.training.launch", *launcher, "-m", module, str(spec)]
    if accelerate_config is None:
        return [sys.executable, "-m", module, str(spec)]
    config = found(Path(accelerate_config))
    if not config.is_file():
        raise ConfigError(
            f"accelerate_config {accelerate_config}: no such file. Shipped ones are in configs/accelerate, "
            "docs/gpu.md says which is for what."
        )
    accelerate = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *accelerate_arguments(str(config), module, str(spec)),
    ]
    return [sys.executable, "-m", "r2.training.launch", *accelerate]


def accelerate_arguments(config: str, module: str, spec: str) -> list[str]:
    """What `accelerate launch` is given, on this machine or by hand on another."""
    return ["--config_file", config, "-m", module, spec]


def become(command: Sequence[str]) -> None:
    """Turns this process into the launcher, which ends with the flow that started it, and its ranks with it."""
    die_with_parent()
    os.environ[PARENT_VARIABLE] = str(os.getpid())  # the launcher keeps this number, and the ranks are its children
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    become(sys.argv[1:])
