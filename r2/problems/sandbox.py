"""Code of models run where it can do no harm: a process that may compute, and nothing else. Linux only.

Python puzzles are checked in it, and programs are run in it that entries with `prompt_mode = "program"` write.

The child (`sandbox_child.py`) has a seccomp filter that denies by default: no file, socket, process or signal; limits
on memory, CPU seconds and file size; an empty environment; a session of its own that is killed when it ends, and a
death signal should we end first. The filter is made by libseccomp. What an answer's code is worth and whether it solves
the puzzle are found in two processes, so that no answer can write its own verdict. This is one of the three places of
`r2` that touch the outside (with pool/ and training/).

`solves` and `run` block for as long as the child runs: whoever has an event loop calls them in a thread
(`tasks/blocking.py`), and ends them through `stop_of_checks`.
"""

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import orjson

from r2.errors import ConfigError

ALLOWED_CALLS = (
    "brk",
    "clock_gettime",
    "close",
    "exit",
    "exit_group",
    "fstat",
    "futex",
    "getrandom",
    "gettimeofday",
    "lseek",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "read",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_yield",
    "sigaltstack",
    "write",
)
"""What the interpreter needs to compute and to write its result on the pipe it was given."""
_CHILD = Path(__file__).with_name("sandbox_child.py")


MAX_PRINTED = 65536
"""Characters of what a program prints that are read."""
MAX_ERROR = 300
_POLL_S = 0.1
"""How often a child is looked at while it says nothing."""

stop_of_checks: ContextVar[threading.Event | None] = ContextVar("stop_of_checks", default=None)
"""Set by whoever runs checks in threads: once the event is set, children are killed and CheckStopped is raised."""


class CheckStopped(Exception):
    """The run was asked to stop while an answer was being checked: it is not judged, neither right nor wrong."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Of one child. Computing is bounded by `cpu_s`; `wall_s` is wide enough for a busy machine, where five seconds of
    computing can take a minute. `idle_s` ends a child that sleeps: it computes nothing, and there is nothing in the
    sandbox that it could wait for."""

    cpu_s: int = 5
    wall_s: float = 60.0
    idle_s: float = 3.0
    memory_bytes: int = 512 * 1024 * 1024
    output_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """How a child ended. `value` is what it wrote as its result, None unless `ended` is "done": the repr of a value,
    for `program` JSON. `cpu_s`: seconds of a core that it used, its start included, as the kernel counts them."""

    ended: Literal["done", "error", "timeout", "output"]
    value: str | None = None
    cpu_s: float = field(default=0.0, compare=False)


def solves(puzzle: str, answer: str, limits: SandboxLimits = SandboxLimits()) -> bool:
    """True if `sat` of the puzzle's source is True on what the answer is worth: a literal, an expression, or code that
    defines `sol`.

    Raises ConfigError where there is no sandbox: nothing of a model is ever run outside it; CheckStopped as
    `stop_of_checks` says.
    """
    return _solves(puzzle, answer, limits)


@lru_cache(maxsize=4096)
def _solves(puzzle: str, answer: str, limits: SandboxLimits) -> bool:
    worth = run("evaluate", answer, "", limits)
    if worth.value is None:
        return False
    return run("verify", puzzle, worth.value, limits).value == "True"


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """What came of a program: what it printed, or why there is nothing. `error_type` is None exactly when `printed` is
    not: `program_crashed`, `program_timeout`, `program_silent` (it printed nothing), or `no_program` (the text is no
    Python)."""

    printed: str | None
    error_type: str | None
    error_message: str
    cpu_s: float


def run_program(code: str, limits: SandboxLimits = SandboxLimits()) -> ProgramResult:
    """Runs a program and reads what it prints; where it prints nothing and ends with an expression, that one's value.

    Raises ConfigError and CheckStopped as `solves`.
    """
    ran = run("program", code, "", limits)
    if ran.ended == "timeout":
        message = f"not done after {limits.cpu_s} s of computing"
        return ProgramResult(None, "program_timeout", message, ran.cpu_s)
    try:
        found = orjson.loads(ran.value or "")
        printed, error = str(found["printed"]), str(found["error"])
    except (ValueError, KeyError, TypeError):  # it ended itself, passed a limit, or wrote something else
        return ProgramResult(None, "program_crashed", "ended without a result", ran.cpu_s)
    if error:
        kind = "no_program" if error.startswith("SyntaxError") else "program_crashed"
        return ProgramResult(None, kind, error[:MAX_ERROR], ran.cpu_s)
    if len(printed) > MAX_PRINTED:
        message = f"printed {len(printed)} characters; at most {MAX_PRINTED} are read"
        return ProgramResult(None, "program_crashed", message, ran.cpu_s)
    if not printed.strip():
        return ProgramResult(None, "program_silent", "printed nothing", ran.cpu_s)
    return ProgramResult(printed, None, "", ran.cpu_s)


def check_sandbox() -> None:
    """ConfigError where there is no sandbox on this machine, saying what is missing."""
    _filter()


