"""A provider for commands that run in processes of their own: a plain HTTP server in a thread of the test, and a pool
file that points at it."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.loopback import reply_json


class Provider:
    """Answers `n_prompt` questions at once, every one if None, and leaves the others without a word until `is_awake`.

    `questions` are those that came, `at_first_question` is called when the first has come.
    """

    def __init__(self, n_prompt: int | None = None) -> None:
        self.questions: list[str] = []
        self.is_awake = threading.Event()
        self.at_first_question: Callable[[], object] = lambda: None
        arriving = threading.Lock()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with arriving:
                    provider.questions.append(body["messages"][-1]["content"])
                    place = len(provider.questions)
                    if place == 1:
                        provider.at_first_question()
                if n_prompt is not None and place > n_prompt and not provider.is_awake.wait(60):
                    return
                reply = json.dumps(reply_json("4")).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *args: Any) -> None:
                """Says nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that hung up is what the tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)

    def pool(self, path: Path) -> Path:
        """Writes the pool file."""
        path.write_text(
            f'[models.only]\nendpoint = "http://127.0.0.1:{self._server.server_port}/v1"\ntier = "small"\n'
            'price_usd_per_mtok = {input = 1, output = 1, date = "2026-11-24", source = "made up"}\n'
            "context_tokens = 4096\nmax_in_flight = 8\ntimeout_s = 60\n[router]\n"
            'decomposer = "only"\nallocator = "only"\nfinalizer = "last_step"\n'
        )
        return path

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_awake.set()
        self._server.shutdown()
        self._server.server_close()
