"""Waiting for a training's process: until it ends, or until the user stops the command. A stopped process is ended at
once; what it has done is in its checkpoints and in the journal of its calls, and the same command resumes it there."""

import subprocess
import threading
from collections.abc import Callable

from r2.errors import StoppedError
from r2.lifeline import end

POLL_S = 0.2
END_S = 2.0
"""What a process is given to end. It has nothing to save."""
_is_asked = threading.Event()


class Trainings:
    """The trainings of this process, as what Ctrl-C stops. A new one forgets what an earlier one was asked."""

    def __init__(self) -> None:
        _is_asked.clear()

    def stop(self, reason: str) -> None:
        """Ends the process that is waited for, and lets no other begin."""
        _is_asked.set()

    def give_up(self) -> None:
        """Nothing is left to give up: `stop` waits for nothing."""


def exit_code_of(
    process: "subprocess.Popen[bytes]", report: Callable[[], None] = lambda: None, report_s: float = 10.0
) -> int:
    """The process's exit code. `report` is called every `report_s` meanwhile. StoppedError, and the process has ended,
    once `Trainings.stop` was called."""
    n_polls = 0
    try:
        while not _is_asked.is_set():
            try:
                return process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                n_polls += 1
                if n_polls % round(report_s / POLL_S) == 0:
                    report()
    finally:
        if process.poll() is None:
            end(process, END_S)
    raise StoppedError("The training was stopped. The same command resumes it at its last checkpoint.")
