"""Each provider's failures through the client: what they are taken for, whom they close, and what they cost."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from r2.call import Call, Completion
from r2.pool.client.client import PoolClient
from r2.pool.client.ports import Address
from r2.pool.file.config import load_pool
from tests.support.providers.anthropic import Anthropic
from tests.support.providers.azure import Azure
from tests.support.providers.gemini import Gemini
from tests.support.providers.imitation import Imitation
from tests.support.providers.openai import OpenAI
from tests.support.providers.openrouter import OpenRouter
from tests.support.providers.vllm import Vllm

MODELS: dict[type[Imitation], tuple[str, str]] = {
    OpenAI: ("gpt-4.1-mini", "gpt-6-luna"),
    Anthropic: ("claude-haiku-4-5", "claude-haiku-5-5"),
    Gemini: ("gemini-2.5-flash", "gemini-2.5-pro"),
    Azure: ("our-mini", "our-thinker"),
    OpenRouter: ("mistralai/mistral-small-3.2", "anthropic/claude-sonnet-5.5"),
    Vllm: ("llama-3.1-8b", "qwen3-8b"),
}


async def asked(
    make: type[Imitation],
    folder: Path,
    texts: list[str],
    *,
    served: str = "",
    fail_next: tuple[str, ...] = (),
    key: str | None = None,
) -> tuple[list[Completion], Imitation, float]:
    """One question after the other of the first model, with the second as the dearer entry; (outcomes, server, USD)."""
    server = make()
    first, second = MODELS[make]
    async with server:
        tables = [
            server.entry("first", first, tier="small", key_env="KEY"),
            server.entry("second", second, tier="large", key_env="KEY", solver="false"),
        ]
        text = '[router]\ndecomposer = "first"\nallocator = "first"\n' + "\n".join(tables)
        (folder / "pool.toml").write_text(text, "utf-8")
        pool = load_pool(folder / "pool.toml")
        where = {name: Address(table.endpoint, table.served_model) for name, table in pool.models.items()}
        if served:
            where["first"] = Address(server.base_url, served)
        server.fail_next(*fail_next)
        environ = {"KEY": server.key if key is None else key}
        options: dict[str, Any] = {"state_dir": folder, "environ": environ, "say": lambda line: None}
        async with PoolClient(pool, where, **options) as client:
            done = [
                await client.complete(Call("first", (("user", text),), "solve", 256), problem_id=str(number))
                for number, text in enumerate(texts)
            ]
            return done, server, client.spent_usd


SUMS = ["What is 17 + 25?", "What is 17 + 26?", "What is 17 + 27?"]


@pytest.mark.parametrize("make", MODELS)
def test_an_unknown_model_closes_its_entry_with_the_first_call(make: type[Imitation], tmp_path: Path):
    done, server, spent_usd = asyncio.run(asked(make, tmp_path, SUMS, served="gpt-4.1-minni"))
    assert [completion.error_type for completion in done] == ["unknown_model"] * 3
    assert len(server.requests) == 1 and spent_usd == 0
    assert "see served_model and endpoint in [models.first]" in (done[-1].error_message or "")
    assert ("Nearest names: gpt-4.1-mini" in (done[-1].error_message or "")) is (make is OpenAI)


@pytest.mark.parametrize("make", [OpenAI, Anthropic, OpenRouter, Gemini])
def test_a_model_that_is_retired_in_the_middle_closes_too(make: type[Imitation], tmp_path: Path):
    done, server, _ = asyncio.run(asked(make, tmp_path, [SUMS[0], f"{SUMS[1]} [[fault:retired]]", SUMS[2]]))
    assert [completion.error_type for completion in done] == [None, "unknown_model", "unknown_model"]
    assert len(server.requests) == 2


@pytest.mark.parametrize("make", [OpenAI, OpenRouter, Gemini])
def test_a_quota_of_the_day_parks_the_entry(make: type[Imitation], tmp_path: Path):
    done, server, spent_usd = asyncio.run(asked(make, tmp_path, SUMS, fail_next=("rate_day",)))
    assert [completion.error_type for completion in done] == ["quota_used_up", "circuit_open", "circuit_open"]
    assert len(server.requests) == 1 and spent_usd == 0
    assert "the quota of the day is used up, until 20" in (done[2].error_message or "")


@pytest.mark.parametrize("make", [OpenAI, Anthropic, Gemini, OpenRouter])
def test_money_that_is_gone_closes_within_one_call(make: type[Imitation], tmp_path: Path):
    done, server, spent_usd = asyncio.run(asked(make, tmp_path, SUMS, fail_next=("no_money",)))
    assert [completion.error_type for completion in done] == ["auth", "circuit_open", "circuit_open"]
    assert len(server.requests) == 1 and spent_usd == 0


@pytest.mark.parametrize("make", [m for m in MODELS if m is not Vllm])
def test_a_wrong_key_closes_within_one_call(make: type[Imitation], tmp_path: Path):
    done, server, _ = asyncio.run(asked(make, tmp_path, SUMS, key="sk-of-somebody-else"))
    assert [completion.error_type for completion in done] == ["auth", "circuit_open", "circuit_open"]
    assert len(server.requests) == 1


@pytest.mark.parametrize("make", [OpenAI, Anthropic])
def test_a_request_above_the_whole_limit_fails_alone(make: type[Imitation], tmp_path: Path):
    done, server, _ = asyncio.run(asked(make, tmp_path, SUMS, fail_next=("too_large",)))
    assert [completion.error_type for completion in done] == ["bad_request", None, None]
    assert len(server.requests) == 3


@pytest.mark.parametrize("make", MODELS)
def test_what_does_not_fit_says_so(make: type[Imitation], tmp_path: Path):
    done, server, _ = asyncio.run(asked(make, tmp_path, SUMS, fail_next=("context",)))
    assert [completion.error_type for completion in done] == ["context_length", None, None]
    assert len(server.requests) == 3


@pytest.mark.parametrize("make", [OpenAI, Gemini, Azure])
def test_a_wait_is_as_long_as_header_or_body_say(make: type[Imitation], tmp_path: Path):
    done, server, _ = asyncio.run(asked(make, tmp_path, SUMS[:1], fail_next=("rate_requests",)))
    assert [attempt.error_type for attempt in done[0].attempts] == ["rate_limited", None]
    assert (done[0].attempts[0].retry_after_s or 0) >= 0.12
    assert len(server.requests) == 2


def test_a_reply_of_gemini_without_a_candidate_is_billed_and_asked_again(tmp_path: Path):
    done, server, spent_usd = asyncio.run(asked(Gemini, tmp_path, SUMS[:1], fail_next=("empty_choices",)))
    assert [attempt.error_type for attempt in done[0].attempts] == ["bad_body", None]
    assert done[0].attempts[0].usage.input_tokens > 0 and done[0].attempts[0].usage.source == "provider"
    assert spent_usd == pytest.approx(float(server.bill_usd), abs=1e-9)


@pytest.mark.parametrize("make", [OpenAI, Anthropic, Gemini, OpenRouter])
def test_what_a_filter_refuses_fails_alone_and_is_billed_as_the_provider_does(make: type[Imitation], tmp_path: Path):
    done, server, spent_usd = asyncio.run(asked(make, tmp_path, SUMS, fail_next=("content_filter",)))
    assert done[0].error_type in ("moderated", "content_filter")
    assert [completion.error_type for completion in done[1:]] == [None, None]
    assert spent_usd == pytest.approx(float(server.bill_usd), abs=1e-9)
