"""Prefect's API for runs without a server: started beside the run, and gone when the run is gone, even after `kill -9`.

Prefect starts such a server by itself, but one whose flow was killed lives on as an orphan. This one ends with its
parent. If it ends before (somebody killed it, memory ran out), it is started again at the same address: its database is
a file, so the run goes on. With PREFECT_API_URL set (a server or Prefect Cloud), nothing is started. As a script it is
the server's own process.
"""

import argparse
import gc
import importlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from flows.support.terminal import was_stopped
from r2.errors import EndpointError
from r2.lifeline import die_with_parent, end, spawn

MAX_RESTARTS = 3
"""An API that ends so often will not stay: then the run ends with what its client says."""
EVENTS_S, EVENTS_AFTER_STOP_S = 10.0, 1.0
"""What the events of a run are given to reach the API; the second for a command that Ctrl-C has stopped. They say what
happened; nothing depends on them."""
END_S, END_AFTER_STOP_S = 3.0, 0.2
"""What the server is given to end, likewise; its database survives a kill."""
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
_USED_BY_A_RUN = ("/flows", "/flow_runs", "/artifacts", "/logs", "/csrf-token", "/events", "/admin")
"""Prefixes of the routes that a run asks. FastAPI makes a router's routes when a request is first held against them,
and goes through the routers in order: behind all others, one of these would wait for the routes of all others."""
_LATE_IMPORTS = (
    "anyio._backends._asyncio",
    "fastapi.encoders",
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect.utilities.visualization",
)
"""What Prefect imports when the first flow of a process starts."""
_POLL_S = 0.02
_QUICK_START = {
    # Types of blocks: a run uses none, and a server that people start registers them.
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
    # Checks of types in a package under Prefect's server: they write all its functions anew while they are imported.
    "PY_KEY_VALUE_DISABLE_BEARTYPE": "true",
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
}
"""Settings of the server's own process."""
_ERROR = re.compile(r"[\w.]+(?:Error|Exception): (.+)")
"""The last line of a traceback."""
_UNPROXIED = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""No proxy can reach an address of this machine."""


@contextmanager
def embedded_api(importing: str | None = None, meanwhile: Callable[[], object] | None = None) -> Iterator[None]:
    """While open, this process's flows report to an API: the configured one, else an embedded one.

    `importing`: a module that is imported while the embedded API starts, which takes about as long as importing a flow.
    `meanwhile` is called after that, before the API is waited for: for what else takes time and needs no API.
    Raises EndpointError if the configured API cannot be reached, or the embedded one does not come up within the
    start-up timeout.
    """
    with api_starting() as api:
        api.load(importing, meanwhile)
        api.wait()
        with api.reached():
            yield


@contextmanager
def api_starting() -> Iterator["Api"]:
    """The same in steps, of which this is the first: the embedded API's process starts, where none is configured. It
    ends with the block."""
    with tempfile.TemporaryDirectory(prefix="r2-api-") as folder:
        api = Api(Path(folder) / "log")
        try:
            yield api
        finally:
            api.close()


class Api:
    """Prefect's API for this process's flows while it starts. `load` and `wait` may be called by another thread; the
    one that made it lives as long as it: the kernel ends a child with the thread that started it."""

    def __init__(self, log: Path) -> None:
        # Before Prefect is imported: its import takes as long as the server's start. A profile of Prefect's own may
        # name an API; then the server is not needed, and ended.
        configured = os.environ.get("PREFECT_API_URL")
        self._server = None if configured else _Server(log)
        if configured:
            _check_reachable(configured)

    def load(self, importing: str | None, meanwhile: Callable[[], object] | None = None) -> None:
        """Imports Prefect and the module `importing`, then calls `meanwhile`."""
        with _uncollected():
            from prefect.settings import PREFECT_API_URL

            import flows.support.prefect_threads  # noqa: F401  so that they end before the interpreter does

            if importing is not None:
                importlib.import_module(importing)
            if self._server is not None and (configured := PREFECT_API_URL.value()):
                self._server.close()
                self._server = None
                _check_reachable(configured)
            if self._server is not None:
                for name in _LATE_IMPORTS:
                    with suppress(ModuleNotFoundError):  # another release of Prefect may have it elsewhere: it waits
                        importlib.import_module(name)
            if meanwhile is not None:
                meanwhile()

    def wait(self) -> None:
        """After `load`: returns once the API answers. EndpointError if it does not."""
        if self._server is not None:
            self._server.start()

    @contextmanager
    def reached(self) -> Iterator[None]:
        """After `wait`: while open, flows of this thread report to it."""
        from prefect.settings import temporary_settings

        with ExitStack() as stack:
            if self._server is not None:
                stack.enter_context(temporary_settings(_settings_for(self._server.url)))
            stack.enter_context(_events_sent())
            yield

    def close(self) -> None:
        """Ends what it started."""
        if self._server is not None:
            self._server.close()


def _settings_for(url: str) -> dict[Any, Any]:
    """What Prefect's client needs to know of the embedded API."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    )

    return {
        PREFECT_API_URL: url,
        PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False,  # it is of the same installation
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,  # nobody watches the runs of an API that ends with the run
    }


