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

import certifi

from flows.support.embedded_api import embedded_api
from tests.support.prefect_home import new_home


@contextmanager
def shared_api() -> Iterator[None]:
    """While open, flows of this process report to the shared API."""
    url = _url()
    from prefect.events.worker import EventsWorker
    from prefect.settings import (
        PREFECT_API_SSL_CERT_FILE,
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    here = {
        PREFECT_API_URL: url,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        PREFECT_API_SSL_CERT_FILE: str(_one_certificate()),
    }
    with temporary_settings(here):
        try:
            yield
        finally:
            EventsWorker.drain_all(timeout=10)


@cache
def _one_certificate() -> Path:
    """A file with one of the certificates that Prefect's clients read. There are a dozen clients a run, each reads all
    of them anew, which takes 30 ms, and the API here speaks no TLS."""
    first, end, _ = Path(certifi.where()).read_text("utf-8").partition("-----END CERTIFICATE-----")
    path = Path(os.environ["PREFECT_HOME"]) / "one.pem"
    path.write_text(f"{first}{end}\n", "utf-8")
    return path


@cache
def _url() -> str:
    """Starts the API, in a context of its own: its settings do not reach the tests."""
    new_home(Path(os.environ["PREFECT_HOME"]))
    context, opened = contextvars.copy_context(), embedded_api()
    context.run(opened.__enter__)
    atexit.register(context.run, opened.__exit__, None, None, None)
    from prefect.settings import PREFECT_API_URL

    return str(context.run(PREFECT_API_URL.value))
