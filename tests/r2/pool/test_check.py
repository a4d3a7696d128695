"""`r2 pool check`: what each entry can do, what that costs, and the limits that providers name."""

import asyncio
from pathlib import Path

import pytest

from flows.cli.pool import check, print_checked, unkept
from r2.call import Call
from r2.pool.check import Checked, calls_of, check_pool, price_of_check
from r2.pool.client.client import PoolClient
from r2.pool.client.dialects import DIALECTS
from r2.pool.client.dialects.dialect import RateLimits
from r2.pool.client.limits_seen import READ_EVERY, SeenLimits
from r2.pool.client.ports import Address
from r2.pool.file.config import load_pool
from r2.pool.file.tables import EndpointLimits
from r2.pool.limits.gate import Gate
from tests.support.loopback import Loopback, answers, write_pool
from tests.support.paths import ROOT
from tests.support.providers.pool import ENTRIES, Providers


def test_every_imitated_provider_is_checked_for_what_its_table_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def scenario() -> None:
        async with Providers() as providers:
            for name, key in providers.environment.items():
                monkeypatch.setenv(name, key)
            (tmp_path / "pool.toml").write_text(providers.pool_text(), "utf-8")
            pool = load_pool(tmp_path / "pool.toml")
            found = {one.model: one for one in await check_pool(pool, tmp_path, tmp_path)}
            assert list(found) == [entry for entry, *_ in ENTRIES]
            assert {name: one.error for name, one in found.items()} == dict.fromkeys(found)
            for name, one in found.items():
                table = pool.models[name]
                assert (one.has_logprobs, one.has_schema) == (table.logprobs or None, table.guided or None), name
            assert found["mini"].limits == RateLimits(10_000.0, 20_000_000.0)
            assert found["haiku"].limits == RateLimits(10_000.0, 20_000_000.0)
            assert found["flash"].limits == RateLimits()
            spent_usd = sum(one.cost_usd for one in found.values())
            assert spent_usd == pytest.approx(float(providers.bill_usd), abs=1e-9)
            n_calls, about_usd, most_usd = price_of_check(pool)
            assert n_calls == sum(len(one.requests) for one in providers.by_name.values())
            assert about_usd < most_usd and spent_usd < most_usd
            assert spent_usd == pytest.approx(about_usd, rel=2.0), "of the order that was said"

    asyncio.run(scenario())


def test_a_plain_pool_shows_what_its_models_turned_out_not_to_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        async with Providers() as providers:
            for name, key in providers.environment.items():
                monkeypatch.setenv(name, key)
            (tmp_path / "pool.toml").write_text(providers.pool_text(is_plain=True), "utf-8")
            found = await check_pool(load_pool(tmp_path / "pool.toml"), tmp_path, tmp_path)
            left_out = {one.model: one.left_out for one in found if one.left_out}
            assert left_out == dict.fromkeys(("luna", "haiku", "opus", "thinker"), ("temperature",))

    asyncio.run(scenario())


def test_promises_that_are_not_kept_are_said_and_nobody_answers_for_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    async def scenario() -> None:
        async with Loopback(after=answers("2")) as server:
            lines = f'endpoint = "{server.base_url}"\nlogprobs = true\nguided = true'
            pool = write_pool(tmp_path, {"a": lines, "gone": 'endpoint = "http://127.0.0.1:9/v1"\ndeadline_s = 1'})
            first, gone = await check_pool(pool, tmp_path, tmp_path)
            assert (first.error, first.has_logprobs, first.has_schema) == (None, False, False)
            assert gone.error is not None and "127.0.0.1:9" in gone.error
            assert len(server.arrivals) == 2
            said = [line for one in (first, gone) for line in unkept(one)]
            assert len(said) == 3
            assert "Set logprobs = false" in said[0] and "Set guided = false" in said[1]
            print_checked("pool.toml", pool, [first, gone])
            assert "cost of this check: 0.000040 USD" in capsys.readouterr().out

    asyncio.run(scenario())


def test_an_answer_that_is_all_thinking_is_none():
    one = Checked("a", "m", 0.1, "an empty text")
    assert unkept(one) == ["a: an empty text"]


def test_a_dry_run_says_the_price_and_asks_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pool = write_pool(tmp_path, {"a": "guided = true", "b": ""})
    assert [len(calls_of(pool, name)) for name in pool.models] == [2, 1]
    check(pool=str(pool.path), models_dir=tmp_path, dry_run=True)
    assert "2 models, 3 calls: about 0.000" in capsys.readouterr().out


def test_the_simulated_pool_does_what_it_promises(tmp_path: Path):
    found = asyncio.run(check_pool(load_pool(ROOT / "pools/simulated.toml"), tmp_path, tmp_path))
    assert [line for one in found for line in unkept(one)] == []


def test_limits_are_read_from_the_first_reply_and_from_some_after_it():
    gate = Gate("a", EndpointLimits())
    seen = SeenLimits(DIALECTS["openai"], gate, is_shared=False)
    seen.note({"x-ratelimit-limit-requests": "600", "x-ratelimit-limit-tokens": "9000"})
    assert (seen.now, gate._kept_to) == (RateLimits(600.0, 9000.0), (600.0, 9000.0))
    for _ in range(READ_EVERY - 1):
        seen.note({"x-ratelimit-limit-requests": "60"})
    assert seen.now.requests_per_minute == 600.0
    seen.note({"x-ratelimit-limit-requests": "60"})
    assert (seen.now, gate._kept_to) == (RateLimits(60.0, None), (60.0, None))
    shared = SeenLimits(DIALECTS["openai"], Gate("quota:q", EndpointLimits()), is_shared=True)
    shared.note({"x-ratelimit-limit-requests": "600"})
    assert shared.now == RateLimits(600.0, None) and shared._gate._kept_to == (None, None)


def test_the_first_real_reply_shows_whether_promises_are_kept_and_costs_no_call_of_its_own(tmp_path: Path):
    async def scenario() -> None:
        said: list[str] = []
        async with Loopback(after=answers("A")) as server:
            pool = write_pool(tmp_path, {"a": "logprobs = true\nguided = true"})
            where = {"a": Address(server.base_url, "a")}
            async with PoolClient(pool, where, state_dir=tmp_path, say=said.append) as client:
                for number in range(3):
                    call = Call("a", (("user", "x"),), "allocate", 16, top_logprobs=5, json_schema='{"type": "object"}')
                    await client.complete(call, problem_id=str(number))
            assert len(server.arrivals) == 3
            assert [line.partition(",")[0] for line in said] == [
                f"a: logprobs = true in [models.a] of {pool.path}",
                f"a: guided = true in [models.a] of {pool.path}",
            ]

    asyncio.run(scenario())
