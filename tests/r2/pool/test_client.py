"""The pool client against real servers on loopback: limits, retries, fallbacks, budgets, secrets."""

import asyncio
import json
import subprocess
import sys
import time
from bisect import bisect_left
from email.utils import formatdate
from pathlib import Path

import pytest

from r2.call import Call, Completion
from r2.pool.client.attempt import KEPT_ATTEMPTS
from r2.pool.client.client import PoolClient
from r2.pool.client.ports import Address, NoJournal
from r2.pool.file.config import PoolConfig
from r2.pool.limits.aimd import Times
from tests.support.loopback import (
    Loopback,
    answers,
    cuts_the_body,
    hangs,
    hangs_up,
    measuring_lag,
    reply_json,
    says,
    write_pool,
)
from tests.support.paths import ROOT


def call(model: str = "a", text: str = "2 + 2?", **options: object) -> Call:
    return Call(model, (("user", text),), "solve", 16, **options)  # type: ignore[arg-type]


async def complete(
    pool: PoolConfig, server: Loopback, folder: Path, calls: list[Call], **options: object
) -> list[Completion]:
    addresses = {name: Address(server.base_url, name) for name in pool.models}
    async with PoolClient(pool, addresses, state_dir=folder / "state", **options) as client:  # type: ignore[arg-type]
        return list(await asyncio.gather(*(client.complete(c, problem_id=f"p{i}") for i, c in enumerate(calls))))


def test_an_answer_comes_with_its_usage_and_its_cost(tmp_path: Path):
    async def scenario() -> None:
        async with Loopback() as server:
            [done] = await complete(write_pool(tmp_path, {"a": ""}), server, tmp_path, [call()])
            # 10 prompt tokens at 1 USD per million, 5 generated at 2
            assert (done.text, done.model, done.cost_usd) == ("4", "a", pytest.approx(20e-6))
            assert done.attempts[0].response_model == "served"
            assert json.loads(done.attempts[0].raw_body) == reply_json()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "1"},
        {"Retry-After": "DATE"},
        {"retry-after-ms": "300"},
        {"x-ratelimit-reset-requests": "300ms"},
        {},
    ],
    ids=["seconds", "date", "ms", "reset", "bare"],
)
def test_a_429_of_every_kind_is_waited_for_and_is_no_attempt_that_counts(tmp_path: Path, headers: dict[str, str]):
    if headers.get("Retry-After") == "DATE":
        headers = {"Retry-After": formatdate(time.time() + 2, usegmt=True)}

    async def scenario() -> None:
        async with Loopback(script=[says(429, "slow down", headers)] * 2) as server:
            [done] = await complete(write_pool(tmp_path, {"a": ""}), server, tmp_path, [call()])
            assert done.text == "4"
            assert [a.error_type for a in done.attempts] == ["rate_limited", "rate_limited", None]
            if headers:
                assert server.arrivals[1].at - server.arrivals[0].at >= 0.25

    asyncio.run(scenario())


def test_faults_are_retried_and_each_attempt_is_kept(tmp_path: Path):
    async def scenario() -> None:
        script = [says(500, "oops"), cuts_the_body(), says(200, '{"choi')]
        async with Loopback(script=script) as server:
            [done] = await complete(write_pool(tmp_path, {"a": ""}), server, tmp_path, [call()])
            assert done.text == "4"
            assert [a.error_type for a in done.attempts] == ["server_error", "disconnected", "bad_body", None]
            assert done.attempts[0].cost_usd == 0, "a 500 is not billed"
            assert done.attempts[2].usage.source == "estimated", "a 200 that cannot be read may have been billed"
            assert done.attempts[2].cost_usd > 0

    asyncio.run(scenario())


def test_a_server_that_hangs_is_given_up_after_the_time_limit_of_an_attempt(tmp_path: Path):
    async def scenario() -> None:
        async with Loopback(script=[hangs()]) as server:
            [done] = await complete(write_pool(tmp_path, {"a": "timeout_s = 0.5"}), server, tmp_path, [call()])
            assert [a.error_type for a in done.attempts] == ["timeout", None]

    asyncio.run(scenario())