def can_run_programs() -> bool:
    """Whether there is a sandbox on this machine."""
    try:
        check_sandbox()
    except ConfigError:
        return False
    return True


def run(
    mode: Literal["evaluate", "verify", "program"],
    code: str,
    argument: str = "",
    limits: SandboxLimits = SandboxLimits(),
) -> SandboxResult:
    """Runs one child to its end, within the limits, and kills whatever is left of it."""
    mark = secrets.token_hex(16)
    job = {
        "bpf": _filter().hex(),
        "mode": mode,
        "code": _clean(code),
        "argument": _clean(argument),
        "mark": mark,
        "limits": {
            "RLIMIT_AS": limits.memory_bytes,
            "RLIMIT_CPU": limits.cpu_s,
            "RLIMIT_FSIZE": 0,
            "RLIMIT_NOFILE": 16,
            "RLIMIT_NPROC": 0,
            "RLIMIT_CORE": 0,
        },
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        start_new_session=True,
    )
    cpu_s = 0.0
    try:
        written, ended = _exchange(process, orjson.dumps(job) + b"\n", limits)
    finally:
        cpu_s = _kill_group(process)
    if ended is None and process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        ended = "timeout"  # the kernel ended it, before we did: nothing else can send it a signal
    if ended is not None:
        return SandboxResult(ended, None, cpu_s)
    _, found, value = written.decode("utf-8", "replace").rpartition(f"\n{mark}")
    is_done = found and process.returncode == 0
    return SandboxResult("done", value, cpu_s) if is_done else SandboxResult("error", None, cpu_s)


def _exchange(
    process: "subprocess.Popen[bytes]", job: bytes, limits: SandboxLimits
) -> tuple[bytes, Literal["timeout", "output"] | None]:
    """What the child wrote until it ended, or which limit it passed."""
    assert process.stdin is not None and process.stdout is not None
    deadline = time.monotonic() + limits.wall_s
    try:
        process.stdin.write(job)
        process.stdin.close()
    except BrokenPipeError:
        return b"", None
    written = bytearray()
    patience = _Patience(process.pid, deadline, limits.idle_s)
    output = select.poll()
    output.register(process.stdout)
    while True:
        if not output.poll(_POLL_S * 1000):
            if patience.is_over():
                return b"", "timeout"
            continue
        piece = os.read(process.stdout.fileno(), 65536)
        if not piece:
            break
        written += piece
        if len(written) > limits.output_bytes:
            return b"", "output"
    while not _has_ended(process.pid):  # it closed its output, and may do anything but end
        if patience.is_over():
            return b"", "timeout"
        time.sleep(_POLL_S / 10)
    return bytes(written), None


class _Patience:
    """How long a silent child is waited for."""

    def __init__(self, pid: int, deadline: float, idle_s: float) -> None:
        self._pid, self._deadline, self._idle_s = pid, deadline, idle_s
        self._stopping = stop_of_checks.get()
        self._asleep_at: tuple[str, ...] | None = None
        self._asleep_since = 0.0

    def is_over(self) -> bool:
        """True past the deadline, or where it has slept for too long. Raises CheckStopped if we were asked to stop."""
        if self._stopping is not None and self._stopping.is_set():
            raise CheckStopped("the run was asked to stop while an answer was being checked")
        now, activity = time.monotonic(), _activity(self._pid)
        if activity is None or activity != self._asleep_at:
            self._asleep_at, self._asleep_since = activity, now
        return now > self._deadline or now - self._asleep_since > self._idle_s


def _activity(pid: int) -> tuple[str, ...] | None:
    """Seconds of computing so far, as the kernel counts them, of a child that sleeps; None for one that computes, or
    waits for a processor or the disk."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:  # it has just ended: its output ends too
        return None
    return tuple(fields[10:12]) if state == "S" else None


def _has_ended(pid: int) -> bool:
    """Whether the child has ended; it stays to be waited for, with what it used."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(process: "subprocess.Popen[bytes]") -> float:
    """Ends the child, and returns the seconds of a core that it used."""
    with contextlib.suppress(ProcessLookupError):  # gone already, and it could start no process
        os.killpg(process.pid, signal.SIGKILL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None and not pipe.closed:
            pipe.close()
    return used.ru_utime + used.ru_stime


@lru_cache(maxsize=1)
def _filter() -> bytes:
    """The seccomp program, as the kernel takes it. ConfigError names what is missing to make one."""
    if sys.platform != "linux":
        raise ConfigError(
            "Python puzzles (p3) and programs of models are run in a seccomp sandbox, which only Linux has. Use Linux."
        )
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"Python puzzles (p3) and programs of models are run in a sandbox made with libseccomp: {error}. Install "
            "it: pip install pyseccomp (extra `problems`), and your system's libseccomp2."
        ) from error
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(1))
    for name in ALLOWED_CALLS:
        rules.add_rule(pyseccomp.ALLOW, name)
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _clean(text: str) -> str:
    """Without lone surrogates, which no source file can hold."""
    return text.encode("utf-8", "replace").decode()
