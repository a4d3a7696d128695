"""Prefect's API for runs without a server: started beside the run, and gone when the run is gone, even after `kill -9`.

Prefect starts such a server by itself, but one whose flow was killed lives on as an orphan. This one ends with its
parent. With PREFECT_API_URL set (a server or Prefect Cloud), nothing is started. As a script it is the server's own
process.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from r2.errors import EndpointError
from r2.lifeline import die_with_parent, end, spawn

_NEEDLESS_SERVICES = (
    "CANCELLATION_CLEANUP",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "SCHEDULER",
    "TRIGGERS",
)
"""Loops of a server that schedules for workers. They poll its database; an API that lives as long as one run needs none
of them."""


@contextmanager
def embedded_api() -> Iterator[None]:
    """While open, this process's flows report to an API: the configured one, else an embedded one.

    Raises EndpointError if the embedded API does not come up within the start-up timeout.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value():
        with _events_sent():
            yield
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = spawn([sys.executable, "-m", "flows.support.embedded_api", "--port", str(port)])
    try:
        url = f"http://127.0.0.1:{port}/api"
        _wait_until_healthy(url, server)
        with temporary_settings({PREFECT_API_URL: url}), _events_sent():
            yield
    finally:
        end(server)


@contextmanager
def _events_sent() -> Iterator[None]:
    """Prefect sends events from a thread; those still waiting when the API or this process goes would be lost, and
    complained of."""
    from prefect.events.worker import EventsWorker

    try:
        yield
    finally:
        EventsWorker.drain_all(timeout=10)


def _wait_until_healthy(url: str, server: "subprocess.Popen[bytes]") -> None:
    timeout_s = float(os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"])
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise EndpointError(
                f"Prefect's embedded API ended at start with code {server.returncode}. Run `prefect server start` to "
                "see why."
            )
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.1)
    raise EndpointError(
        f"Prefect's embedded API did not answer within {timeout_s:g} s. Set "
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS "
        "higher, or start a server (`prefect server start`) and set PREFECT_API_URL."
    )


def _serve() -> None:
    die_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    # The marks Prefect itself gives to the server it starts beside a flow.
    os.environ |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    os.environ |= {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _NEEDLESS_SERVICES}
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="error",
        lifespan="on",
    )


if __name__ == "__main__":
    _serve()
