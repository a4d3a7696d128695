"""Ctrl-C, and SIGTERM: the work stops in order, the command says how to go on, and ends with exit code 130.

The first one asks the work that goes on to stop: nothing new is sent, calls in flight get `GIVE_UP_S`, then they are
given up; what is there is committed, summed up and printed. Whatever happens, the command is gone after `END_S`. Where
no such work goes on (imports, the start of the API or of models, other commands), the command ends at once, within
`UNWIND_S`. A second one ends it at once in any case: what was paid is in the journals, so that is always safe.

`listen` is for commands and comes before anything that takes time. A flow that a worker runs has its own way to end; it
listens only while `stopped_by_signals` is open. Light: this is the first module a command loads.
"""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

if TYPE_CHECKING:
    import asyncio

GIVE_UP_S: Final = 4.0
END_S: Final = 9.5
UNWIND_S: Final = 2.0
INTERRUPTED: Final = 130
"""Exit code of a command that was stopped by a signal."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR: Final = "\x1b[?25h"


class Stoppable(Protocol):
    """What a signal ends: a run's session, an evaluation, a training."""

    def stop(self, reason: str) -> None:
        """Cleanly: nothing new is sent, calls in flight finish."""

    def give_up(self) -> None:
        """Calls in flight are not waited for any longer."""


class _Listener:
    """The state between two signals."""

    def __init__(self) -> None:
        self.is_command = False
        self.n_signals = 0
        self.is_unwinding = False
        self.work: Stoppable | None = None
        self.loop: asyncio.AbstractEventLoop | None = None


_listener = _Listener()


def listen() -> None:
    """From here on this process is a command that obeys the terminal."""
    _listener.is_command = True
    for number in _SIGNALS:
        signal.signal(number, _on_signal)


def was_stopped() -> bool:
    """True once a signal has come."""
    return _listener.n_signals > 0


def is_unwinding() -> bool:
    """True once a signal has come that found no work to stop in order."""
    return _listener.is_unwinding


def this_command(without: str | None = None) -> str:
    """What was typed, to be typed again, but for the flag `without`."""
    name = Path(sys.argv[0]).name
    if name in ("__main__.py", "-c"):
        return shlex.join(["r2", *(word for word in sys.argv[1:] if word != without)])
    if name.endswith(".py"):
        return shlex.join(sys.orig_argv)
    return shlex.join([name, *(word for word in sys.argv[1:] if word != without)])


@contextmanager
def stopped_by_signals(work: Stoppable) -> Iterator[None]:
    """While open, a signal ends `work` in the way described above. The work can be resumed after either."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    if not _listener.is_command:
        _listener.n_signals = 0
    _listener.work, _listener.loop = work, _running_loop()
    for number in _SIGNALS:
        signal.signal(number, _on_signal)
    try:
        yield
    finally:
        _listener.work = _listener.loop = None
        for number, handler in before.items():
            signal.signal(number, handler)


def _on_signal(number: int, frame: FrameType | None) -> None:
    _listener.n_signals += 1
    if _listener.n_signals > 1:
        _leave("Ended at once.")
    if _listener.work is not None:
        _say(
            f"\nStopping: nothing new is begun, what is in flight gets {GIVE_UP_S:g} s. Ctrl-C again ends at once. "
            "Nothing is lost."
        )
        _stop_in_order(_listener.work, _listener.loop)
        return
    _say(f"\nInterrupted. The same command resumes it:\n  {this_command()}")
    _listener.is_unwinding = True
    _after(UNWIND_S, os._exit, INTERRUPTED)
    if "R2_DEBUG" not in os.environ:
        _mute()
    raise KeyboardInterrupt


def _stop_in_order(work: Stoppable, loop: "asyncio.AbstractEventLoop | None") -> None:
    def ask(what: Callable[..., None], *args: str) -> None:
        if loop is None:
            what(*args)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(what, *args)

    ask(work.stop, "interrupted")
    _after(GIVE_UP_S, ask, work.give_up)
    if _listener.is_command:
        _after(END_S, _leave, f"Ended after {END_S:g} s, before everything was summed up.")


def _leave(why: str) -> NoReturn:
    """The end of the process, now."""
    _say(f"\n{why} Nothing is lost, the same command resumes it:\n  {this_command()}")
    os._exit(INTERRUPTED)


def _after(seconds: float, what: Callable[..., Any], *args: Any) -> None:
    timer = threading.Timer(seconds, what, args)
    timer.daemon = True
    timer.start()


def _say(text: str) -> None:
    """To stderr, past Python's buffers: a signal may have come in the middle of a write. A progress table hides the
    cursor; it is shown again."""
    show = _SHOW_CURSOR if os.isatty(2) else ""
    try:
        os.write(2, f"{show}{text}\n".encode())
    except OSError:  # the terminal is gone; the work ends as well without it
        return


def _mute() -> None:
    """Nothing more is written to stderr: what the unwinding of a half-made start says is of no use to anybody."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _running_loop() -> "asyncio.AbstractEventLoop | None":
    import asyncio  # not above: a command that has no work to stop need not wait for it

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
