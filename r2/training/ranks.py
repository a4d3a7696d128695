"""Which of a training's processes this is: on several GPUs each runs the same module, and one of them alone writes.

`accelerate launch` (and torchrun under it) tells a process its place in the environment. The writer is rank 0: lake
units, curves, the registry and result files are its own. What one rank makes for all (plans, the pilot) is a file that
the others wait for: unlike a collective operation, that wait has no time limit.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def rank(environ: Mapping[str, str] = os.environ) -> int:
    """Place among all processes of the training, over all machines; 0 in a training of one process."""
    return int(environ.get("RANK", "0"))


def n_processes(environ: Mapping[str, str] = os.environ) -> int:
    """Processes of the training, over all machines."""
    return int(environ.get("WORLD_SIZE", "1"))


def is_writer(environ: Mapping[str, str] = os.environ) -> bool:
    """True for the one process that writes."""
    return rank(environ) == 0


def suffixed(path: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """A file of this process's own: `calls.journal` for the writer, `calls-rank1.journal` for the next. For files that
    one process locks."""
    return path if is_writer(environ) else path.with_name(f"{path.stem}-rank{rank(environ)}{path.suffix}")


def wait_for(path: Path, poll_s: float = 1.0) -> None:
    """Returns once the writer has made the file (writers move files into place whole). If the writer fails, the
    launcher ends this process."""
    while not path.exists():
        time.sleep(poll_s)


def gathered(values: Sequence[T]) -> list[T]:
    """Everybody's values, in order of rank, on every rank; with one process the same list. Every rank must call it
    equally often."""
    if n_processes() == 1:
        return list(values)
    from accelerate.utils.operations import gather_object

    return list(gather_object(list(values)))
