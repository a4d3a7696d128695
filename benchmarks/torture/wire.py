"""What a server does to a client: each way is met by `r2 answer` until the server is well.

Whatever it did before, the command ends in time, in less than 1 GB and without a traceback, and the same command
answers every question then."""

import asyncio
import json
import shutil
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks.torture.figures import Row
from benchmarks.torture.world import Ended, World, answer_command, check_lake
from tests.support.hostile import MIB, MODES, HostileServer, Writing, reply_head
from tests.support.loopback import free_port, reply_json

N = 4
IN_TIME_S = 300.0
"""For a deadline of 6 s a call: what does not end ends no sooner on a machine that does other things too."""
MOST_MB = 1000
KEY = "sk-torture-0123456789abcdef"


def _json(document: object, *lines: str, status: str = "200 OK") -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return reply_head(f"Content-Length: {len(body)}", *lines, status=status) + body


def _says(reply: bytes) -> Writing:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await writer.drain()

    return write


async def _slow_loris(writer: asyncio.StreamWriter) -> None:
    for byte in reply_head("Content-Length: 100000"):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.3)


async def _slow_body(writer: asyncio.StreamWriter) -> None:
    writer.write(reply_head("Content-Length: 100000"))
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.3)


async def _gigabyte(writer: asyncio.StreamWriter) -> None:
    writer.write(reply_head(f"Content-Length: {1024 * MIB}") + b'{"choices":[{"message":{"content":"')
    for _ in range(1024):
        writer.write(b"a" * MIB)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _reset_at_once(writer: asyncio.StreamWriter) -> None:
    _reset(writer)


async def _reset_in_the_body(writer: asyncio.StreamWriter) -> None:
    writer.write(reply_head("Content-Length: 1000") + b'{"choices": [')
    await writer.drain()
    await asyncio.sleep(0.05)
    _reset(writer)


_NOT_UTF8 = json.dumps(reply_json("caf@")).encode().replace(b"@", b"\xe9\xff\xfe")
_HTML = b"<html><body>Sign in</body></html>"
OWN_MODES: dict[str, Writing] = {
    "slow_loris": _slow_loris,
    "slow_body": _slow_body,
    "gigabyte": _gigabyte,
    "reset": _reset_at_once,
    "reset_in_the_body": _reset_in_the_body,
    "wrong_type": _says(_json(_HTML).replace(b"application/json", b"text/html")),
    "not_utf8": _says(_json(_NOT_UTF8)),
    "deep_answer": _says(_json(b'{"choices":' + b"[" * 5000 + b"]" * 5000 + b"}")),
    "no_http": _says(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "negative_length": _says(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}"),
    "two_lengths": _says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\n{}"),
    "million_tokens": _says(_json(reply_json(usage=(10**15, 10**15)))),
    "negative_tokens": _says(_json(reply_json(usage=(-5, -5)))),
}
RETRY_AFTER = ("0", "-1", "nan", "inf", "1e308", "99999999999999999999", "soon", "Thu, 01 Jan 1970 00:00:00 GMT")
RETRY_AFTER += ("Fri, 31 Dec 9999 23:59:59 GMT", "0.0000001", "1, 2", "\t")


def ways() -> list[str]:
    return [*MODES, *OWN_MODES]


class Server(HostileServer):
    """Writes as `writing` says until it is well, then answers. Counts what it was asked, and what it answered whole."""

    def __init__(self, writing: Writing) -> None:
        self.writing = writing
        self.is_well = False
        self.n_asked = self.n_answered = 0
        self.heads: list[bytes] = []

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))
            self.heads.append(head)
            self.n_asked += 1
            if not self.is_well:
                await self.writing(writer)
                return
            writer.write(_json(reply_json(), "Connection: close"))
            await writer.drain()
            self.n_answered += 1
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, StopIteration):
            self.n_closed += 1
        finally:
            writer.close()


def prepare(world: World, name: str, url: str) -> Path:
    """A folder with questions and a pool of one model with a key."""
    folder = world.fresh(name)
    rows = [json.dumps({"id": f"q{i}", "question": f"What is {i} + {4 - i}?", "answer": "4"}) for i in range(N)]
    (folder / "q.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    (folder / "pool.toml").write_text(
        f'[router]\ndecomposer = "m"\nallocator = "m"\n[models.m]\nendpoint = "{url}"\ntier = "small"\n'
        'api_key_env = "TORTURE_KEY"\ntimeout_s = 2\ndeadline_s = 6\ncontext_tokens = 4096\n'
        'price_usd_per_mtok = {input = 1, output = 2, date = "2026-11-27", source = "made up"}\n',
        "utf-8",
    )
    return folder


def asked(world: World, row: Row, name: str, folder: Path) -> Ended:
    """The command, with what holds however it ends."""
    ended = world.run(answer_command(method="cot"), folder, env={"TORTURE_KEY": KEY})
    row.needs(ended.code in (0, 1), f"{name}: exit code {ended.code}: {ended.said[-300:]}")
    row.needs("Traceback" not in ended.said, f"{name}: a traceback: {ended.said[-400:]}")
    row.needs(ended.wall_s < IN_TIME_S, f"{name}: it took {ended.wall_s:.0f} s")
    row.needs(ended.peak_mb < MOST_MB, f"{name}: it took {ended.peak_mb} MB")
    row.peak_mb = max(row.peak_mb, ended.peak_mb)
    return ended


