"""A function of the user's own file, or a pattern, run on answers in child processes.

The user's code may raise, print, sleep for ever, or end its process: whatever it does, the run goes on, and what went
wrong is the check's error. Children are started as they are needed, used again, and end when this process does. All of
them run the text of the file as it was when the check was loaded. `says` blocks: whoever has an event loop calls it in
a thread (`tasks/blocking.py`).
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path

from r2.errors import ConfigError
from r2.problems.sandbox import CheckStopped, stop_of_checks

START_S = 120.0
"""A file whose import takes longer than this cannot be used."""
WALL_S = 60.0
"""An answer that is not judged by then has no verdict."""
_CHILD = Path(__file__).with_name("own_function_child.py")
_DIED = b""
_POLL_MS = 100
_LAST_BREATH_S = 1.0
"""From the end of a child's output to its own end."""


class OwnFunction:
    """What the children run: `{"path", "function", "source"}` or `{"pattern"}`."""

    def __init__(self, job: Mapping[str, str], *, wall_s: float = WALL_S) -> None:
        self._job = dict(job)
        self._wall_s = wall_s
        self._idle: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _end_all, self._idle)  # when nobody can ask it any more, or at the exit

    def load(self) -> bool:
        """Starts the first child; True for a function that has a parameter `step`. ConfigError, with what the user's
        code said, where it cannot be used."""
        child, takes_step = self._started()
        self._keep(child)
        return takes_step

    def says(self, row: Mapping[str, object], answer: str, step: str | None = None) -> tuple[float | None, str | None]:
        """(score, None), or (None, why there is none). Raises CheckStopped as `stop_of_checks` says."""
        asked = json.dumps({"row": row, "answer": answer, "step": step}, default=str).encode() + b"\n"
        while True:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            is_new = child is None
            if child is None:
                try:
                    child, _ = self._started()
                except ConfigError as error:
                    return None, str(error)
            said = self._exchanged(child, asked, self._wall_s)
            if said is None:
                return None, f"no verdict within {self._wall_s:g} s"
            if said == _DIED and not is_new:  # one that died while it was idle says nothing about the answer
                continue
            if said == _DIED:
                return None, f"its process ended with code {child.returncode}"
            self._keep(child)
            verdict = json.loads(said)
            return verdict.get("score"), verdict.get("error")

    def close(self) -> None:
        """Ends the children that are not at work."""
        _end_all(self._idle)

    def _keep(self, child: "subprocess.Popen[bytes]") -> None:
        with self._lock:
            self._idle.append(child)

    def _started(self) -> "tuple[subprocess.Popen[bytes], bool]":
        child = subprocess.Popen(
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the command, which ends it
            bufsize=0,  # nothing of an answer is left in a buffer for the next one
        )
        said = self._exchanged(child, json.dumps({**self._job, "parent": os.getpid()}).encode() + b"\n", START_S)
        if said is None:
            raise ConfigError(f"{self._name}: not loaded within {START_S:g} s.")
        if said == _DIED:
            raise ConfigError(f"{self._name}: its process ended with code {child.returncode} while it was loaded.")
        reply = json.loads(said)
        if "error" in reply:
            _end(child)
            raise ConfigError(f"{self._name}: {reply['error']}.")
        return child, bool(reply["takes_step"])

    @property
    def _name(self) -> str:
        return self._job.get("path") or f"regex:{self._job['pattern']}"

    def _exchanged(self, child: "subprocess.Popen[bytes]", line: bytes, wall_s: float) -> bytes | None:
        """What the child answers; `_DIED` where it has ended, None where it took too long. Such a child is ended."""
        said: bytes | None = None
        try:
            said = _exchange(child, line, wall_s)
            return said
        finally:
            if not said:
                _end(child, _LAST_BREATH_S if said == _DIED else 0)


def _end_all(idle: "list[subprocess.Popen[bytes]]") -> None:
    with contextlib.suppress(IndexError):  # another thread took the last one
        while idle:
            _end(idle.pop())


def _exchange(child: "subprocess.Popen[bytes]", line: bytes, wall_s: float) -> bytes | None:
    assert child.stdin is not None and child.stdout is not None
    stopping, deadline = stop_of_checks.get(), time.monotonic() + wall_s
    try:
        child.stdin.write(line)
    except BrokenPipeError:
        return _DIED
    output = select.poll()
    output.register(child.stdout)
    while not output.poll(_POLL_MS):
        if stopping is not None and stopping.is_set():
            raise CheckStopped("the run was asked to stop while an answer was being checked")
        if time.monotonic() > deadline:
            return None
    return child.stdout.readline()


def _end(child: "subprocess.Popen[bytes]", patience_s: float = 0.0) -> None:
    """Kills the child if it has not ended by then. One that has keeps its exit code."""
    try:
        child.wait(patience_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
