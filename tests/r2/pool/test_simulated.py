"""The server of simulated models: replies, faults, limits, log and life, over loopback."""

import asyncio
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from r2.answering.allocation import choose
from r2.answering.prompts import allocate_messages, solve_messages
from r2.call import Completion
from r2.errors import ConfigError, PoolFileError
from r2.ledger import Price
from r2.plan import Plan, Subtask
from r2.pool.client import refusals, wire
from r2.pool.file.config import PoolConfig
from r2.pool.simulated.faults import MinuteWindow, check_faults, draw_fault
from r2.pool.simulated.mind import (
    think,
)
from r2.pool.simulated.process import start_simulated
from r2.pool.simulated.server import Conditions, SimulatedServer, simulated_models
from r2.problem import Problem
from r2.roster import ModelCard
from tests.support.loopback import write_pool
from tests.support.paths import ROOT

CARDS = [
    ModelCard("dear", "large", Price(5, 5, 5, "2026-11-24", "test"), skills={"add": 0.99, "multiply": 0.99}),
    ModelCard("cheap", "small", Price(0.1, 0.1, 0.1, "2026-11-24", "test"), skills={"add": 0.99, "multiply": 0.3}),
    ModelCard("thinks", "medium", Price(2, 2, 2, "2026-11-24", "test"), "cot", skills={"add": 0.99, "multiply": 0.99}),
]
PLAN = Plan((Subtask("Compute 3 + 4"), Subtask("Compute the result of step 1 * 5", (0,))))
SIMULATED = 'endpoint = "simulated:sim"\nsimulated = {ability = 50}\nlogprobs = true'


def request(question: str = "What is 12 * 7?", **fields: object) -> dict[str, object]:
    messages = [
        {"role": role, "content": text} for role, text in solve_messages(Problem("p", question), None, {}, "direct")
    ]
    return {"model": "sim", "messages": messages, "max_tokens": 50, **fields}


@asynccontextmanager
async def serving(
    pool: PoolConfig, conditions: Conditions | None = None
) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """Root URL of a server in this process, and a client of it."""
    conditions = conditions or Conditions()
    runner = web.AppRunner(
        SimulatedServer(pool, conditions).application(), shutdown_timeout=0.1, handler_cancellation=True
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}", session
    finally:
        await runner.cleanup()


async def post(session: aiohttp.ClientSession, root: str, body: object) -> tuple[int, dict[str, str], bytes]:
    async with session.post(f"{root}/v1/chat/completions", json=body) as reply:
        return reply.status, dict(reply.headers), await reply.read()


async def get(session: aiohttp.ClientSession, root: str, path: str) -> dict[str, object]:
    async with session.get(root + path) as reply:
        assert reply.status == 200
        return await reply.json()


def test_a_reply_is_a_chat_completion_with_its_token_counts(tmp_path: Path):
    pool = write_pool(tmp_path, {"entry": SIMULATED})

    async def scenario() -> None:
        async with serving(pool) as (root, session):
            status, _, body = await post(session, root, request())
            reply = wire.parse_body(body)
            assert status == 200 and isinstance(reply, wire.ParsedReply) and reply.usage is not None
            assert (reply.text, reply.finish_reason, reply.response_model) == ("84", "stop", "sim")
            # system: 7 words, a comma and a stop; user: Question : What is 12 * 7 ?; and 4 for each message
            assert (reply.usage.input_tokens, reply.usage.output_tokens) == (9 + 8 + 8, 1)
            assert (await post(session, root, request()))[2].replace(b" ", b"").split(b'"created"')[0] == body.replace(
                b" ", b""
            ).split(b'"created"')[0]
            assert await get(session, root, "/v1/models") == {
                "object": "list",
                "data": [{"id": "sim", "object": "model"}],
            }
            assert await get(session, root, "/health") == {"status": "ok"}
            assert await get(session, root, "/stats") == {
                "total": {"requests": 2, "completed": 2, "duplicates": 1},
                "by_model": {"sim": {"requests": 2, "completed": 2, "duplicates": 1}},
            }

    asyncio.run(scenario())


