"""A slow server is not a dead one: what is watched, how long is waited, what a cut answer costs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from r2.call import Call, Completion
from r2.pool.client.client import PoolClient
from r2.pool.client.pace import Pace
from r2.pool.client.ports import Address
from r2.pool.client.stream import StreamedReply
from r2.pool.file.config import load_pool
from r2.pool.limits.aimd import Controller

POOL = """
[router]
decomposer = "m"
allocator = "m"

[models.m]
endpoint = "http://127.0.0.1:1/v1"
tier = "small"
price_usd_per_mtok = {input = 1.0, output = 10.0, date = "2026-11-26", source = "made up for tests"}
timeout_s = 0.4
deadline_s = 5
stream = true
"""
CALL = Call("m", (("user", "Count."),), "solve", 50)


def chunk(text: str = "", finish: str | None = None, usage: object = None) -> bytes:
    delta = {"content": text} if text else {}
    document = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return (
        b"data: " + orjson.dumps(document if usage is None else {**document, "choices": [], "usage": usage}) + b"\n\n"
    )


@asynccontextmanager
async def served(handler: Callable[[web.Request], object]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"  # type: ignore[union-attr]
    finally:
        await runner.cleanup()


async def asked(tmp_path: Path, url: str, **address: bool) -> Completion:
    path = tmp_path / "pool.toml"
    path.write_text(POOL)
    where = {"m": Address(url, "m", **{"streams": True, **address})}
    async with PoolClient(load_pool(path), where, state_dir=tmp_path) as client:
        return await client.complete(CALL, problem_id="p")


def streams(pieces: list[tuple[float, bytes]], *, closed: list[bool]) -> Callable[[web.Request], object]:
    """A server that sends each piece after so many seconds, and notes whether the client went away."""

    async def handle(request: web.Request) -> web.StreamResponse:
        assert (await request.json())["stream_options"] == {"include_usage": True}
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for wait_s, piece in pieces:
                await asyncio.sleep(wait_s)
                await response.write(piece)
        except (ConnectionError, asyncio.CancelledError):
            closed.append(True)
            raise
        return response

    return handle


def test_an_answer_that_comes_slowly_is_waited_for_as_long_as_it_comes(tmp_path: Path):
    usage = {"prompt_tokens": 9, "completion_tokens": 8}
    pieces = [(0.15, chunk(f"{n} ")) for n in range(8)]
    pieces += [(0.0, chunk(finish="stop")), (0.0, chunk(usage=usage)), (0.0, b"data: [DONE]\n\n")]

    async def ask() -> Completion:
        async with served(streams(pieces, closed=[])) as url:
            return await asked(tmp_path, url)

    completion = asyncio.run(ask())
    assert completion.text == "0 1 2 3 4 5 6 7 ", "1.2 s in all, three times the limit on a pause"
    assert [a.error_type for a in completion.attempts] == [None]
    assert completion.cost_usd == pytest.approx((9 * 1.0 + 8 * 10.0) / 1e6)


def test_a_cut_answer_costs_what_was_computed_and_the_connection_is_closed(tmp_path: Path):
    closed: list[bool] = []
    pieces = [(0.01, chunk("one ")), (0.01, chunk("two ")), (30.0, chunk("three "))]

    async def ask() -> Completion:
        async with served(streams(pieces, closed=closed)) as url:
            completion = await asked(tmp_path, url)
            await asyncio.sleep(0.1)
            return completion

    completion = asyncio.run(ask())
    first = completion.attempts[0]
    assert completion.error_type == "timeout"
    assert (first.usage.output_tokens, first.usage.source) == (2, "estimated")
    assert first.cost_usd < (1000 * 1.0 + 3 * 10.0) / 1e6, "not the whole limit of 50 tokens"
    assert b"one two " in first.raw_body
    assert closed, "the server was told to stop"


def test_whoever_waits_for_a_server_of_ours_has_no_deadline(tmp_path: Path):
    async def handle(request: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        usage = {"prompt_tokens": 9, "completion_tokens": 1}
        choice = {"message": {"role": "assistant", "content": "4"}, "finish_reason": "stop"}
        return web.json_response({"id": "c", "model": "m", "choices": [choice], "usage": usage})

    async def ask(*, is_ours: bool) -> list[str | None]:
        path = tmp_path / "pool.toml"
        path.write_text(
            POOL.replace("deadline_s = 5", "deadline_s = 0.7").replace("stream = true", "max_in_flight = 1")
        )
        async with served(handle) as url:
            where = {"m": Address(url, "m", is_ours=is_ours)}
            async with PoolClient(load_pool(path), where, state_dir=tmp_path) as client:
                found = await asyncio.gather(*(client.complete(CALL, problem_id=f"p{n}") for n in range(5)))
        return [completion.error_type for completion in found]

    assert asyncio.run(ask(is_ours=True)) == [None] * 5
    assert "rate_limited" in asyncio.run(ask(is_ours=False)), "no turn before its deadline"


def test_the_time_that_is_left_to_a_call_follows_what_the_last_ones_took():
    pace = Pace()
    assert pace.limit_s(120, 1000, 100) == 120, "nothing is known yet"
    pace.learn(160, 10, 20.0)  # 10 generated and a tenth of the prompt's work: 20 units in 20 s
    assert pace.limit_s(120, 160, 100) == pytest.approx(4 * (100 + 10))
    assert pace.limit_s(120, 16, 4) == 120
    pace.learn(0, 10, 2.0)
    assert pace.limit_s(1, 0, 1) == pytest.approx(4 * (1.0 - 0.8 / 4)), "faster counts little by little"


def test_calls_given_up_for_time_shrink_what_is_in_flight():
    controller = Controller(8)
    controller.slow(10.0, was_probe=False)
    assert controller.limit == 4
    controller.slow(11.0, was_probe=False)
    assert controller.limit == 4, "once in 5 s"
    controller.slow(16.0, was_probe=False)
    assert controller.limit == 2


def test_pieces_cut_anywhere_make_the_body_of_one_reply():
    sent = (
        b": ping\n\n"
        + chunk("a")
        + chunk("b\xc3\xa9".encode().decode("latin-1"))
        + chunk(finish="length")
        + b"data: [DONE]\n\n"
    )
    for size in (1, 3, 7, len(sent)):
        reply = StreamedReply()
        for start in range(0, len(sent), size):
            reply.feed(sent[start : start + size])
        document = orjson.loads(reply.body())
        assert document["choices"][0]["finish_reason"] == "length" and reply.n_tokens == 2 and reply.is_done
        assert document["choices"][0]["message"]["content"].startswith("ab")


def test_an_error_in_the_stream_is_an_error():
    reply = StreamedReply()
    reply.feed(chunk("a") + b'data: {"error": {"message": "out of memory", "code": 500}}\n\n')
    assert orjson.loads(reply.body()) == {"error": {"message": "out of memory", "code": 500}}
