"""A server on loopback that answers each path in its own hostile way, written on bare sockets: no library of ours would
send such replies."""

import asyncio
import functools
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable
from typing import Self

Writing = Callable[[asyncio.StreamWriter], Awaitable[None]]
MIB = 1 << 20


def reply_head(*lines: str, status: str = "200 OK") -> bytes:
    return ("\r\n".join([f"HTTP/1.1 {status}", "Content-Type: application/json", *lines]) + "\r\n\r\n").encode()


@functools.cache
def bomb() -> bytes:
    """600 MiB in 0.6 MiB of gzip."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = [packer.compress(b'{"choices":[{"message":{"content":"')]
    packed += [packer.compress(b"a" * MIB) for _ in range(600)]
    packed.append(packer.compress(b'"}}]}') + packer.flush())
    return b"".join(packed)


async def _send(writer: asyncio.StreamWriter, *pieces: bytes) -> None:
    for piece in pieces:
        writer.write(piece)
        await writer.drain()


async def _sized(writer: asyncio.StreamWriter) -> None:
    await _send(writer, reply_head(f"Content-Length: {300 * MIB}"), b'{"choices":[{"message":{"content":"')
    for _ in range(300):
        await _send(writer, b"a" * MIB)


async def _endless(writer: asyncio.StreamWriter) -> None:
    await _send(writer, reply_head("Transfer-Encoding: chunked"))
    while True:
        await _send(writer, b"100000\r\n" + b"a" * MIB + b"\r\n")


async def _endless_refusal(writer: asyncio.StreamWriter) -> None:
    await _send(writer, reply_head("Transfer-Encoding: chunked", status="500 Oops"))
    while True:
        await _send(writer, b"100000\r\n" + b"a" * MIB + b"\r\n")


async def _gzip(writer: asyncio.StreamWriter) -> None:
    await _send(writer, reply_head("Content-Encoding: gzip", f"Content-Length: {len(bomb())}"), bomb())


async def _gzip_twice(writer: asyncio.StreamWriter) -> None:
    twice = gzip.compress(bomb())
    await _send(writer, reply_head("Content-Encoding: gzip", f"Content-Length: {len(twice)}"), twice)


async def _one_header(writer: asyncio.StreamWriter) -> None:
    await _send(writer, b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(200):
        await _send(writer, b"a" * MIB)
    await _send(writer, b"\r\n\r\n{}")


async def _many_headers(writer: asyncio.StreamWriter) -> None:
    await _send(writer, b"HTTP/1.1 200 OK\r\n")
    while True:
        await _send(writer, b"X-a: b\r\n" * 100_000)


async def _early_hints(writer: asyncio.StreamWriter) -> None:
    while True:
        await _send(writer, b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
        await asyncio.sleep(0)


async def _bad_chunk(writer: asyncio.StreamWriter) -> None:
    await _send(writer, reply_head("Transfer-Encoding: chunked") + b"ZZZZ\r\nabc\r\n")


async def _cut_chunk(writer: asyncio.StreamWriter) -> None:
    await _send(writer, reply_head("Transfer-Encoding: chunked") + b"1000\r\nabc")


async def _nested(writer: asyncio.StreamWriter) -> None:
    body = b"[" * (15 * MIB)
    await _send(writer, reply_head(f"Content-Length: {len(body)}"), body)


async def _many_values(writer: asyncio.StreamWriter) -> None:
    body = b"[" + b"{}," * (5 * MIB) + b"1]"
    await _send(writer, reply_head(f"Content-Length: {len(body)}"), body)


MODES: dict[str, Writing] = {
    "sized": _sized,
    "endless": _endless,
    "endless_refusal": _endless_refusal,
    "gzip": _gzip,
    "gzip_twice": _gzip_twice,
    "one_header": _one_header,
    "many_headers": _many_headers,
    "early_hints": _early_hints,
    "bad_chunk": _bad_chunk,
    "cut_chunk": _cut_chunk,
    "nested": _nested,
    "many_values": _many_values,
}


class HostileServer:
    """`url(mode)` answers by `MODES[mode]`. `closed` counts the connections that the client closed on us."""

    async def __aenter__(self) -> Self:
        self.n_closed = 0
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0, limit=16 * MIB)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()

    def url(self, mode: str) -> str:
        return f"http://127.0.0.1:{self.port}/{mode}"

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            mode = head.split(b" ", 2)[1].decode().split("/")[1]
            length = next(line for line in head.decode().lower().split("\r\n") if line.startswith("content-length"))
            json.loads(await reader.readexactly(int(length.split(":")[1])))
            await MODES[mode](writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.n_closed += 1
        finally:
            writer.close()
