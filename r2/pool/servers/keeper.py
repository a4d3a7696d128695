"""A process between us and a server of several processes: it starts the server, starts it again when it died, and ends
all of it when we are gone.

vLLM is an API server with an engine and workers below it. Killing the first leaves the others with gigabytes, and a
signal at our death would reach the first alone. So the keeper stands between: it adopts whatever becomes an orphan
below it (PR_SET_CHILD_SUBREAPER), watches its standard input, a pipe that only we hold, and at its end kills all its
descendants, however they were started. If the keeper itself is killed, the kernel asks the server to end, which takes
its own along. It imports nothing heavy and writes nothing but its lines.

    python -m r2.pool.servers.keeper --address URL [--restarts N] [--within S] [--modules FILE] -- COMMAND ...

prints `listening URL` at once. It ends with code 1 where the server ends before it was healthy, and where it died more
than N times within S seconds. FILE has a line `name=folder` for each adapter that was loaded: a server that is started
again gets them with `--lora-modules`.
"""

import argparse
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from r2.lifeline import PARENT_VARIABLE

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
PATIENCE_S = 5.0
"""How long the server may take to end when asked to."""
_LOOK_S = 0.2


class Keeper:
    """One server. `run` returns the exit code."""

    def __init__(
        self, command: Sequence[str], address: str, *, restarts: int, within_s: float, modules: Path | None = None
    ) -> None:
        self._command = list(command)
        self._address = address
        self._restarts = restarts
        self._within_s = within_s
        self._modules = modules
        self._deaths: deque[float] = deque()
        self._was_healthy = False
        self._wake, wake_end = os.pipe()
        os.set_blocking(wake_end, False)
        self._is_asked_to_end = False
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_end)

    def run(self) -> int:
        while True:
            server = subprocess.Popen(
                [*self._command, *self._adapters()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                start_new_session=True,
                preexec_fn=_end_with_keeper,  # noqa: PLW1509  # the keeper has one thread
            )
            why = self._watch(server)
            if why == "asked":
                server.terminate()
                _wait(server, PATIENCE_S)
            end_all()
            if why != "died":
                return 0
            code = server.returncode
            if not self._was_healthy:
                _say(f"the server ended with code {code} before it was healthy")
                return 1
            now = time.monotonic()
            self._deaths.append(now)
            while now - self._deaths[0] > self._within_s:
                self._deaths.popleft()
            if len(self._deaths) > self._restarts:
                _say(
                    f"the server died {len(self._deaths)} times within {self._within_s:g} s, the last time with {code}"
                )
                return 1
            _say(f"the server died with code {code}; it is started again")

    def _watch(self, server: "subprocess.Popen[bytes]") -> str:
        """Until something happens: "asked" to end, our parent "gone", or the server "died"."""
        while True:
            ready, _, _ = select.select([0, self._wake], [], [], None if self._was_healthy else _LOOK_S)
            if self._wake in ready:
                os.read(self._wake, 4096)
            if self._is_asked_to_end:
                return "asked"
            if 0 in ready and not os.read(0, 4096):
                return "gone"
            if server.poll() is not None:
                return "died"
            reap_orphans(server.pid)
            if not self._was_healthy:
                self._was_healthy = self._is_healthy()

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._address.removesuffix('/v1')}/health", timeout=1.0) as reply:
                return bool(reply.status == 200)
        except (OSError, urllib.error.URLError, ValueError):
            return False

    def _adapters(self) -> list[str]:
        """Adapters that were loaded before and whose folders are still there."""
        if self._modules is None or not self._modules.exists():
            return []
        lines = dict.fromkeys(self._modules.read_text("utf-8").splitlines())
        there = [line for line in lines if Path(line.partition("=")[2]).is_dir()]
        return ["--lora-modules", *there] if there else []

    def _ask_to_end(self, *_: object) -> None:
        self._is_asked_to_end = True


def _end_with_keeper() -> None:
    """In the server, before it is one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_all() -> None:
    """Kills every descendant of this process and waits until none is left."""
    while pids := descendants(os.getpid()):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it ended meanwhile
        reap_orphans()
        time.sleep(0.01)


def descendants(pid: int) -> list[int]:
    """Processes below one, those that have ended and were not waited for included. Read from /proc; where there is
    none, the children that `ps` knows."""
    below: dict[int, list[int]] = {}
    for child, parent in _parents():
        below.setdefault(parent, []).append(child)
    found, level = [], [pid]
    while level:
        level = [child for one in level for child in below.get(one, [])]
        found += level
    return found


def _parents() -> list[tuple[int, int]]:
    """(process, its parent) of all processes that can be seen."""
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        return [(int(line.split()[0]), int(line.split()[1])) for line in listed.splitlines()]
    pairs = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                after_name = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            pairs.append((int(folder.name), int(after_name[1])))
    return pairs


def reap_orphans(besides: int = 0) -> None:
    """Waits for descendants that have ended and came to us. Not for the child `besides`, whose code is wanted."""
    for pid in descendants(os.getpid()):
        if pid != besides:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue  # somebody else's child, or gone


def _wait(server: "subprocess.Popen[bytes]", patience_s: float) -> None:
    try:
        server.wait(patience_s)
    except subprocess.TimeoutExpired:
        return  # `end_all` insists


def _say(line: str) -> None:
    sys.stderr.write(f"keeper: {line}\n")
    sys.stderr.flush()


def main() -> int:
    os.environ.pop(PARENT_VARIABLE, None)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--within", type=float, default=1800.0)
    parser.add_argument("--modules", type=Path)
    parser.add_argument("command", nargs="+")
    chosen = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "VIRTUAL_ENV"):  # ours, and not the server's
        os.environ.pop(name, None)
    keeper = Keeper(
        chosen.command,
        chosen.address,
        restarts=chosen.restarts,
        within_s=chosen.within,
        modules=chosen.modules,
    )
    print(f"listening {chosen.address}", flush=True)
    return keeper.run()


if __name__ == "__main__":
    sys.exit(main())