def test_a_reply_stops_at_the_token_limit_and_says_so(tmp_path: Path):
    server = SimulatedServer(write_pool(tmp_path, {"entry": SIMULATED}), Conditions())
    _, body = server.complete(request("walk thrice", max_tokens=2))
    reply = wire.parse_body(json.dumps(body).encode())
    assert isinstance(reply, wire.ParsedReply) and reply.usage is not None
    assert (reply.text, reply.finish_reason, reply.usage.output_tokens) == ("I_WALK I_WALK", "length", 2)


def test_an_allocation_brings_the_probabilities_of_its_letters(tmp_path: Path):
    server = SimulatedServer(write_pool(tmp_path, {"entry": SIMULATED}), Conditions())
    messages = [
        {"role": role, "content": text}
        for role, text in allocate_messages(Problem("p", "What is (3 + 4) * 5?"), PLAN, CARDS)
    ]
    _, body = server.complete({"model": "sim", "messages": messages, "logprobs": True, "top_logprobs": 2})
    reply = wire.parse_body(json.dumps(body).encode())
    assert isinstance(reply, wire.ParsedReply)
    chosen = choose(Completion(reply.text, "m", token_logprobs=reply.token_logprobs), 2, CARDS, b=0.0)
    assert [choice.model for choice in chosen] == ["cheap", "dear"]
    assert all(len(choice.log_probabilities) == 2 for choice in chosen)
    assert max(chosen[0].propensities(), key=lambda name: chosen[0].propensities()[name]) == "cheap"


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"model": "other", "messages": []},
        request(messages=[{"role": "user", "content": None}]),
        request(seed="x"),
    ],
)
def test_a_request_that_makes_no_sense_is_a_400_that_says_why(tmp_path: Path, body: object):
    pool = write_pool(tmp_path, {"entry": SIMULATED})

    async def scenario() -> tuple[int, bytes]:
        async with serving(pool) as (root, session):
            status, _, said = await post(session, root, body)
            return status, said

    status, said = asyncio.run(scenario())
    assert status == 400 and "for one of sim" in refusals.provider_message(said)


def meet(pool: PoolConfig, fault: str) -> tuple[int, dict[str, str], bytes]:
    """What a client gets that meets the fault, and the server's count of it."""

    async def scenario() -> tuple[int, dict[str, str], bytes]:
        async with serving(pool, Conditions(faults={fault: 1.0}, time_scale=0.02)) as (root, session):
            try:
                return await post(session, root, request())
            finally:
                stats = await get(session, root, "/stats")
                completed = int(fault in ("no_usage", "slow_bytes"))
                assert stats["total"] == {"requests": 1, "completed": completed, "duplicates": 0, fault: 1}

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("fault", "wait_s"),
    [("rate_limited_seconds", 1.0), ("rate_limited_date", 1.5), ("rate_limited_ms", 0.12), ("rate_limited_bare", None)],
)
def test_a_refusal_says_in_each_known_form_how_long_to_wait(tmp_path: Path, fault: str, wait_s: float | None):
    status, headers, body = meet(write_pool(tmp_path, {"entry": SIMULATED}), fault)
    assert refusals.classify(status, body) == "rate_limited"
    assert refusals.wait_asked_for(headers, time.time()) == (
        None if wait_s is None else pytest.approx(wait_s, abs=0.6 if "date" in fault else 0)
    )


@pytest.mark.parametrize(("fault", "error_type"), [("server_error", "server_error"), ("auth", "auth")])
def test_an_error_status_is_the_error_it_stands_for(tmp_path: Path, fault: str, error_type: str):
    status, _, body = meet(write_pool(tmp_path, {"entry": SIMULATED}), fault)
    assert refusals.classify(status, body) == error_type


def test_a_cut_body_is_a_broken_connection(tmp_path: Path):
    with pytest.raises(aiohttp.ClientPayloadError):
        meet(write_pool(tmp_path, {"entry": SIMULATED}), "cut_body")


