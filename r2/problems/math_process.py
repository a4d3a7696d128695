"""math-verify for threads: its time limits are signals, which only a main thread may set, so each comparison is made in
a child process, whose main thread does nothing else.

Children are started as they are needed, used again, and end when this process does: their standard input ends with it.
"""

import atexit
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson

from r2.problems.sandbox import CheckStopped, stop_of_checks

WALL_S = 120.0
"""A comparison that its own limits did not end by then is ended with its process, and is not equal."""
_CHILD = Path(__file__).with_name("math_child.py")
_idle: list["subprocess.Popen[bytes]"] = []
_lock = threading.Lock()


def same_mathematics(answer: str, target: str) -> bool:
    """True if math-verify finds both texts, LaTeX between dollar signs, equal. Raises CheckStopped as `stop_of_checks`
    says."""
    pair = orjson.dumps({"answer": _clean(answer), "target": _clean(target)}) + b"\n"
    while True:
        with _lock:
            is_new = not _idle
            child = _started() if is_new else _idle.pop()
        said = _said(child, pair)
        if said != _DIED or is_new:  # one that died while it was idle says nothing about the answer
            return said == b"true\n"


_DIED = b""


def _said(child: "subprocess.Popen[bytes]", pair: bytes) -> bytes | None:
    """The line that the child answers; `_DIED` where it has ended, None where it took too long. A whole child is kept
    for the next pair."""
    is_whole = False
    try:
        said = _exchange(child, pair)
        is_whole = bool(said)
        return said
    finally:
        if is_whole:
            with _lock:
                _idle.append(child)
        else:
            _end(child)


def _exchange(child: "subprocess.Popen[bytes]", pair: bytes) -> bytes | None:
    assert child.stdin is not None and child.stdout is not None
    stopping, deadline = stop_of_checks.get(), time.monotonic() + WALL_S
    try:
        child.stdin.write(pair)
    except BrokenPipeError:
        return _DIED
    output = select.poll()
    output.register(child.stdout)
    while not output.poll(100):
        if stopping is not None and stopping.is_set():
            raise CheckStopped("the run was asked to stop while an answer was being checked")
        if time.monotonic() > deadline:
            return None
    return child.stdout.readline()


def _started() -> "subprocess.Popen[bytes]":
    """In a session of its own: Ctrl-C is for the command, which ends it."""
    return subprocess.Popen(
        [sys.executable, "-I", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        bufsize=0,  # nothing of a pair is left in a buffer for the next one
    )


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


@atexit.register
def _end_idle() -> None:
    while _idle:
        _end(_idle.pop())


def _clean(text: str) -> str:
    """Without lone surrogates, which JSON cannot hold."""
    return text.encode("utf-8", "replace").decode()