def check_answers(row: Row, name: str, folder: Path) -> None:
    """Every question is answered, and the key is nowhere."""
    answers = [json.loads(line) for line in (folder / "lake.jsonl").read_text("utf-8").splitlines()]
    row.needs([one["status"] for one in answers] == ["answered"] * N, f"{name}: {[one['status'] for one in answers]}")
    leaks = [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    row.needs(not leaks, f"{name}: the key is in {leaks[:2]}")
    check_lake(row, folder / "lake", N)


def hostile(world: World, names: Sequence[str]) -> Row:
    row = Row("hostile replies", f"{', '.join(names)}", times=len(names))
    for name in names:
        server = Server(MODES.get(name) or OWN_MODES[name])
        world.loop.call(server.__aenter__())
        folder = prepare(world, f"wire {name}", f"{server.url(name)}/v1")
        first = asked(world, row, name, folder)
        server.is_well, n_before = True, server.n_asked
        if first.code != 0:
            done = asked(world, row, name, folder)
            row.needs(done.code == 0, f"{name}: the server is well, and it ended with {done.code}: {done.said[-300:]}")
        row.twice += max(0, server.n_answered - N)
        row.needs(server.n_asked - n_before <= N, f"{name}: {server.n_asked - n_before} requests for {N} questions")
        check_answers(row, name, folder)
        world.loop.call(server.__aexit__())
    return row


def storm(world: World, values: Sequence[str], n_refusals: int) -> Row:
    """429 for every request, so and so often, with a wait that nobody could mean."""
    row = Row("429 storm", f"Retry-After: {', '.join(value.strip() or 'a tab' for value in values)}", times=len(values))
    for value in values:
        refusal = _json({"error": {"message": "slow down"}}, f"Retry-After: {value}", status="429 Too Many Requests")
        server = Server(_says(refusal))
        world.loop.call(server.__aenter__())
        folder = prepare(world, f"storm {server.port}", f"{server.url('x')}/v1")
        began = time.monotonic()
        first = asked(world, row, value, folder)
        n_refused, took_s = server.n_asked, time.monotonic() - began
        row.needs(n_refused < n_refusals, f"{value!r}: {n_refused} requests in {took_s:.0f} s for {N} questions")
        server.is_well = True
        if first.code != 0:
            done = asked(world, row, value, folder)
            row.needs(done.code == 0, f"{value!r}: well, and it ended with {done.code}: {done.said[-300:]}")
        row.twice += max(0, server.n_answered - N)
        check_answers(row, value, folder)
        world.loop.call(server.__aexit__())
    return row


def redirects(world: World) -> Row:
    """307 to another host: nothing goes there, the key least of all."""
    row = Row("redirects", "301, 302, 307 and 308 to another host", times=4)
    for status in ("301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"):
        other = Server(_says(_json(reply_json())))
        world.loop.call(other.__aenter__())
        place = f"Location: http://localhost:{other.port}/v1/chat/completions"
        server = Server(_says(reply_head(place, "Content-Length: 0", status=status)))
        world.loop.call(server.__aenter__())
        folder = prepare(world, f"redirect {status[:3]}", f"{server.url('x')}/v1")
        first = asked(world, row, status, folder)
        row.needs(first.code == 1, f"{status}: exit code {first.code}")
        row.needs(other.n_asked == 0, f"{status}: the other host was asked {other.n_asked} times")
        server.is_well = True
        done = asked(world, row, status, folder)
        row.needs(done.code == 0, f"{status}: well, and it ended with {done.code}: {done.said[-300:]}")
        check_answers(row, status, folder)
        for one in (server, other):
            world.loop.call(one.__aexit__())
    return row


def unreachable(world: World) -> Row:
    """No such host, nobody at the port, no TLS behind https, a certificate that nobody signed: then a good server."""
    row = Row("DNS and TLS failure", "no such host, closed port, no TLS, self-signed certificate", times=4)
    plain = Server(_says(_json(reply_json())))
    world.loop.call(plain.__aenter__())
    urls = {
        "no such host": "https://no-such-host.invalid/v1",
        "closed port": f"http://127.0.0.1:{free_port()}/v1",
        "no TLS": f"https://127.0.0.1:{plain.port}/v1",
    }
    server, stop = None, None
    if (context := self_signed(world.folder)) is not None:
        served: list[bytes] = []
        server, stop = world.loop.call(_tls_server(context, served))
        urls["self-signed"] = f"https://localhost:{server}/v1"
    else:
        row.done, row.times = row.done.replace(", self-signed certificate", " (openssl is missing)"), 3
    for name, url in urls.items():
        folder = prepare(world, name, url)
        first = asked(world, row, name, folder)
        row.needs(first.code == 1, f"{name}: exit code {first.code}: {first.said[-300:]}")
        well = Server(_says(b""))
        well.is_well = True
        world.loop.call(well.__aenter__())
        text = (folder / "pool.toml").read_text("utf-8").replace(url, f"{well.url('x')}/v1")
        (folder / "pool.toml").write_text(text, "utf-8")
        done = asked(world, row, name, folder)
        row.needs(done.code == 0, f"{name}: well, and it ended with {done.code}: {done.said[-300:]}")
        row.twice += max(0, well.n_answered - N)
        check_answers(row, name, folder)
        world.loop.call(well.__aexit__())
    row.needs(plain.n_asked == 0, f"without TLS {plain.n_asked} requests were sent")
    if stop is not None:
        row.needs(not served, f"{len(served)} requests went to a server whose certificate nobody signed")
        world.loop.call(stop())
    world.loop.call(plain.__aexit__())
    return row


def self_signed(folder: Path) -> ssl.SSLContext | None:
    if (openssl := shutil.which("openssl")) is None:
        return None
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    words += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *words], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def _tls_server(context: ssl.SSLContext, served: list[bytes]) -> tuple[int, Callable[[], Awaitable[None]]]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)

    async def stop() -> None:
        server.close()

    return server.sockets[0].getsockname()[1], stop
