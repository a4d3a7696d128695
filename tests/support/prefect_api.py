"""One Prefect API for all tests of a process that run flows: to start it costs more than most of them.

It is the embedded API, as a command starts it. The settings that point to it hold only inside `shared_api`, so that
what else runs in the process, and every command that a test starts, finds no API, as a user's would.
"""

import atexit
import contextvars
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from flows.support.embedded_api import embedded_api
from tests.support.prefect_home import new_home


@contextmanager
def shared_api() -> Iterator[None]:
    """While open, flows of this process report to the shared API."""
    url = _url()
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        try:
            yield
        finally:
            EventsWorker.drain_all(timeout=10)


@cache
def _url() -> str:
    """Starts the API, in a context of its own: its settings do not reach the tests."""
    new_home(Path(os.environ["PREFECT_HOME"]))
    context, opened = contextvars.copy_context(), embedded_api()
    context.run(opened.__enter__)
    atexit.register(context.run, opened.__exit__, None, None, None)
    from prefect.settings import PREFECT_API_URL

    return str(context.run(PREFECT_API_URL.value))
