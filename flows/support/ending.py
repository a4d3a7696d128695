"""How a command ends: with one message and the exit code that belongs to it, never with a traceback.

Exit codes: 0 done, 1 some work failed, was left over or could not be done here, 2 wrong usage or configuration, 130
interrupted. `--debug`, anywhere in the command, or R2_DEBUG=1 shows where an error arose, and the log lines of Prefect.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from flows.support import environment, terminal

DEBUG = "R2_DEBUG"
_PREFECT_LOGS = ("PREFECT_LOGGING_LEVEL", "PREFECT_INTERNAL_LOGGING_LEVEL")


def as_command(command: Callable[[], None]) -> NoReturn:
    """Runs `command` and ends the process."""
    terminal.listen()
    if "--debug" in sys.argv[1:]:
        sys.argv = [word for word in sys.argv if word != "--debug"]
        os.environ[DEBUG] = "1"
    if not is_debugging():
        _be_quiet()
    code: int | str | None = 0
    try:
        command()
    except SystemExit as end:
        code = end.code
    except BrokenPipeError:  # `| head` has seen enough
        code = 1
    except Exception as error:
        code = _told(error)
    except BaseException:  # Ctrl-C before there was work to stop; SIGTERM, as Prefect hands it on
        code = terminal.INTERRUPTED
    if terminal.is_unwinding():
        code = terminal.INTERRUPTED
    _leave(code if isinstance(code, int) else int(code is not None))


def is_debugging() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


def _told(error: Exception) -> int:
    """Says what happened, and returns the exit code."""
    # Here and not above: a command without an error need not wait for it.
    from tasks.cause import exit_code, message

    if is_debugging():
        import traceback

        traceback.print_exception(error)
    sys.stderr.write(f"r2: {message(error)}\n")
    return terminal.INTERRUPTED if terminal.was_stopped() else exit_code(error)


def _be_quiet() -> None:
    """What other packages say of an error on its way to us: their log lines lose their tracebacks, and Prefect's are
    off; threads and destructors that fail beside it say nothing."""
    for name in _PREFECT_LOGS:
        if name not in environment.CHOSEN_BY_USER:
            os.environ[name] = "CRITICAL"
    make_record = logging.getLogRecordFactory()

    def without_traceback(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        record.exc_info = record.exc_text = record.stack_info = None
        return record

    logging.setLogRecordFactory(without_traceback)
    threading.excepthook = lambda failed: None
    sys.unraisablehook = lambda failed: None


def _leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # whoever read it has gone, or the disk behind it is full
            code = code or 1
    # Everything is closed by now; what threads of other packages still hold is not worth waiting for.
    os._exit(code)
