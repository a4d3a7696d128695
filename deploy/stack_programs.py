"""Programs that outlive the command that started them, each known by a note of its process in the stack's folder."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


class StackError(Exception):
    """The stack could not be started or ended; the message says what to do."""


class Programs:
    """Each leads a session of its own, so that what it starts in turn (flow runs of a worker) ends with it. A process
    counts as ours by its number and the moment of its start: numbers are used again."""

    GRACE_S = 20.0

    def __init__(self, folder: Path) -> None:
        self._notes, self._logs = folder / "programs", folder / "log"

    def start(self, name: str, command: Sequence[str], environ: Mapping[str, str], cwd: Path | None = None) -> bool:
        """False where it runs already."""
        if self.is_running(name):
            return False
        self._notes.mkdir(exist_ok=True)
        with (self._logs / name).open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        note = {"pid": process.pid, "started": _started(process.pid)}
        (self._notes / f"{name}.json").write_text(json.dumps(note), "utf-8")
        return True

    def names(self) -> list[str]:
        """Those that were started, in order."""
        return sorted(path.stem for path in self._notes.glob("*.json"))

    def pid(self, name: str) -> int:
        return int(self._note(name).get("pid", 0))

    def is_running(self, name: str) -> bool:
        note = self._note(name)
        return bool(note) and _started(int(note["pid"])) == note["started"]

    def said(self, name: str) -> str:
        try:
            return (self._logs / name).read_text("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def end(self, *names: str) -> None:
        """SIGTERM to each, SIGKILL to all of its session that is left after a while."""
        running = [name for name in names if self.is_running(name)]
        for name in running:
            _signal(self.pid(name), signal.SIGTERM)
        deadline = time.monotonic() + self.GRACE_S
        while time.monotonic() < deadline and any(self.is_running(name) for name in running):
            time.sleep(0.05)
        for name in names:
            for pid in _of_session(self.pid(name)) if self._note(name) else ():
                _signal(pid, signal.SIGKILL)

    def left(self) -> list[int]:
        """Processes of any session of ours, a moment after the end."""
        deadline = time.monotonic() + 5.0
        while left := [pid for name in self.names() for pid in _of_session(self.pid(name))]:
            if time.monotonic() > deadline:
                return left
            time.sleep(0.05)
        return []

    def _note(self, name: str) -> dict[str, str]:
        try:
            note: dict[str, str] = json.loads((self._notes / f"{name}.json").read_text("utf-8"))
        except FileNotFoundError:
            return {}
        return note


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None for one that is gone or only waits to be counted."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else fields[19]


def _of_session(leader: int) -> Iterator[int]:
    """Living processes whose session was led by `leader`."""
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields is not None and fields[0] not in "ZX" and int(fields[3]) == leader:
            yield int(folder.name)


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat after the name: state, parent, group, session, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
