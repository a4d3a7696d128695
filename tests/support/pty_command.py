"""A command in a terminal of its own, as a person has it: Ctrl-C is a byte typed at it, and the terminal signals every
process of the command."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import psutil

from tests.support.paths import ROOT

R2 = [sys.executable, "-m", "flows.cli"]
CTRL_C = b"\x03"


class PtyCommand:
    """Runs `command` with a new pseudo-terminal as its input, output and controlling terminal."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.chdir(ROOT)
            os.execvpe(command[0], list(command), {**os.environ, **env, "COLUMNS": "200"})
        self.said = ""
        self.code: int | None = None
        self._seen: dict[int, psutil.Process] = {}

    def press(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def until(self, is_so: Callable[[str], bool], within_s: float) -> None:
        """Reads until `is_so` of all that was said; AssertionError with it after `within_s`, or if the command ends."""
        deadline = time.monotonic() + within_s
        while not is_so(self.said):
            assert self.code is None, f"ended with {self.code}:\n{self.said}"
            assert time.monotonic() < deadline, f"not within {within_s:g} s:\n{self.said}"
            self._read()

    def ended(self, within_s: float) -> float:
        """Seconds until the command has ended, with `code` set. It is killed, and AssertionError, after `within_s`."""
        began = time.monotonic()
        while self.code is None and time.monotonic() < began + within_s:
            self._read()
        took_s = time.monotonic() - began
        if self.code is None:
            self.kill()
            raise AssertionError(f"alive {within_s:g} s later:\n{self.said}")
        return took_s

    def children(self) -> list[psutil.Process]:
        """Every process that the command started and that still runs."""
        return [child for child in self._seen.values() if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._wait(0)

    def _read(self) -> None:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._pid).children(recursive=True):
                self._seen.setdefault(child.pid, child)
        ready, _, _ = select.select([self._terminal], [], [], 0.05)
        if ready:
            try:
                self.said += os.read(self._terminal, 65536).decode("utf-8", "replace")
                return
            except OSError:  # the last process has closed the terminal
                time.sleep(0.02)
        self._wait(os.WNOHANG)

    def _wait(self, options: int) -> None:
        if self.code is None:
            pid, status = os.waitpid(self._pid, options)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        os.close(self._terminal)


def run(command: Sequence[str], env: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """The same command without a terminal, to its end."""
    return subprocess.run(
        list(command), cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