def test_an_answer_without_usage_is_charged_by_estimate_and_says_so(tmp_path: Path):
    async def scenario() -> None:
        async with Loopback(after=answers("four", usage=None)) as server:
            [done] = await complete(write_pool(tmp_path, {"a": ""}), server, tmp_path, [call()])
            assert done.usage.source == "estimated"
            assert done.cost_usd > 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("status", "body", "error_type"),
    [
        (400, "This model's maximum context length is 4096 tokens", "context_length"),
        (400, "no such field", "bad_request"),
        (404, "", "unknown_model"),
    ],
)
def test_a_request_that_is_wrong_is_not_sent_again(tmp_path: Path, status: int, body: str, error_type: str):
    async def scenario() -> None:
        async with Loopback(after=says(status, {"error": {"message": body}})) as server:
            [done] = await complete(write_pool(tmp_path, {"a": ""}), server, tmp_path, [call()])
            assert done.error_type == error_type
            assert len(server.arrivals) == 1

    asyncio.run(scenario())


def test_a_spent_entry_is_followed_by_its_tier_and_then_by_stronger_ones(tmp_path: Path):
    async def scenario() -> None:
        pool = write_pool(
            tmp_path,
            {
                "a": "",
                "c": 'tier = "large"',
                "b": 'price_usd_per_mtok = {input = 2.0, output = 2.0, date = "2026-11-01", source = "x"}',
            },
        )
        async with Loopback(after=says(401, "bad key")) as broken, Loopback() as good:
            addresses = {
                "a": Address(broken.base_url, "a"),
                "b": Address(broken.base_url, "b"),
                "c": Address(good.base_url, "c"),
            }
            async with PoolClient(pool, addresses, state_dir=tmp_path) as client:
                done = await client.complete(call(), problem_id="p")
            assert done.model == "c"
            assert [(a.model, a.error_type) for a in done.attempts] == [("a", "auth"), ("b", "auth"), ("c", None)]

    asyncio.run(scenario())


def test_a_call_ends_by_its_deadline_whatever_the_server_does(tmp_path: Path):
    async def scenario() -> None:
        async with Loopback(after=says(429, "no", {"Retry-After": "1"})) as server:
            began = time.monotonic()
            [done] = await complete(write_pool(tmp_path, {"a": "deadline_s = 2.5"}), server, tmp_path, [call()])
            assert done.error_type == "rate_limited"
            assert time.monotonic() - began < 6

    asyncio.run(scenario())


def test_a_budget_is_never_passed_however_many_calls_are_in_flight(tmp_path: Path):
    async def scenario() -> None:
        async with Loopback(after=answers(after_s=0.02)) as server:
            calls = [call(text=f"question {i}") for i in range(60)]
            done = await complete(
                write_pool(tmp_path, {"a": ""}), server, tmp_path, calls, run_account="run:x", max_cost_usd=400e-6
            )
            assert sum(c.cost_usd for c in done) <= 400e-6
            assert {c.error_type for c in done} == {None, "budget_exhausted"}
            assert sum(c.is_ok for c in done) == len(server.arrivals), "what is refused is never sent"

    asyncio.run(scenario())


def test_what_was_paid_is_found_in_the_journal_and_not_sent_again(tmp_path: Path):
    class Kept(NoJournal):
        def __init__(self) -> None:
            self.records: dict[str, bytes] = {}

        def find(self, key: str) -> bytes | None:
            return self.records.get(key)

        async def commit(self, key: str, record: bytes, usd: float = 0.0) -> None:
            self.records[key] = record

    async def scenario() -> None:
        journal, pool = Kept(), write_pool(tmp_path, {"a": ""})
        async with Loopback() as server:
            async with PoolClient(pool, {"a": Address(server.base_url, "a")}, state_dir=tmp_path) as client:
                first = await client.complete(call(), problem_id="p", journal=journal)
                again = await client.complete(call(), problem_id="p", journal=journal)
                assert client.spent_usd == pytest.approx(first.cost_usd)
            assert again.is_replayed
            assert again.text == first.text
            assert len(server.arrivals) == 1

    asyncio.run(scenario())