def test_wrong_json_is_a_200_that_holds_no_completion(tmp_path: Path):
    status, _, body = meet(write_pool(tmp_path, {"entry": SIMULATED}), "wrong_json")
    assert status == 200 and isinstance(wire.parse_body(body), wire.BadBody)


@pytest.mark.parametrize(("fault", "has_usage"), [("no_usage", False), ("slow_bytes", True)])
def test_an_answer_may_come_without_usage_or_slowly_and_is_whole(tmp_path: Path, fault: str, has_usage: bool):
    started = time.monotonic()
    _, _, body = meet(write_pool(tmp_path, {"entry": SIMULATED}), fault)
    reply = wire.parse_body(body)
    assert isinstance(reply, wire.ParsedReply)
    assert reply.text == "84" and (reply.usage is not None) == has_usage
    assert fault != "slow_bytes" or time.monotonic() - started > 0.15


def bytes_come(path: Path) -> bool:
    """True as soon as the file holds something, False if it does not within five seconds."""
    deadline = time.monotonic() + 5
    while not path.read_bytes():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_hanging_request_is_logged_when_its_client_gives_up(tmp_path: Path):
    pool, log = write_pool(tmp_path, {"entry": SIMULATED}), tmp_path / "log.jsonl"

    async def scenario() -> None:
        conditions = Conditions(faults={"hang": 1.0})
        timeout = aiohttp.ClientTimeout(total=0.2)
        async with (
            start_simulated(pool, conditions=conditions, log_path=log) as base_url,
            aiohttp.ClientSession(timeout=timeout) as session,
        ):
            with pytest.raises(TimeoutError):
                await post(session, base_url.removesuffix("/v1"), request())
            assert await asyncio.to_thread(bytes_come, log)

    asyncio.run(scenario())
    [entry] = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert (entry["status"], entry["fault"], entry["completed"]) == (0, "hang", False)


def test_a_server_process_logs_each_request_and_leaves_with_its_block(tmp_path: Path):
    pool, log = write_pool(tmp_path, {"entry": SIMULATED}), tmp_path / "log.jsonl"
    before = time.time(), time.monotonic()

    async def scenario() -> str:
        async with start_simulated(pool, log_path=log) as base_url, aiohttp.ClientSession() as session:
            for question in ("What is 12 * 7?", "What is 12 * 7?", "What is 2 + 2?"):
                await post(session, base_url.removesuffix("/v1"), request(question))
            return base_url

    base_url = asyncio.run(scenario())
    entries = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert [entry["key"] == entries[0]["key"] for entry in entries] == [True, True, False]
    for entry in entries:
        assert (entry["model"], entry["status"], entry["fault"], entry["completed"]) == ("sim", 200, None, True)
        assert (entry["input_tokens"], entry["output_tokens"]) == (25, 1)
        assert before[0] <= entry["time"] <= time.time() and before[1] <= entry["monotonic"] <= time.monotonic()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(base_url + "/models", timeout=1)


