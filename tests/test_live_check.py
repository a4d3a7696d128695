"""The check of real providers (`make live-check`), against imitations in their places."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from benchmarks.live_check import cheapest, check, differences, form_of, pool_of_keys
from r2.errors import ConfigError
from tests.support.providers.anthropic import Anthropic
from tests.support.providers.openai import OpenAI


def test_a_form_is_fields_with_their_types():
    document = {"a": [{"b": 1}, {"b": None, "c": "x"}], "d": True, "e": {"f": None}}
    assert form_of(document) == {"a[].b": "number", "a[].c": "text", "d": "true or false", "e.f": "null"}


def test_what_the_imitation_has_and_the_real_reply_has_not_is_a_difference():
    imitated = form_of({"id": "x", "n": 1, "usage": {"total": 3, "details": {"cached": 0}}, "thinking": "t"})
    assert differences(imitated, imitated) == ([], [])
    real = form_of({"id": 7, "n": None, "usage": {"total": 3, "details": None}, "new": 1})
    missing, new = differences(imitated, real)
    assert missing == ["id: text expected, number came"], "null says nothing, and thinking may be left out"
    assert new == ["usage.details", "new"]
    assert differences(imitated, form_of({"id": "x", "n": 1}))[0] == [
        "usage.total: not there",
        "usage.details.cached: not there",
    ]


def test_without_a_key_it_says_what_was_looked_for():
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        pool_of_keys({})


def test_each_provider_is_asked_once_within_the_money_and_one_that_differs_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    async def scenario() -> None:
        async with OpenAI() as openai, Anthropic() as anthropic:
            environ = {
                "OPENAI_API_KEY": openai.key,
                "OPENAI_BASE_URL": openai.base_url,
                "ANTHROPIC_API_KEY": anthropic.key,
                "ANTHROPIC_BASE_URL": anthropic.base_url.removesuffix("/v1"),
            }
            pool = pool_of_keys(environ)
            assert len(cheapest(pool)) == 2
            assert await check(pool, environ, 0.05, dry_run=True) == 0
            assert await check(pool, environ, 1e-9, dry_run=False) == 0
            assert openai.requests == anthropic.requests == [], "nothing asked: a dry run, and no money"
            assert await check(pool, environ, 0.05, dry_run=False) == 0
            assert [len(server.requests) for server in (openai, anthropic)] == [1, 1]
            assert 0 < float(openai.bill_usd + anthropic.bill_usd) < 0.05

            answer = openai.document

            def other(*args: Any) -> Any:
                sent = answer(*args)
                del sent.document["choices"][0]["finish_reason"]
                return sent

            openai.document = other  # type: ignore[method-assign]
            assert await check(pool, environ, 0.05, dry_run=False) == 1
            openai.document = answer  # type: ignore[method-assign]
            anthropic.fail_next("no_money")
            assert await check(pool, environ, 0.05, dry_run=False) == 1

    asyncio.run(scenario())
    said = capsys.readouterr().out
    assert "choices[].finish_reason: not there" in said
    assert "left out" in said
    assert "sk-imitation" not in said