def test_a_key_that_a_server_echoes_is_taken_out_before_it_is_kept(tmp_path: Path):
    async def scenario() -> None:
        pool = write_pool(tmp_path, {"a": 'api_key_env = "R2_TEST_KEY"'})
        async with Loopback(
            after=says(401, {"error": {"message": "Incorrect API key provided: sk-secret-4711"}})
        ) as server:
            [done] = await complete(pool, server, tmp_path, [call()], environ={"R2_TEST_KEY": "sk-secret-4711"})
            assert server.arrivals[0].headers["Authorization"] == "Bearer sk-secret-4711"
            assert b"sk-secret-4711" not in done.to_bytes()
            assert done.error_message is not None
            assert "R2_TEST_KEY" in done.error_message

    asyncio.run(scenario())


def test_a_cancelled_call_gives_its_place_back(tmp_path: Path):
    async def scenario() -> None:
        pool = write_pool(tmp_path, {"a": "max_in_flight = 1"})
        async with (
            Loopback(script=[hangs()]) as server,
            PoolClient(pool, {"a": Address(server.base_url, "a")}, state_dir=tmp_path) as client,
        ):
            hanging = asyncio.create_task(client.complete(call(), problem_id="p"))
            await asyncio.sleep(0.2)
            hanging.cancel()
            with pytest.raises(asyncio.CancelledError):
                await hanging
            assert (await client.complete(call(text="next"), problem_id="q")).text == "4"

    asyncio.run(scenario())


def test_one_input_that_moderation_refuses_fails_alone(tmp_path: Path):
    flagged = says(403, {"error": {"code": 403, "message": "Your input was flagged", "metadata": {"reasons": ["x"]}}})

    async def scenario() -> None:
        async with Loopback(script=[flagged]) as server:
            calls = [call(text=f"question {i}") for i in range(12)]
            done = await complete(write_pool(tmp_path, {"a": "max_in_flight = 1"}), server, tmp_path, calls)
            assert [c.error_type for c in done] == ["moderated", *[None] * 11]

    asyncio.run(scenario())


def test_a_403_without_a_word_is_a_refusal_of_the_input_where_the_key_has_answered(tmp_path: Path):
    async def scenario() -> None:
        script = [answers(), says(403), answers(), *[says(403)] * 5, says(403)]
        async with Loopback(script=script) as server:
            calls = [call(text=f"question {i}") for i in range(10)]
            done = await complete(write_pool(tmp_path, {"a": "max_in_flight = 1"}), server, tmp_path, calls)
            # Five in a row may be five bad inputs; the sixth is taken for the key, and the endpoint is left alone
            assert [c.error_type for c in done] == [None, "moderated", None, *["moderated"] * 5, "auth", "circuit_open"]

    asyncio.run(scenario())


def test_a_refused_key_closes_the_endpoint_where_it_never_answered_or_the_body_says_so(tmp_path: Path):
    async def scenario() -> None:
        calls = [call(text=f"question {i}") for i in range(4)]
        async with Loopback(after=says(403)) as server:
            done = await complete(write_pool(tmp_path, {"a": "max_in_flight = 1"}), server, tmp_path, calls)
            assert [c.error_type for c in done] == ["auth", *["circuit_open"] * 3]
        async with Loopback(script=[answers()], after=says(403, "this key has expired")) as server:
            done = await complete(write_pool(tmp_path, {"a": "max_in_flight = 1"}), server, tmp_path, calls)
            assert [c.error_type for c in done] == [None, "auth", *["circuit_open"] * 2]

    asyncio.run(scenario())