def test_a_server_dies_with_its_parent_even_after_kill_9(tmp_path: Path):
    pool = write_pool(tmp_path, {"entry": SIMULATED})
    parent_code = (
        "import asyncio, sys\n"
        "from r2.pool.file.config import load_pool\n"
        "from r2.pool.simulated.process import start_simulated\n"
        "async def main():\n"
        "    async with start_simulated(load_pool(sys.argv[1])) as base_url:\n"
        "        print(base_url, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_code, str(pool.path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    try:
        health = parent.stdout.readline().decode().strip().replace("/v1", "/health")
        with urllib.request.urlopen(health, timeout=5) as reply:
            assert reply.status == 200
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait(5)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(health, timeout=1).close()
            except (urllib.error.URLError, ConnectionError):
                return
            time.sleep(0.05)
        pytest.fail("the server outlived its parent")
    finally:
        parent.kill()
        parent.wait(5)
        parent.stdout.close()


def test_delays_follow_the_models_figures_and_the_time_scale(tmp_path: Path):
    table = 'endpoint = "simulated:sim"\nsimulated = {ability = 50, ttft_s = 1.0, tokens_per_s = 10}'
    pool = write_pool(tmp_path, {"entry": table})
    assert simulated_models(pool)["sim"].delay_s(5) == pytest.approx(1.5)

    async def timed(time_scale: float) -> float:
        async with serving(pool, Conditions(time_scale=time_scale)) as (root, session):
            started = time.monotonic()
            await post(session, root, request("walk thrice"))  # three tokens: 1.3 s
            return time.monotonic() - started

    assert asyncio.run(timed(0.1)) >= 0.13
    assert asyncio.run(timed(0.0)) < 1.2


def test_limits_are_enforced_per_model_when_asked_for(tmp_path: Path):
    pool = write_pool(tmp_path, {"entry": SIMULATED, "twin": SIMULATED.replace(":sim", ":twin")})

    async def statuses(conditions: Conditions) -> list[int]:
        async with serving(pool, conditions) as (root, session):
            replies = [await post(session, root, request(f"What is {n} + 2?")) for n in (3, 4, 5)]
            replies.append(await post(session, root, request(model="twin")))
            for status, headers, _ in replies:
                wait_s = refusals.wait_asked_for(headers, time.time())
                assert (wait_s is not None and 50 < wait_s <= 60) if status == 429 else wait_s is None
            assert (await get(session, root, "/stats"))["by_model"]["sim"].get("over_limit", 0) == sum(
                s == 429 for s, _, _ in replies
            )  # type: ignore[index]
            return [status for status, _, _ in replies]

    assert asyncio.run(statuses(Conditions(max_requests_per_minute=2))) == [200, 200, 429, 200]
    assert asyncio.run(statuses(Conditions(max_tokens_per_minute=40))) == [200, 429, 429, 200]
    assert asyncio.run(statuses(Conditions())) == [200] * 4


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 40)), max_size=60))
def test_no_minute_ever_passes_its_limit(arrivals: list[tuple[float, int]]):
    window, now, admitted = MinuteWindow(100), 0.0, []
    for gap, amount in arrivals:
        now += gap
        wait_s = window.wait_s(now, amount)
        now += wait_s
        assert window.wait_s(now, amount) == 0
        window.admit(now, amount)
        admitted.append((now, amount))
    for start, _ in admitted:
        assert sum(amount for at, amount in admitted if start <= at < start + 60 - 2e-6) <= 100


def test_a_retry_draws_its_fault_anew_and_a_rerun_draws_the_same():
    keys = [random.Random(n).randbytes(16) for n in range(2000)]
    faults = {"server_error": 0.1, "hang": 0.05}
    first = [draw_fault(faults, key, 1, 0) for key in keys]
    again = [draw_fault(faults, key, 2, 0) for key in keys]
    assert first == [draw_fault(faults, key, 1, 0) for key in keys]
    assert first.count("server_error") / 2000 == pytest.approx(0.1, abs=0.03)
    assert first.count("hang") / 2000 == pytest.approx(0.05, abs=0.02)
    met_twice = sum(a is not None and b is not None for a, b in zip(first, again, strict=True))
    assert met_twice / 2000 == pytest.approx(0.15**2, abs=0.015)


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"explode": 0.1}, "unknown fault 'explode'"),
        ({"hang": 1.5}, "expected 0 to 1"),
        ({"hang": 0.6, "auth": 0.6}, "sum to 1.2"),
    ],
)
def test_faults_that_cannot_be_are_refused(faults: dict[str, float], message: str):
    with pytest.raises(ConfigError, match=message):
        check_faults(faults, "here")


