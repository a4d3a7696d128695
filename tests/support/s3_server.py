"""A small S3 of our own on loopback, which can fail in the ways that a real one does: it answers what the tests need,
strictly where a lake depends on it, and counts what it was asked. Real servers, moto and localbucket, are started here
too."""

import contextlib
import hashlib
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

BUCKET = "lakes"


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` requests that it is meant for."""

    method: str
    within: str
    """Part of the key."""
    what: str
    """refuse: answers `status` and does nothing. forget: does it, and cuts the connection before the answer. cut: sends
    half of the object."""
    status: int = 503
    times: int = 1


@dataclass
class S3Imitation:
    """The server's objects and faults. `url` is for AWS_ENDPOINT_URL."""

    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    hidden: Callable[[str], bool] = lambda key: False
    """Keys that are not listed yet."""
    keeps_promise: bool = True
    """False: overwrites, whatever `If-None-Match` says, as s3rver and nanio do."""
    asked: Counter[str] = field(default_factory=Counter)
    now: Callable[[], float] = time.time
    turn: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def fault_of(self, method: str, key: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and fault.within in key:
                fault.times -= 1
                return fault
        return None

    def keys(self, within: str = "") -> list[str]:
        return sorted(key for key in self.objects if within in key)


@contextlib.contextmanager
def imitation() -> Iterator[S3Imitation]:
    s3 = S3Imitation()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"s3": s3}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    s3.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield s3
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    s3: S3Imitation

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def _begin(self) -> tuple[str, dict[str, list[str]], bytes, Fault | None]:
        parts = urlsplit(self.path)
        key = unquote(parts.path).partition("/")[2].partition("/")[2]
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        query = parse_qs(parts.query, keep_blank_values=True)
        what = "LIST" if "list-type" in query else self.command
        self.s3.asked[what] += 1
        return key, query, body, self.s3.fault_of(what, key or query.get("prefix", [""])[0])

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "content_length" not in headers:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_PUT(self) -> None:
        key, _, body, fault = self._begin()
        if fault is not None and fault.what == "refuse":
            return self._answer(fault.status)
        source = unquote(self.headers.get("x-amz-copy-source", "")).lstrip("/").partition("/")[2]
        with self.s3.turn:
            if source and source not in self.s3.objects:
                return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            body = self.s3.objects[source][0] if source else body
            is_taken = self.headers.get("if-none-match") == "*" and key in self.s3.objects
            if is_taken and self.s3.keeps_promise:
                return self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            self.s3.objects[key] = (body, self.s3.now())
        if fault is not None and fault.what == "forget":
            return self._cut()
        tag = _tag(body)
        copied = f"<CopyObjectResult><ETag>{tag}</ETag><LastModified>2026-01-01T00:00:00Z</LastModified>"
        return self._answer(200, f"{copied}</CopyObjectResult>".encode() if source else b"", ETag=tag)

    def do_GET(self) -> None:
        key, query, _, fault = self._begin()
        if fault is not None and fault.what == "refuse":
            return self._answer(fault.status)
        if "list-type" in query:
            return self._list(query)
        if key not in self.s3.objects:
            return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        body, at = self.s3.objects[key]
        about = {"ETag": _tag(body), "Last_Modified": formatdate(at, usegmt=True), "content_length": str(len(body))}
        if fault is not None and fault.what == "cut":
            self._answer(200, body[: len(body) // 2], **about)
            return self._cut()
        return self._answer(200, body, **about)

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        key, _, _, _ = self._begin()
        self.s3.objects.pop(key, None)
        self._answer(204)

    def do_POST(self) -> None:
        _, _, body, _ = self._begin()
        keys = [piece.partition("</Key>")[0] for piece in body.decode().split("<Key>")[1:]]
        for key in keys:
            self.s3.objects.pop(key, None)
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def _list(self, query: dict[str, list[str]]) -> None:
        prefix, by_folder = query.get("prefix", [""])[0], "delimiter" in query
        rows, folders = [], set()
        for key, (body, at) in sorted(self.s3.objects.items()):
            if not key.startswith(prefix) or self.s3.hidden(key):
                continue
            rest = key[len(prefix) :]
            if by_folder and "/" in rest:
                folders.add(prefix + rest.partition("/")[0] + "/")
                continue
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at))
            rows.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified>"
                f"<ETag>{escape(_tag(body))}</ETag><Size>{len(body)}</Size></Contents>"
            )
        common = "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders))
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(rows)}{common}</ListBucketResult>"
        self._answer(200, body.encode(), content_type="application/xml")


def _tag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def use(monkeypatch: pytest.MonkeyPatch, url: str, state: Path) -> None:
    """This process, and those it starts, find the server and a state folder of the test's own."""
    for name, value in environment(url, state).items():
        monkeypatch.setenv(name, value)


def environment(url: str, state: Path) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key-of-a-test",
        "AWS_SECRET_ACCESS_KEY": "secret-of-a-test",
        "AWS_REGION": "us-east-1",
        "R2_STATE_DIR": str(state),
    }


@contextlib.contextmanager
def real_server(name: str, folder: Path) -> Iterator[str]:
    """moto or localbucket in a process of its own, with the bucket in it; its address."""
    program = Path(sys.executable).with_name({"moto": "moto_server"}.get(name, name))
    if not program.exists():
        pytest.skip(f"{program.name} is not installed (the extra dev)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = {
        "moto": ["-H", "127.0.0.1", "-p", str(port)],
        "localbucket": ["--host", "127.0.0.1", "--port", str(port), str(folder)],
    }[name]
    process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                request = urllib.request.Request(f"{url}/{BUCKET}", method="PUT")
                urllib.request.urlopen(request, timeout=5).close()
                break
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)