def test_an_error_under_a_200_waits_is_sent_again_and_costs_nothing(tmp_path: Path):
    async def scenario() -> None:
        slow = says(200, {"error": {"code": 429, "message": "Provider returned error"}})
        down = says(200, {"error": {"code": 502, "message": "upstream"}})
        async with Loopback(script=[slow, slow, down]) as server:
            [done] = await complete(write_pool(tmp_path, {"a": ""}), server, tmp_path, [call()])
            assert [a.error_type for a in done.attempts] == ["rate_limited", "rate_limited", "server_error", None]
            assert [a.cost_usd for a in done.attempts[:3]] == [0.0, 0.0, 0.0]
            gaps = [b.at - a.at for a, b in zip(server.arrivals, server.arrivals[1:], strict=False)]
            assert gaps[0] >= 0.25 and gaps[1] >= 0.5, "refusals pause everybody, twice as long the second time"
        async with Loopback(
            after=says(200, {"error": {"code": 401, "message": "No auth credentials found"}})
        ) as server:
            [done] = await complete(write_pool(tmp_path, {"a": ""}), server, tmp_path, [call()])
            assert (done.error_type, done.cost_usd, len(server.arrivals)) == ("auth", 0.0, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "0"},
        {"Retry-After": "-5"},
        {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"},
        {"retry-after-ms": "0"},
        {"x-ratelimit-reset-requests": "0s"},
    ],
    ids=["zero", "negative", "past", "ms", "reset"],
)
def test_a_wait_of_nothing_is_our_own_wait(tmp_path: Path, headers: dict[str, str]):
    async def scenario() -> None:
        async with Loopback(after=says(429, "slow down", headers)) as server:
            calls = [call(text=f"question {i}") for i in range(4)]
            done = await complete(write_pool(tmp_path, {"a": "deadline_s = 3"}), server, tmp_path, calls)
            assert {c.error_type for c in done} == {"rate_limited"}
            # Pauses of at least 0.25, 0.5 and 1 s: bursts at 0, 0.25, 0.75 and 1.75 s at most, of four calls
            assert len(server.arrivals) <= 16

    asyncio.run(scenario())


@pytest.mark.parametrize("is_embedded", [False, True])
def test_connections_are_used_again_but_not_those_to_the_embedded_server(tmp_path: Path, is_embedded: bool):
    async def scenario() -> None:
        async with Loopback() as server:
            addresses = {"a": Address(server.base_url, "a", is_ours=is_embedded, reads_by_slot=is_embedded)}
            async with PoolClient(write_pool(tmp_path, {"a": ""}), addresses, state_dir=tmp_path / "state") as client:
                for _ in range(3):
                    await client.complete(call(), problem_id="p")
            assert len({arrival.peer_port for arrival in server.arrivals}) == (3 if is_embedded else 1)

    asyncio.run(scenario())


def test_of_very_many_refusals_some_are_kept_and_all_are_counted(tmp_path: Path):
    async def scenario() -> None:
        times = Times(first_pause_s=0.0, max_pause_s=0.0)
        async with Loopback(script=[says(429, "no")] * 100) as server:
            [done] = await complete(write_pool(tmp_path, {"a": ""}), server, tmp_path, [call()], times=times)
            assert done.is_ok
            assert len(done.attempts) == KEPT_ATTEMPTS
            assert [a.attempt for a in done.attempts][:3] == [0, 1, 2]
            assert done.attempts[-1].attempt == 100, "a gap in the numbers says how many there were"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("reason", "error_type"),
    [("content_filter", "content_filter"), ("SAFETY", "content_filter"), ("tool_calls", "bad_end")],
)
def test_a_bad_end_is_no_answer_and_is_paid(tmp_path: Path, reason: str, error_type: str):
    async def scenario() -> None:
        async with Loopback(after=says(200, reply_json("The capital of", finish_reason=reason))) as server:
            [done] = await complete(write_pool(tmp_path, {"a": ""}), server, tmp_path, [call()])
            assert (done.error_type, done.text, len(server.arrivals)) == (error_type, "", 1)
            assert done.attempts[0].finish_reason == reason
            assert done.cost_usd == pytest.approx(20e-6)

    asyncio.run(scenario())


def test_a_server_that_breaks_off_is_asked_again(tmp_path: Path):
    async def scenario() -> None:
        async with Loopback(script=[says(200, reply_json("The cap", finish_reason="error"))]) as server:
            [done] = await complete(write_pool(tmp_path, {"a": ""}), server, tmp_path, [call()])
            assert [a.error_type for a in done.attempts] == ["server_error", None]
            assert done.cost_usd == pytest.approx(40e-6), "both were billed"

    asyncio.run(scenario())