@pytest.mark.parametrize("table", ["{}", "{ability = 1, speed = 3}"])
def test_a_simulated_table_with_missing_or_unknown_keys_names_the_known_ones(tmp_path: Path, table: str):
    pool = write_pool(tmp_path, {"entry": f'endpoint = "simulated:sim"\nsimulated = {table}'})
    with pytest.raises(
        PoolFileError, match=r"models\.entry\.simulated.*ability \(required\), ttft_s, tokens_per_s, abilities"
    ):
        simulated_models(pool)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("{ability = 1, abilities = {scan = 3}}", "unknown kind of work 'scan'. Known: scan_command, scan_phrase,"),
        ("{ability = 1, abilities = 3}", "expected a table of abilities by kind of work, as {add = 1.5}, got 3.0"),
        ("{ability = {add = 1}}", "ability: expected a number"),
        ("{ability = 1, abilities = {add = 'much'}}", "add"),
    ],
)
def test_abilities_by_kind_of_work_are_read_strictly(tmp_path: Path, table: str, message: str):
    with pytest.raises(PoolFileError, match=re.escape(message)):
        simulated_models(write_pool(tmp_path, {"entry": f'endpoint = "simulated:sim"\nsimulated = {table}'}))


def test_a_served_specialist_has_the_ability_of_the_kind_of_work(tmp_path: Path):
    table = 'endpoint = "simulated:sim"\nsimulated = {ability = -50, abilities = {scan_command = 50}}'
    pool = write_pool(tmp_path, {"entry": table})
    server = SimulatedServer(pool, Conditions())

    def reply(question: str) -> str:
        _, body = server.complete(request(question))
        return str(body["choices"][0]["message"]["content"])

    assert reply("walk thrice") == "I_WALK I_WALK I_WALK"
    assert reply("What is 12 + 7?") != "19"


def test_two_entries_of_one_simulated_model_must_agree(tmp_path: Path):
    pool = write_pool(tmp_path, {"a": SIMULATED, "b": SIMULATED.replace("50", "2")})
    with pytest.raises(PoolFileError, match="differs from another entry"):
        simulated_models(pool)


def test_conditions_are_handed_to_the_servers_process(tmp_path: Path):
    pool = write_pool(tmp_path, {"entry": SIMULATED.replace("50", "0.9")})
    questions = [f"What is {n} * 7?" for n in range(10, 40)]

    async def texts(conditions: Conditions) -> list[str]:
        async with start_simulated(pool, conditions=conditions) as base_url, aiohttp.ClientSession() as session:
            bodies = [(await post(session, base_url.removesuffix("/v1"), request(q)))[2] for q in questions]
            replies = [wire.parse_body(body) for body in bodies]
            return [reply.text if isinstance(reply, wire.ParsedReply) else "refused" for reply in replies]

    seeded = Conditions(seed=5)
    first = asyncio.run(texts(seeded))
    assert first == [
        think("sim", 0.9, solve_messages(Problem("p", q), None, {}, "direct"), 0, 5).text for q in questions
    ]
    assert asyncio.run(texts(replace(seeded, faults={"server_error": 1.0}))) == ["refused"] * 30
    assert asyncio.run(texts(replace(seeded, max_requests_per_minute=10, max_tokens_per_minute=1e9)))[9:11] == [
        first[9],
        "refused",
    ]


def test_how_sure_a_model_is_strays_by_the_noise_of_its_table_and_its_answer_does_not(tmp_path: Path):
    exact = SIMULATED.replace("ability = 50", "ability = 2, certainty_noise = 0.0")
    pool = write_pool(tmp_path, {"entry": exact})
    [model] = simulated_models(pool).values()
    assert model.certainty_noise == 0.0
    messages = solve_messages(Problem("p", "What is 47 * 36?"), None, {}, "direct")
    said = {noise: think("sim", 2.0, messages, 0, certainty_noise=noise) for noise in (0.0, 0.5, 4.0)}
    assert len({thought.text for thought in said.values()}) == 1
    assert said[0.0].token_probability == pytest.approx(1 / (1 + math.exp(-2 * (2.0 - 2.0))))
    assert abs(said[4.0].token_probability - 0.5) > abs(said[0.5].token_probability - 0.5) > 0
