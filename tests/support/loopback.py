"""A real HTTP server on loopback that answers from a script, and a pool file that points at it."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from r2.call import Call
from r2.pool.client.ports import Address
from r2.pool.file.config import PoolConfig, load_pool

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Arrival:
    """One request as the server saw it."""

    at: float
    headers: Mapping[str, str]
    body: dict[str, Any]
    peer_port: int


def reply_json(
    text: str = "4", *, model: str = "served", usage: tuple[int, int] | None = (10, 5), finish_reason: str = "stop"
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": "chatcmpl-1",
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}],
    }
    if usage is not None:
        document["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return document


def answers(text: str = "4", *, usage: tuple[int, int] | None = (10, 5), after_s: float = 0.0) -> Behaviour:
    async def behave(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(after_s)
        return web.json_response(reply_json(text, usage=usage))

    return behave


def says(status: int, body: str | dict[str, Any] = "", headers: Mapping[str, str] | None = None) -> Behaviour:
    async def behave(request: web.Request) -> web.StreamResponse:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, headers=headers, content_type="application/json")

    return behave


def hangs() -> Behaviour:
    async def behave(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError("nobody waits this long")

    return behave


def cuts_the_body() -> Behaviour:
    async def behave(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"choices": [')
        assert request.transport is not None
        request.transport.close()
        return response

    return behave


def hangs_up() -> Behaviour:
    """Ends the connection before any byte of an answer."""

    async def behave(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    return behave


@dataclass
class Loopback:
    """Takes `script` one behaviour per request, then `after` for good. `max_together` is the most requests it held at
    once."""

    script: list[Behaviour] = field(default_factory=list)
    after: Behaviour = field(default_factory=answers)
    arrivals: list[Arrival] = field(default_factory=list)
    base_url: str = ""
    port: int = 0
    """0: any free one."""
    max_together: int = 0
    _together: int = 0

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        at = time.monotonic()
        port = request.transport.get_extra_info("peername")[1]
        self.arrivals.append(Arrival(at, dict(request.headers), await request.json(), port))
        self._together += 1
        self.max_together = max(self.max_together, self._together)
        try:
            return await (self.script.pop(0) if self.script else self.after)(request)
        finally:
            self._together -= 1


@dataclass(slots=True)
class Lag:
    """How late this loop was at most, in seconds."""

    most_s: float = 0.0


@asynccontextmanager
async def measuring_lag() -> AsyncIterator[Lag]:
    """Looks fifty times a second while the block lasts."""
    lag = Lag()

    async def look() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.02)
            lag.most_s = max(lag.most_s, time.monotonic() - began - 0.02)

    looking = asyncio.create_task(look())
    try:
        yield lag
    finally:
        looking.cancel()


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_pool(folder: Path, models: Mapping[str, str], extra: str = "") -> PoolConfig:
    """A pool file of `models`: name -> further TOML lines of its table. Tier small, 1 USD in and 2 USD out per million,
    unless said."""
    text = f'[router]\ndecomposer = "{next(iter(models))}"\nallocator = "{next(iter(models))}"\n{extra}\n'
    for name, lines in models.items():
        text += f"[models.{name}]\n"
        defaults = {
            "endpoint": '"http://127.0.0.1:9/v1"',
            "tier": '"small"',
            "price_usd_per_mtok": '{input = 1.0, output = 2.0, date = "2026-11-01", source = "made up for tests"}',
        }
        given = {line.split("=")[0].strip() for line in lines.splitlines()}
        text += "".join(f"{key} = {value}\n" for key, value in defaults.items() if key not in given) + lines + "\n"
    path = folder / "pool.toml"
    path.write_text(text, "utf-8")
    return load_pool(path)


def addresses(pool: PoolConfig, servers: Mapping[str, str] | str) -> dict[str, Address]:
    """The same base URL for all entries, or one per entry."""
    return {
        name: Address(servers if isinstance(servers, str) else servers[name], f"served-{name}") for name in pool.models
    }


def ask(text: str = "What is 2+2?", *, model: str = "small", max_output_tokens: int = 50, **fields: Any) -> Call:
    return Call(model, (("user", text),), "solve", max_output_tokens, **fields)


def most_in_window(times: Sequence[float], amounts: Sequence[float], window_s: float) -> float:
    """The largest sum of amounts in any window that begins at one of the times."""
    return max(
        (
            sum(amount for at, amount in zip(times, amounts, strict=True) if start <= at < start + window_s)
            for start in times
        ),
        default=0.0,
    )