@pytest.mark.parametrize("reason", ["length", "MAX_TOKENS", "model_length"])
def test_a_text_cut_by_its_limit_says_so_in_one_word(tmp_path: Path, reason: str):
    async def scenario() -> None:
        async with Loopback(after=says(200, reply_json("The cap", finish_reason=reason))) as server:
            [done] = await complete(write_pool(tmp_path, {"a": ""}), server, tmp_path, [call()])
            assert (done.text, done.finish_reason, done.attempts[0].finish_reason) == ("The cap", "length", reason)

    asyncio.run(scenario())


def test_a_stopped_client_sends_nothing_new(tmp_path: Path):
    async def scenario() -> None:
        pool = write_pool(tmp_path, {"a": ""})
        async with (
            Loopback() as server,
            PoolClient(pool, {"a": Address(server.base_url, "a")}, state_dir=tmp_path) as client,
        ):
            client.stop()
            assert (await client.complete(call(), problem_id="p")).error_type == "stopped"
            assert server.arrivals == []

    asyncio.run(scenario())


def test_a_connection_lost_before_any_byte_is_tried_again(tmp_path: Path):
    async def scenario() -> None:
        async with Loopback(script=[hangs_up()]) as server:
            [done] = await complete(write_pool(tmp_path, {"a": ""}), server, tmp_path, [call()])
            assert done.text == "4"

    asyncio.run(scenario())