@contextmanager
def _uncollected() -> Iterator[None]:
    """For imports: little of what they make is garbage, and looking for it takes a fifth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Server:
    """The embedded API's process and the thread that keeps it running."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/api"
        self._log = log
        self._process = self._spawn()
        self._is_closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="embedded-api", daemon=True)

    def start(self) -> None:
        """Returns once the API answers. EndpointError if it does not."""
        from prefect.settings import PREFECT_HOME

        timeout_s = float(os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"])
        deadline = time.monotonic() + timeout_s
        while not _is_healthy(self.url):
            if self._process.poll() is not None:
                home = PREFECT_HOME.value()
                raise EndpointError(
                    f"Prefect's embedded API ended at start with code {self._process.returncode}: {self._last_words()} "
                    f"Its database lies in {home} (PREFECT_HOME). `prefect server start` says more."
                )
            if time.monotonic() > deadline:
                raise EndpointError(
                    f"Prefect's embedded API did not answer within {timeout_s:g} s at {self.url}. Set "
                    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS higher, or start a server (`prefect server "
                    "start`) and set PREFECT_API_URL."
                )
            time.sleep(_POLL_S)
        self._keeper.start()

    def close(self) -> None:
        """Ends the server and its keeper."""
        self._is_closing.set()
        patience_s = END_AFTER_STOP_S if was_stopped() else END_S
        end(self._process, patience_s)
        if self._keeper.ident is not None:
            self._keeper.join()
        end(self._process, patience_s)  # the one that the keeper may have started meanwhile

    def _spawn(self) -> "subprocess.Popen[bytes]":
        return spawn([sys.executable, "-m", "flows.support.embedded_api", "--port", str(self._port)], log=self._log)

    def _keep(self) -> None:
        """Starts the server again when it ends. This thread waits for the process that it started: the kernel ends a
        child with the thread that started it."""
        for _ in range(MAX_RESTARTS):
            self._process.wait()
            if self._is_closing.is_set():
                return
            self._process = self._spawn()
        self._process.wait()

    def _last_words(self) -> str:
        try:
            lines = [line.strip() for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()]
        except OSError as error:
            return f"its log cannot be read ({error})."
        errors = [found[1] for line in lines if (found := _ERROR.fullmatch(line))]
        return f"{(errors or lines or ['it said nothing'])[-1].rstrip('.')}."


def _is_healthy(url: str) -> bool:
    try:
        with _UNPROXIED.open(f"{url}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _check_reachable(url: str) -> None:
    """EndpointError where nothing answers. What answers with an error is there: the flow's own calls will tell."""
    try:
        urllib.request.urlopen(f"{url}/health", timeout=10).close()
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise EndpointError(
            f"Prefect's API at {url} (PREFECT_API_URL) cannot be reached: {reason}. Start it, or unset the variable: "
            "then an API is started beside the run."
        ) from error


@contextmanager
def _events_sent() -> Iterator[None]:
    """Prefect sends events from a thread; those still waiting when the API or this process goes would be lost, and
    complained of."""
    from prefect.events.worker import EventsWorker

    try:
        yield
    finally:
        timeout_s = EVENTS_AFTER_STOP_S if was_stopped() else EVENTS_S
        # In a thread without an event loop: under a running one Prefect returns a coroutine, and has sent nothing.
        draining = threading.Thread(target=EventsWorker.drain_all, args=(timeout_s,))
        draining.start()
        draining.join()


def _serve() -> None:
    die_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    # The marks Prefect itself gives to the server it starts beside a flow.
    os.environ |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    os.environ |= {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _NEEDLESS_SERVICES}
    os.environ |= _QUICK_START
    with _uncollected():
        import prefect.server.api.server as prefect_server
        import uvicorn

        # Another release of Prefect may keep them elsewhere: then they stay in its order.
        routers = getattr(prefect_server, "API_ROUTERS", ())
        used_first = sorted(routers, key=lambda router: router.prefix not in _USED_BY_A_RUN)
        prefect_server.API_ROUTERS = tuple(used_first)
        gc.freeze()  # the app's maker collects, and the loaded modules are most of what there is to walk through
        app = prefect_server.create_app()
        gc.freeze()
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", lifespan="on")


if __name__ == "__main__":
    _serve()
