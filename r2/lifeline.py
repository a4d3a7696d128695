"""Child processes that never outlive their parent, not even one that was killed with -9, and do not hear Ctrl-C.

Two ropes, because each has a gap: on Linux the kernel signals the child when its parent dies (PR_SET_PDEATHSIG), and
everywhere the child watches its standard input, a pipe that only the parent holds, for its end. Each child has a
session of its own: a terminal sends Ctrl-C to every process of the command, and the parent must outlive its servers to
end in order. Used by the model servers, the simulated server, trainings and Prefect's embedded API.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
PARENT_VARIABLE = "R2_PARENT_PID"


def spawn(
    args: Sequence[str], *, stdout: int | None = None, log: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Starts a child that calls `die_with_parent` first thing. `log` takes its standard error (and its output, unless
    `stdout` is given). The child's `python -m` looks for modules where they are installed, never in the working folder:
    that may be a project with a `tasks/` or `flows/` folder of its own.

    The pipe to its standard input stays open in this process for as long as this process lives.
    """
    sink = (
        subprocess.DEVNULL
        if log is None
        else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    )
    try:
        return subprocess.Popen(
            list(args),
            stdin=subprocess.PIPE,
            stdout=sink if stdout is None else stdout,
            stderr=sink if log is not None else None,
            env={**(os.environ if env is None else env), PARENT_VARIABLE: str(os.getpid()), "PYTHONSAFEPATH": "1"},
            start_new_session=True,
        )
    finally:
        if log is not None:
            os.close(sink)


def end(process: "subprocess.Popen[bytes]", patience_s: float = 10.0) -> None:
    """Asks the child to end, insists after `patience_s`, and closes our ends of its pipes."""
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def die_with_parent() -> None:
    """Ties this process's life to that of the parent that spawned it. A no-op when it was started by hand."""
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is None:
        return
    killed_with(int(parent))
    threading.Thread(target=_wait_for_end_of_input, name="lifeline", daemon=True).start()


def killed_with(parent: int) -> None:
    """The kernel kills this process when `parent`, which started it, ends; on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above took hold
        os._exit(1)


def _wait_for_end_of_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)