CALLER = """
import asyncio, sys
from pathlib import Path
from r2.call import Call
from r2.pool.client.client import PoolClient
from r2.pool.file.config import load_pool
from r2.pool.client.ports import Address
from tests.support.loopback import measuring_lag
async def main(pool, url, state, window_s, seconds, me):
    window_s, seconds = float(window_s), float(seconds)
    addresses = {"a": Address(url, "a")}
    async with PoolClient(load_pool(pool), addresses, state_dir=Path(state), rate_window_s=window_s) as client:
        calls = [Call("a", (("user", f"{me} {i}"),), "solve", 16) for i in range(int(10 * seconds))]
        try:
            async with measuring_lag() as lag, asyncio.timeout(seconds):
                await asyncio.gather(*(client.complete(c, problem_id=f"{me}{i}") for i, c in enumerate(calls)))
        except TimeoutError:
            pass
        print(lag.most_s)
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("window_s", "seconds", "requests_per_minute", "tokens_per_minute"),
    [
        pytest.param(3.0, 7.0, 600, 12_000, id="requests-bind"),  # 30 and 40 calls in any 3 s
        pytest.param(3.0, 7.0, 900, 7_500, id="tokens-bind"),  # 45 and 25 calls
        pytest.param(60.0, 130.0, 600, 7_500, id="a-minute", marks=pytest.mark.slow),  # 600 and 500 calls in any minute
    ],
)
def test_two_processes_keep_together_within_requests_and_tokens_over_any_window(
    tmp_path: Path, window_s: float, seconds: float, requests_per_minute: int, tokens_per_minute: int
):
    limits = f"max_requests_per_minute = {requests_per_minute}\nmax_tokens_per_minute = {tokens_per_minute}"
    pool = write_pool(tmp_path, {"a": limits})
    tokens_a_call = 15  # 10 in, 5 out, says the server

    async def scenario() -> tuple[list[float], float]:
        async with Loopback() as server, measuring_lag() as lag:
            state = str(tmp_path / "state")
            args = [sys.executable, "-c", CALLER, str(pool.path), server.base_url, state, str(window_s), str(seconds)]
            callers = [
                await asyncio.create_subprocess_exec(
                    *args, name, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
                for name in "xy"
            ]
            said = [(await caller.communicate())[0] for caller in callers]
            return [arrival.at for arrival in server.arrivals], lag.most_s + max(map(float, said))

    found, lag_s = asyncio.run(scenario())
    arrivals = sorted(found)
    most_requests = requests_per_minute * window_s / 60
    most_tokens = tokens_per_minute * window_s / 60
    assert len(arrivals) > 1.3 * min(most_requests, most_tokens / tokens_a_call), "the limit is used, not only kept"
    for began in arrivals:
        # A busy machine lets a call be seen so much later than it was allowed: what arrives in less than a window was
        # allowed within one.
        in_window = bisect_left(arrivals, began + window_s - lag_s) - bisect_left(arrivals, began)
        assert in_window <= most_requests
        assert in_window * tokens_a_call <= most_tokens


def test_the_breaker_opens_for_a_dead_endpoint_and_a_probe_closes_it(tmp_path: Path):
    async def scenario() -> None:
        pool = write_pool(tmp_path, {"a": 'api_key_env = "R2_TEST_KEY"'})
        async with Loopback(script=[says(401, "bad key")]) as server:
            addresses = {"a": Address(server.base_url, "a")}
            async with PoolClient(
                pool, addresses, state_dir=tmp_path, environ={"R2_TEST_KEY": "k"}, times=Times(probe_every_s=0.3)
            ) as client:
                assert (await client.complete(call(), problem_id="p")).error_type == "auth"
                assert (await client.complete(call(), problem_id="q")).error_type in ("auth", "circuit_open")
                n_while_open = len(server.arrivals)
                await asyncio.sleep(0.4)
                assert (await client.complete(call(), problem_id="r")).text == "4"
                assert n_while_open == 1

    asyncio.run(scenario())


def test_where_nobody_stands_in_a_call_to_a_dead_entry_fails_and_is_asked_again_when_it_is_up(tmp_path: Path):
    async def scenario() -> None:
        pool = write_pool(tmp_path, {"a": "", "b": ""})
        async with Loopback(script=[says(500, "oops")] * 4) as server:
            addresses = {name: Address(server.base_url, name) for name in ("a", "b")}
            async with PoolClient(pool, addresses, state_dir=tmp_path, stands_in=False) as client:
                failed = await client.complete(call(), problem_id="p")
                again = await client.complete(call(), problem_id="p")
        assert (failed.model, failed.error_type) == ("a", "server_error")
        assert (again.model, again.text) == ("a", "4")
        assert {arrival.body["model"] for arrival in server.arrivals} == {"a"}

    asyncio.run(scenario())


def test_a_fallback_must_hold_the_call(tmp_path: Path):
    async def scenario() -> None:
        entries = {"a": "context_tokens = 4096", "b": "context_tokens = 256", "c": "context_tokens = 4096"}
        async with Loopback(script=[says(500, "oops")] * 4) as server:
            long = call(text="one two " * 200)  # 408 tokens at 4 bytes each
            [done] = await complete(write_pool(tmp_path, entries), server, tmp_path, [long])
            assert done.model == "c", "the entry of 256 tokens is passed over"

    asyncio.run(scenario())


def test_a_limit_beyond_what_the_model_can_generate_is_cut_and_thinking_is_added(tmp_path: Path):
    async def scenario() -> None:
        entries = {"a": "max_output_tokens = 10", "b": "thinking_tokens = 1000\nmax_output_tokens = 5000", "c": ""}
        async with Loopback() as server:
            await complete(write_pool(tmp_path, entries), server, tmp_path, [call("a"), call("b"), call("c")])
            limits = {arrival.body["model"]: arrival.body["max_tokens"] for arrival in server.arrivals}
            assert limits == {"a": 10, "b": 1016, "c": 16}

    asyncio.run(scenario())


def test_an_ollama_that_cut_the_prompt_without_a_word_gave_no_answer(tmp_path: Path):
    async def scenario() -> None:
        async with Loopback() as server:  # counts 10 prompt tokens, whatever it is sent
            pool = write_pool(tmp_path, {"a": 'dialect = "ollama"', "b": ""})
            cut, other, short = [call("a", "one two " * 200), call("b", "one two " * 200), call("a", "2 + 2?")]
            done = await complete(pool, server, tmp_path, [cut, other, short])
            assert [one.error_type for one in done] == ["context_length", None, None]
            assert "it cut the prompt to its context" in (done[0].error_message or "")
            assert done[0].cost_usd > 0, "it was computed, and counts"

    asyncio.run(scenario())
