"""Every imitation refuses what its provider refuses, counts as it counts, and bills what it counted."""

import asyncio
import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from tests.support.providers import brain, tokens
from tests.support.providers.anthropic import HAIKU_55, Anthropic
from tests.support.providers.azure import Azure
from tests.support.providers.bill import PriceList, Tokens, cost, rates
from tests.support.providers.gemini import FLASH_38, Gemini
from tests.support.providers.imitation import Imitation
from tests.support.providers.limits import Limits
from tests.support.providers.openai import GPT_6_LUNA, OpenAI
from tests.support.providers.openrouter import OpenRouter
from tests.support.providers.pool import ENTRIES, Providers
from tests.support.providers.vllm import LLAMA, Vllm

ASK = [{"role": "user", "content": "What is 17 + 25?"}]
SUMMARY = "Summarise in three paragraphs: Rain fell all day. The river rose. People left the town. Nobody was hurt."
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
LONG_SYSTEM = "You know the rules of this house. " * 400


class Reply:
    """A response: status, JSON (or text), headers in lower case."""

    def __init__(self, status: int, document: Any, headers: Mapping[str, str]) -> None:
        self.status = status
        self.document = document
        self.headers = headers


def model_of(server: Imitation) -> str:
    return next(iter(server.models))


def body_of(server: Imitation, text: str = ASK[0]["content"], **fields: Any) -> dict[str, Any]:
    """A request that the provider takes, with these fields changed; None takes one away."""
    if server.name == "gemini":
        body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": text}]}]}
    else:
        body = {"model": model_of(server), "messages": [{"role": "user", "content": text}]}
        if server.name == "anthropic":
            body["max_tokens"] = 4096
    body |= fields
    return {name: value for name, value in body.items() if value is not None}


def key_of(server: Imitation, key: str) -> dict[str, str]:
    match server.name:
        case "anthropic":
            return {"x-api-key": key, "anthropic-version": "2023-06-01"}
        case "gemini":
            return {"x-goog-api-key": key}
        case "azure":
            return {"api-key": key}
    return {"Authorization": f"Bearer {key}"}


async def send(
    server: Imitation,
    body: Any,
    *,
    url: str | None = None,
    headers: Mapping[str, str] | None = None,
    model: str | None = None,
) -> Reply:
    if url is None:
        path = {"anthropic": "/messages", "gemini": f"/models/{model or model_of(server)}:generateContent"}
        url = server.base_url + path.get(server.name, "/chat/completions")
    given = key_of(server, server.key) if headers is None else headers
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=given) as response:
        raw = await response.text()
        document = json.loads(raw) if response.content_type == "application/json" else raw
        return Reply(response.status, document, {name.lower(): value for name, value in response.headers.items()})


def asked(server: Imitation, body: Any = None, **how: Any) -> Reply:
    """One request to a server that is started for it."""

    async def run() -> Reply:
        async with server:
            return await send(server, body_of(server) if body is None else body, **how)

    return asyncio.run(run())


def text_of(document: Mapping[str, Any]) -> str:
    if "candidates" in document:
        parts = document["candidates"][0]["content"].get("parts", [])
        return "".join(part["text"] for part in parts if not part.get("thought"))
    if document.get("type") == "message":
        return "".join(part["text"] for part in document["content"] if part["type"] == "text")
    return document["choices"][0]["message"]["content"] or ""


EVERY = (OpenAI, Anthropic, Gemini, Azure, OpenRouter, Vllm)


@pytest.mark.parametrize("make", EVERY)
def test_a_sum_is_answered_and_billed(make: type[Imitation]):
    server = make()
    reply = asked(server)
    assert (reply.status, text_of(reply.document)) == (200, "42")
    [seen] = server.requests
    assert seen.tokens is not None and seen.tokens.prompt > 0 and seen.tokens.answer == 1
    assert server.bill_usd == seen.usd == cost(server.models[seen.model].prices, seen.tokens) > 0


@pytest.mark.parametrize("make", EVERY)
def test_a_long_answer_comes_whole_where_the_limit_leaves_room(make: type[Imitation]):
    server = make()
    reply = asked(server, body_of(server, SUMMARY))
    assert text_of(reply.document).endswith(brain.LAST_WORDS)
    assert text_of(reply.document).count("\n\n") == 3
    assert server.requests[0].text == text_of(reply.document)


WRONG_KEYS = (
    (OpenAI, 401, "invalid_api_key"),
    (Anthropic, 401, "authentication_error"),
    (Gemini, 400, "API_KEY_INVALID"),
    (Azure, 401, "Access denied"),
    (OpenRouter, 401, "User not found"),
    (Vllm, 401, "Unauthorized"),
)


@pytest.mark.parametrize(("make", "status", "said"), WRONG_KEYS)
def test_a_wrong_key_is_refused(make: type[Imitation], status: int, said: str):
    server = make()
    reply = asked(server, headers=key_of(server, "sk-wrong-0123456789"))
    assert reply.status == status and said in json.dumps(reply.document)
    assert asked(make(), headers={}).status in (401, 403)
    assert server.bill_usd == 0


def test_another_providers_header_is_no_key():
    bearer = {"Authorization": f"Bearer {Azure().key}"}
    assert asked(Azure(), headers=bearer).status == 401
    assert asked(OpenAI(), headers={"api-key": OpenAI().key}).status == 401
    assert asked(Gemini(), headers={"Authorization": f"Bearer {Gemini().key}"}).document["error"]["code"] == 401
    server = Anthropic()
    reply = asked(server, headers={"Authorization": f"Bearer {server.key}", "anthropic-version": "2023-06-01"})
    assert (reply.status, reply.document["error"]["type"]) == (401, "authentication_error")


@pytest.mark.parametrize("make", EVERY)
def test_an_unknown_model_and_a_wrong_path_are_404(make: type[Imitation]):
    server = make()
    expected = 400 if server.name == "openrouter" else 404
    body = body_of(server) if server.name == "gemini" else body_of(server, model="gpt-99")
    assert asked(server, body, model="gpt-99").status == expected

    async def elsewhere() -> Reply:
        async with make() as other:
            return await send(other, body_of(other), url=f"{other.base_url}/responses")

    assert asyncio.run(elsewhere()).status == 404


LUNA = {"model": "gpt-6-luna"}
FOUR = {"temperature": 0, "top_p": 0.5, "logprobs": True, "presence_penalty": 0.5}
OPENAI_REFUSES = (
    ({"nonsense": 1}, None, None, "Unrecognized request argument supplied: nonsense"),
    ({"reasoning_effort": "low"}, None, None, "Unrecognized request argument supplied: reasoning_effort"),
    ({**LUNA, "max_tokens": 9}, "max_tokens", "unsupported_parameter", "Use 'max_completion_tokens' instead."),
    ({**LUNA, "temperature": 0}, "temperature", "unsupported_value", "does not support 0 with this model"),
    ({**LUNA, "logprobs": True}, "logprobs", "unsupported_parameter", "'logprobs' is not supported"),
    ({**LUNA, "top_p": 0.5}, "top_p", "unsupported_parameter", "'top_p' is not supported"),
    ({**LUNA, "stop": ["x"]}, "stop", "unsupported_parameter", "'stop' is not supported"),
    ({**LUNA, "reasoning_effort": "minimal"}, "reasoning_effort", "unsupported_value", "'none', 'low', 'medium'"),
    ({"model": "gpt-6-astra", "reasoning_effort": "none"}, "reasoning_effort", "unsupported_value", "'none'"),
    ({"model": "gpt-6-astra", "temperature": 0.5}, "temperature", "unsupported_value", "0.5"),
    ({"max_tokens": 9, "max_completion_tokens": 9}, "max_tokens", "invalid_parameter_combination", "at the same time"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value", ">= 1"),
    ({"max_tokens": 99_999}, "max_tokens", "invalid_value", "at most 32768 completion tokens"),
    ({"temperature": 3}, "temperature", "decimal_above_max_value", "<= 2"),
    ({"top_logprobs": 3}, "top_logprobs", "invalid_value", "'logprobs' is true"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value", "<= 20"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "array_above_max_length", "maximum length 4"),
    ({"messages": []}, "messages", "empty_array", "at least 1"),
    ({"messages": [{"role": "model", "content": "x"}]}, "messages[0].role", "invalid_value", "'model'"),
    ({"messages": [{**ASK[0], "reasoning": "x"}]}, "messages[0].reasoning", "unknown_parameter", "messages[0]"),
    ({"response_format": {"type": "json_object"}}, "messages", None, "the word 'json'"),
)


@pytest.mark.parametrize(("fields", "param", "code", "said"), OPENAI_REFUSES)
def test_openai_refuses_by_name(fields: dict[str, Any], param: str | None, code: str | None, said: str):
    server = OpenAI(models=tuple(reversed(OpenAI.default_models())))
    reply = asked(server, body_of(server, **{"model": "gpt-4.1-mini", **fields}))
    assert reply.status == 400 and set(reply.document) == {"error"}
    error = reply.document["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert said in error["message"]
    assert server.bill_usd == 0


def test_openai_takes_sampling_only_with_an_effort_of_none():
    fields = {**FOUR, "reasoning_effort": "none", "max_completion_tokens": 9}
    assert asked(OpenAI(), body_of(OpenAI(), **LUNA, **fields)).status == 200
    assert asked(OpenAI(), body_of(OpenAI(), **LUNA, temperature=1)).status == 200
    assert asked(OpenAI(), body_of(OpenAI(), temperature=0, max_tokens=9, stop="x")).status == 200


def schema_format(schema: Mapping[str, Any], *, strict: bool = True) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": strict}}


def test_openai_wants_strict_schemas_closed():
    open_schema = {key: value for key, value in SCHEMA.items() if key != "additionalProperties"}
    optional = {**SCHEMA, "required": ["city"]}
    either: dict[str, Any] = {**SCHEMA, "properties": {"city": {"oneOf": []}}, "required": ["city"]}
    for schema, said in (
        (open_schema, "'additionalProperties' is required"),
        (optional, "every key"),
        ({"type": "array", "items": SCHEMA}, "got 'type: \"array\"'"),
        (either, "'oneOf' is not permitted"),
    ):
        reply = asked(OpenAI(), body_of(OpenAI(), response_format=schema_format(schema)))
        assert reply.status == 400 and said in reply.document["error"]["message"]
        assert reply.document["error"]["param"] == "response_format"
    text = "City: Oslo. People: 700000."
    lenient = asked(OpenAI(), body_of(OpenAI(), text, response_format=schema_format(optional, strict=False)))
    assert json.loads(text_of(lenient.document)) == {"city": "Oslo", "people": 700000}


def test_a_small_limit_is_spent_on_thinking_and_billed():
    for server, fields, model in (
        (OpenAI(), {**LUNA, "max_completion_tokens": 20}, None),
        (Anthropic(), {"model": "claude-opus-5-5", "max_tokens": 20}, None),
        (Gemini(), {"generationConfig": {"maxOutputTokens": 20}}, "gemini-3.8-flash"),
        (Azure(), {"model": "our-thinker", "max_completion_tokens": 20}, None),
        (OpenRouter(), {"model": "anthropic/claude-sonnet-5.5", "max_tokens": 20}, None),
        (Vllm(), {"model": "qwen3-8b", "max_tokens": 20}, None),
    ):
        reply = asked(server, body_of(server, **fields), model=model)
        assert reply.status == 200 and text_of(reply.document) == "", server.name
        assert server.requests[0].finish in ("length", "max_tokens", "MAX_TOKENS")
        assert server.requests[0].tokens is not None
        assert (server.requests[0].tokens.thinking, server.requests[0].tokens.answer) == (20, 0)
        assert server.bill_usd > 0


def test_openai_counts_reasoning_within_and_writes_the_cache_from_the_newer_models_on():
    async def run() -> None:
        async with OpenAI() as server:
            body = body_of(server, **LUNA)
            body["messages"] = [{"role": "developer", "content": LONG_SYSTEM}, *ASK]
            first, second = await send(server, body), await send(server, body)
            counts = [reply.document["usage"] for reply in (first, second)]
            total = counts[0]["prompt_tokens"]
            known = total // 128 * 128
            assert counts[0]["prompt_tokens_details"] == {
                "cached_tokens": 0,
                "audio_tokens": 0,
                "cache_write_tokens": known,
            }
            assert counts[1]["prompt_tokens_details"]["cached_tokens"] == known
            assert counts[0]["completion_tokens_details"]["reasoning_tokens"] == counts[0]["completion_tokens"] - 1
            output = sum(count["completion_tokens"] for count in counts)
            expected = (
                Decimal(total - known) * 2 * Decimal("0.1")
                + known * Decimal("0.125")
                + known * Decimal("0.01")
                + output * Decimal("0.5")
            )
            assert server.bill_usd == expected / 1_000_000
            assert server.bill.usd_by_model() == {"gpt-6-luna": server.bill_usd}

    asyncio.run(run())


def test_a_prompt_over_the_threshold_is_billed_at_the_long_price_altogether():
    prices = PriceList(rates("1", "2"), 100, rates("3", "4"))
    assert cost(prices, Tokens(fresh=100, answer=1)) == Decimal("0.000102")
    assert cost(prices, Tokens(fresh=60, cached=41, answer=1)) == Decimal("0.000307")
    short = replace(GPT_6_LUNA, prices=replace(GPT_6_LUNA.prices, long_above=20))
    server = OpenAI(models=[short])
    asked(server, body_of(server, SUMMARY, reasoning_effort="none"))
    counts = server.requests[0].tokens
    assert counts is not None and counts.prompt > 20
    assert server.bill_usd == (counts.fresh * Decimal("0.2") + counts.output * Decimal("0.75")) / 1_000_000


def test_rate_limits_are_enforced_and_shown():
    async def run() -> None:
        async with OpenAI(limits=Limits(requests=2, tokens=1000)) as server:
            replies = [await send(server, body_of(server)) for _ in range(3)]
            assert [reply.status for reply in replies] == [200, 200, 429]
            assert replies[0].headers["x-ratelimit-remaining-requests"] == "1"
            assert replies[0].headers["x-ratelimit-limit-tokens"] == "1000"
            assert replies[0].headers["x-ratelimit-reset-tokens"].endswith("s")
            assert replies[2].document["error"]["type"] == "requests"
            assert replies[2].headers["x-ratelimit-remaining-requests"] == "0"
            larger = await send(server, body_of(server, max_tokens=2000))
            assert (larger.status, larger.document["error"]["type"]) == (429, "tokens")
            assert "Request too large" in larger.document["error"]["message"]

    asyncio.run(run())


def test_each_provider_shows_its_limits_in_its_own_way():
    azure = asked(Azure()).headers
    assert azure["x-ratelimit-reset-requests"].isdigit() and "x-ms-region" in azure
    anthropic = asked(Anthropic()).headers
    assert anthropic["anthropic-ratelimit-requests-limit"] == "10000"
    assert anthropic["anthropic-ratelimit-input-tokens-reset"].endswith("Z")
    for server in (Gemini(), OpenRouter(), Vllm()):
        assert not [name for name in asked(server).headers if "ratelimit" in name]


FAILURES = (
    (OpenAI, "rate_requests", 429, '"type": "requests"'),
    (OpenAI, "rate_tokens", 429, "tokens per min (TPM)"),
    (OpenAI, "rate_day", 429, "requests per day"),
    (OpenAI, "too_large", 429, "Request too large"),
    (OpenAI, "no_money", 429, '"code": "insufficient_quota"'),
    (OpenAI, "overloaded", 503, "server_error"),
    (OpenAI, "server_error", 500, "server_error"),
    (OpenAI, "content_filter", 400, "invalid_prompt"),
    (OpenAI, "context", 400, "context_length_exceeded"),
    (OpenAI, "retired", 404, "model_not_found"),
    (OpenAI, "filtered_reply", 200, '"finish_reason": "content_filter"'),
    (OpenAI, "refusal", 200, "I can't help"),
    (Anthropic, "rate_requests", 429, "rate_limit_error"),
    (Anthropic, "rate_tokens", 429, "input tokens per minute"),
    (Anthropic, "rate_day", 429, "ramp_limit_exceeded"),
    (Anthropic, "too_large", 413, "413 Request Entity Too Large"),
    (Anthropic, "no_money", 400, "credit balance is too low"),
    (Anthropic, "overloaded", 529, "overloaded_error"),
    (Anthropic, "server_error", 500, "api_error"),
    (Anthropic, "content_filter", 400, "content filtering"),
    (Anthropic, "context", 400, "prompt is too long"),
    (Anthropic, "context_with_limit", 400, "exceed context limit"),
    (Anthropic, "retired", 404, "not_found_error"),
    (Anthropic, "refusal", 200, '"stop_reason": "refusal"'),
    (Gemini, "rate_requests", 429, "PerMinute"),
    (Gemini, "rate_tokens", 429, "InputTokensPerModelPerMinute"),
    (Gemini, "rate_day", 429, "PerDay"),
    (Gemini, "too_large", 429, "RESOURCE_EXHAUSTED"),
    (Gemini, "no_money", 402, "RESOURCE_EXHAUSTED"),
    (Gemini, "overloaded", 503, "UNAVAILABLE"),
    (Gemini, "server_error", 500, "INTERNAL"),
    (Gemini, "content_filter", 200, '"blockReason": "PROHIBITED_CONTENT"'),
    (Gemini, "filtered_reply", 200, '"finishReason": "SAFETY"'),
    (Gemini, "finish_error", 200, "MALFORMED_RESPONSE"),
    (Gemini, "empty_choices", 200, "usageMetadata"),
    (Gemini, "context", 400, "exceeds the maximum number of tokens allowed"),
    (Gemini, "retired", 404, "NOT_FOUND"),
    (Azure, "rate_requests", 429, "rate_limit_exceeded"),
    (Azure, "no_money", 429, "insufficient_quota"),
    (Azure, "content_filter", 400, "ResponsibleAIPolicyViolation"),
    (OpenRouter, "rate_requests", 429, "free-models-per-min"),
    (OpenRouter, "rate_day", 429, "free-models-per-day"),
    (OpenRouter, "rate_tokens", 429, "temporarily rate-limited upstream"),
    (OpenRouter, "no_money", 402, "more credits, or fewer max_tokens"),
    (OpenRouter, "overloaded", 529, "Provider returned error"),
    (OpenRouter, "server_error", 502, "Provider returned error"),
    (OpenRouter, "flagged", 403, '"reasons"'),
    (OpenRouter, "error_in_200", 200, '"code": 429'),
    (OpenRouter, "empty_choices", 200, '"choices": []'),
    (OpenRouter, "finish_error", 200, '"finish_reason": "error"'),
    (OpenRouter, "filtered_reply", 200, '"finish_reason": "content_filter"'),
    (OpenRouter, "refusal", 200, "I can't help"),
    (OpenRouter, "context", 400, "maximum context length"),
    (OpenRouter, "retired", 404, "No endpoints found"),
    (Vllm, "rate_requests", 429, '"code": 429'),
    (Vllm, "overloaded", 503, '"code": 503'),
    (Vllm, "server_error", 500, '"code": 500'),
    (Vllm, "context", 400, "maximum context length"),
    (Vllm, "context_with_limit", 400, "is too large"),
)


@pytest.mark.parametrize(("make", "fault", "status", "said"), FAILURES)
def test_a_failure_is_had_by_its_name(make: type[Imitation], fault: str, status: int, said: str):
    server = make()
    reply = asked(server, body_of(server, f"What is 17 + 25? [[fault:{fault}]]"))
    assert (reply.status, server.requests[0].fault) == (status, fault)
    assert said in (reply.document if isinstance(reply.document, str) else json.dumps(reply.document))
    if status != 200:
        assert server.bill_usd == 0, "refusals cost nothing"


def test_money_for_a_200_is_billed_where_it_has_usage_and_only_there():
    for fault, is_billed in (("refusal", True), ("error_in_200", False), ("empty_choices", False)):
        server = OpenRouter()
        asked(server, body_of(server, f"x [[fault:{fault}]]"))
        assert (server.bill_usd > 0) is is_billed


def test_a_failure_can_end_and_be_asked_for_in_three_ways():
    async def run() -> None:
        async with OpenAI() as server:
            body = body_of(server, "What is 17 + 25? [[fault:overloaded*2]]")
            replies = [await send(server, body) for _ in range(3)]
            assert [reply.status for reply in replies] == [503, 503, 200]
            assert text_of(replies[2].document) == "42", "the model does not see the marker"
            server.fail_next("server_error")
            assert [(await send(server, body_of(server))).status for _ in range(2)] == [500, 200]
            headers = {**key_of(server, server.key), "x-imitate-fault": "rate_day"}
            assert (await send(server, body_of(server), headers=headers)).status == 429
            flagged = await send(server, body_of(server, "What is 1 + 1? [[fault:flagged]]"))
            assert flagged.status == 200, "OpenAI has no such failure"
        with pytest.raises(ValueError, match="no fault 'overlaoded'"):
            server.fail_next("overlaoded")

    asyncio.run(run())


def test_azure_has_a_new_and_a_classic_address():
    async def run() -> None:
        async with Azure() as server:
            base, _, query = server.classic_url.partition("?")
            path = f"{base}/openai/deployments/our-mini/chat/completions"
            body = body_of(server, model=None)
            classic = await send(server, body, url=f"{path}?{query}")
            assert classic.status == 200
            assert classic.document["choices"][0]["content_filter_results"]["hate"]["filtered"] is False
            unversioned = await send(server, body, url=path)
            assert (unversioned.status, unversioned.document["error"]["code"]) == (404, "404")
            missing = await send(server, body, url=f"{path.replace('our-mini', 'no-such')}?{query}")
            assert (missing.status, missing.document["error"]["code"]) == (404, "DeploymentNotFound")
            server.fail_next("rate_tokens")
            limited = await send(server, body, url=f"{path}?{query}")
            assert limited.document["error"]["code"] == "429" and limited.headers["retry-after"] == "1"

    asyncio.run(run())


HAIKU = {"model": "claude-haiku-5-5"}
OLDER = {"model": "claude-haiku-4-5"}
ANTHROPIC_REFUSES = (
    ({"max_tokens": None}, "max_tokens: Field required"),
    ({"seed": 3}, "seed: Extra inputs are not permitted"),
    ({"n": 2}, "n: Extra inputs are not permitted"),
    ({"max_completion_tokens": 9}, "max_completion_tokens: Extra inputs are not permitted"),
    ({"messages": [{"role": "system", "content": "x"}, *ASK]}, 'Unexpected role "system"'),
    ({"messages": []}, "at least one message"),
    ({"messages": [{"role": "user", "content": " "}]}, "non-whitespace"),
    ({"messages": [*ASK, {"role": "assistant", "content": "4"}]}, "prefill"),
    ({"temperature": 0}, "`temperature` is deprecated for this model."),
    ({"top_k": 5}, "`top_k` is deprecated for this model."),
    ({**OLDER, "temperature": 1.5}, "temperature: range: 0..1"),
    ({**OLDER, "temperature": 0.5, "top_p": 0.5}, "cannot both be specified"),
    ({**OLDER, "output_config": {"effort": "low"}}, "does not support the effort parameter"),
    ({**OLDER, "thinking": {"type": "enabled", "budget_tokens": 100}}, "greater than or equal to 1024"),
    ({**OLDER, "thinking": {"type": "enabled", "budget_tokens": 5000}}, "must be greater than"),
    ({**OLDER, "thinking": {"type": "adaptive"}}, '"thinking.type.adaptive" is not supported'),
    ({"output_config": {"effort": "none"}}, "output_config.effort: Input should be 'low'"),
    ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, '"thinking.type.enabled" is not supported'),
    ({"model": "claude-opus-5-5", "thinking": {"type": "disabled"}}, '"thinking.type.disabled" is not supported'),
    ({"max_tokens": 200_000}, "200000 > 128000"),
    ({"stop_sequences": ["\n"]}, "non-whitespace"),
    ({"system": [{"type": "text", "text": "x", "cache_control": {"type": "forever"}}]}, "cache_control"),
    ({"response_format": {"type": "json_object"}}, "response_format: Extra inputs"),
)


@pytest.mark.parametrize(("fields", "said"), ANTHROPIC_REFUSES)
def test_anthropic_refuses_by_name(fields: dict[str, Any], said: str):
    server = Anthropic()
    reply = asked(server, body_of(server, **{**HAIKU, **fields}))
    assert reply.status == 400 and reply.document["type"] == "error"
    assert reply.document["error"]["type"] == "invalid_request_error"
    assert said in reply.document["error"]["message"]
    assert server.bill_usd == 0


def test_anthropic_wants_a_version():
    server = Anthropic()
    assert "anthropic-version" in asked(server, headers={"x-api-key": server.key}).document["error"]["message"]
    wrong = {"x-api-key": server.key, "anthropic-version": "2027-01-01"}
    assert asked(Anthropic(), headers=wrong).status == 400


def anthropic_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({**SCHEMA, "additionalProperties": True}, "'additionalProperties' must be explicitly set to false"),
        ({"type": "object", "properties": {}}, "'additionalProperties' must be explicitly set to false"),
        ({"type": "integer", "minimum": 1}, "For 'integer' type, property 'minimum' is not supported"),
        ({"type": "array", "items": {"type": "string", "maxLength": 3}}, "'maxLength' is not supported"),
        ({"type": "array", "minItems": 2}, "'minItems' values other than 0 or 1"),
    ],
)
def test_anthropic_refuses_words_of_schemas(schema: dict[str, Any], said: str):
    reply = asked(Anthropic(), body_of(Anthropic(), **anthropic_format(schema)))
    assert reply.status == 400 and said in reply.document["error"]["message"]


def test_anthropic_thinks_first_and_counts_it_within():
    server = Anthropic()
    document = asked(server, body_of(server, **HAIKU)).document
    assert [part["type"] for part in document["content"]] == ["thinking", "text"]
    usage = document["usage"]
    assert usage["output_tokens"] == usage["output_tokens_details"]["thinking_tokens"] + 1
    calm = asked(Anthropic(), body_of(Anthropic(), **HAIKU, thinking={"type": "disabled"})).document
    assert [part["type"] for part in calm["content"]] == ["text"]
    assert calm["usage"]["output_tokens"] == 1


@pytest.mark.parametrize(("ttl", "rate"), [("5m", "0.125"), ("1h", "0.2")])
def test_anthropic_caches_what_is_marked_and_counts_it_beside_the_input(ttl: str, rate: str):
    async def run() -> None:
        async with Anthropic() as server:
            mark = {"type": "ephemeral", "ttl": ttl}
            system = [{"type": "text", "text": LONG_SYSTEM, "cache_control": mark}]
            plain = body_of(server, **HAIKU, thinking={"type": "disabled"})
            unmarked = await send(server, {**plain, "system": LONG_SYSTEM})
            replies = [unmarked, *[await send(server, {**plain, "system": system}) for _ in range(2)]]
            kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
            counts = [tuple(reply.document["usage"][kind] for kind in kinds) for reply in replies]
            whole = counts[0][0]
            fresh, written = counts[1][:2]
            assert counts[0] == (whole, 0, 0, 1) and fresh + written == whole and fresh < 20
            assert counts[1] == (fresh, written, 0, 1) and counts[2] == (fresh, 0, written, 1)
            expected = (
                (whole + 2 * fresh) * Decimal("0.1")
                + written * Decimal(rate)
                + written * Decimal("0.01")
                + 3 * Decimal("0.5")
            )
            assert server.bill_usd == expected / 1_000_000

    asyncio.run(run())


def test_anthropic_ends_at_a_stop_sequence_and_at_its_context():
    server = Anthropic()
    document = asked(server, body_of(server, SUMMARY, stop_sequences=["Part 2"])).document
    assert (document["stop_reason"], document["stop_sequence"]) == ("stop_sequence", "Part 2")
    narrow = Anthropic(models=[replace(HAIKU_55, context_tokens=100)])
    cut = asked(narrow, body_of(narrow, SUMMARY, thinking={"type": "disabled"})).document
    assert cut["stop_reason"] == "model_context_window_exceeded" and cut["usage"]["output_tokens"] < 100


FLASH = "gemini-3.8-flash"


def config(**fields: Any) -> dict[str, Any]:
    return {"generationConfig": fields}


GEMINI_REFUSES: tuple[tuple[str, dict[str, Any], str], ...] = (
    (FLASH, {"messages": ASK}, 'Unknown name "messages"'),
    (FLASH, config(max_tokens=9), "Unknown name \"max_tokens\" at 'generation_config'"),
    (FLASH, {"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "valid role: user, model"),
    (FLASH, {"contents": [{"role": "user", "parts": []}]}, "must not be empty"),
    (FLASH, {"contents": [{"role": "user", "parts": [{"words": "x"}]}]}, 'Unknown name "words"'),
    (FLASH, {"contents": [{"role": "model", "parts": [{"text": "x"}]}]}, "last turn"),
    (FLASH, config(thinkingConfig={"thinkingLevel": "LOW", "thinkingBudget": 9}), "only one of"),
    (FLASH, config(thinkingConfig={"thinkingLevel": "MINIMAL"}), "MINIMAL is not supported"),
    ("gemini-2.5-flash", config(thinkingConfig={"thinkingLevel": "LOW"}), "Thinking level is not supported"),
    ("gemini-2.5-pro", config(thinkingConfig={"thinkingBudget": 0}), "only works in thinking mode"),
    (FLASH, config(responseLogprobs=True, logprobs=3), "Logprobs is not enabled for models/gemini-3.8-flash"),
    (FLASH, config(logprobs=3), "response_logprobs"),
    (FLASH, config(responseJsonSchema=SCHEMA), "application/json"),
    (FLASH, config(maxOutputTokens=99_999), "65537 (exclusive)"),
    (FLASH, config(stopSequences=["a", "b", "c", "d", "e", "f"]), "at most 5"),
    ("gemini-2.5-flash", config(temperature=3), "temperature"),
)


@pytest.mark.parametrize(("model", "fields", "said"), GEMINI_REFUSES)
def test_gemini_refuses_by_name(model: str, fields: dict[str, Any], said: str):
    server = Gemini()
    reply = asked(server, body_of(server, **fields), model=model)
    assert (reply.status, reply.document["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert said in reply.document["error"]["message"]
    assert server.bill_usd == 0


def test_gemini_counts_thinking_beside_the_answer_and_ignores_sampling_on_new_models():
    server = Gemini()
    fields = config(temperature=0, topK=3, candidateCount=2, thinkingConfig={"includeThoughts": True})
    document = asked(server, body_of(server, **fields), model=FLASH).document
    usage = document["usageMetadata"]
    assert usage["candidatesTokenCount"] == 1 and usage["thoughtsTokenCount"] > 64
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["thoughtsTokenCount"] + 1
    assert [part.get("thought") for part in document["candidates"][0]["content"]["parts"]] == [True, None]
    counts = Tokens(fresh=usage["promptTokenCount"], thinking=usage["thoughtsTokenCount"], answer=1)
    assert server.bill_usd == cost(FLASH_38.prices, counts)
    cut = asked(Gemini(), body_of(Gemini(), **config(maxOutputTokens=20)), model=FLASH).document
    assert cut["candidates"][0]["content"] == {"role": "model"}
    assert "candidatesTokenCount" not in cut["usageMetadata"]


def test_gemini_reads_its_cache_and_its_two_spellings():
    async def run() -> None:
        async with Gemini() as server:
            body = body_of(server, system_instruction={"parts": [{"text": LONG_SYSTEM}]})
            body["generation_config"] = {"max_output_tokens": 500, "thinking_config": {"thinking_budget": 0}}
            counts = [(await send(server, body)).document["usageMetadata"] for _ in range(2)]
            assert "cachedContentTokenCount" not in counts[0]
            assert counts[1]["cachedContentTokenCount"] == counts[1]["promptTokenCount"] // 128 * 128

    asyncio.run(run())


def test_gemini_gives_log_probabilities_on_a_model_that_has_them():
    fields = config(responseLogprobs=True, logprobs=3)
    [candidate] = asked(Gemini(), body_of(Gemini(), **fields), model="gemini-2.5-flash").document["candidates"]
    [chosen] = candidate["logprobsResult"]["chosenCandidates"]
    assert chosen["token"] == "42" and chosen["logProbability"] < 0
    assert len(candidate["logprobsResult"]["topCandidates"][0]["candidates"]) == 3


def test_openrouter_takes_everything_says_its_cost_and_wants_sixteen_tokens():
    server = OpenRouter()
    fields = {"model": "anthropic/claude-sonnet-5.5", "temperature": 0, "logprobs": True, "nonsense": 1, "seed": 3}
    document = asked(server, body_of(server, **fields)).document
    assert document["choices"][0]["logprobs"] is None, "dropped, as the host does not know it"
    assert document["choices"][0]["message"]["reasoning"].startswith("Step 0")
    assert document["usage"]["cost"] == pytest.approx(float(server.bill_usd), abs=1e-12)
    small = asked(OpenRouter(), body_of(OpenRouter(), max_tokens=8))
    assert small.status == 400 and "max_output_tokens" in small.document["error"]["metadata"]["raw"]


def test_vllm_drops_unknown_fields_and_keeps_thinking_where_its_parser_puts_it():
    fields = {"model": "qwen3-8b", "guided_json": SCHEMA, "nonsense": 1}
    message = asked(Vllm(), body_of(Vllm(), **fields)).document["choices"][0]["message"]
    assert message["content"] == "42" and message["reasoning"].startswith("Step 0")
    document = asked(Vllm(), body_of(Vllm(), model="qwen3-8b-raw")).document
    raw = document["choices"][0]["message"]
    assert raw["reasoning"] is None
    assert raw["content"].startswith("<think>\n") and raw["content"].endswith("</think>\n\n42")
    assert document["usage"]["prompt_tokens_details"] is None


def test_vllm_guides_by_schema_choice_and_expression():
    text = "City: Oslo. People: 700000."
    for fields in ({"structured_outputs": {"json": SCHEMA}}, {"response_format": schema_format(SCHEMA)}):
        reply = asked(Vllm(), body_of(Vllm(), text, **fields))
        assert json.loads(text_of(reply.document)) == {"city": "Oslo", "people": 700000}
    for kind, value in (("choice", ["41", "42"]), ("regex", r"\d+")):
        assert text_of(asked(Vllm(), body_of(Vllm(), structured_outputs={kind: value})).document) == "42"


def test_vllm_refuses_with_a_number_as_code_what_does_not_fit():
    narrow = Vllm(models=[replace(LLAMA, context_tokens=60)])
    error = asked(narrow, body_of(narrow, max_tokens=50)).document["error"]
    assert (error["code"], error["type"]) == (400, "BadRequestError") and "is too large: 50" in error["message"]
    longer = asked(Vllm(models=[replace(LLAMA, context_tokens=10)]))
    assert "maximum context length is 10 tokens" in longer.document["error"]["message"]
    many = asked(Vllm(), body_of(Vllm(), logprobs=True, top_logprobs=21)).document["error"]
    assert many["param"] == "top_logprobs"


def test_log_probabilities_stand_for_every_token_and_vllm_has_its_lowest():
    fields = {"logprobs": True, "top_logprobs": 3, "max_tokens": 500}
    for server, lowest in ((OpenAI(), None), (Vllm(), -9999.0)):
        document = asked(server, body_of(server, SUMMARY, **fields)).document
        content = document["choices"][0]["logprobs"]["content"]
        assert "".join(each["token"] for each in content) == text_of(document)
        assert all(len(each["top_logprobs"]) == 3 for each in content)
        if lowest is not None:
            assert content[0]["top_logprobs"][-1]["logprob"] == lowest


def test_a_stop_sequence_ends_an_answer_and_a_limit_cuts_it():
    stopped = asked(OpenAI(), body_of(OpenAI(), SUMMARY, stop="Part 2")).document["choices"][0]
    assert stopped["finish_reason"] == "stop" and stopped["message"]["content"].endswith("above.\n\n")
    cut = asked(OpenAI(), body_of(OpenAI(), SUMMARY, max_tokens=30)).document
    assert cut["choices"][0]["finish_reason"] == "length" and cut["usage"]["completion_tokens"] == 30
    several = asked(OpenAI(), body_of(OpenAI(), n=3)).document
    assert [each["index"] for each in several["choices"]] == [0, 1, 2]
    assert several["usage"]["completion_tokens"] == 3


def test_tokens_joined_are_the_text_and_providers_count_differently():
    text = "Überlange Wörter, 12345 and\r\n  some spaces — internationalisation!"
    for letters in (4, 5, 6, 7):
        assert "".join(tokens.split(text, letters)) == text
    assert len(tokens.split("internationalisation", 4)) > len(tokens.split("internationalisation", 7))


def test_the_brain_does_each_kind_of_question():
    def ask(*turns: tuple[str, str], system: str = "") -> str:
        return brain.answer(system, turns)

    assert ask(("user", "What is 12 * 4, then add 3?")) == "51"
    assert ask(("user", "Question: What is 7/2?"), system="End with a line 'Answer: <result>'.").endswith(
        "\nAnswer: 3.5"
    )
    assert ask(("user", "Which is 3 + 4?\nA) 6\nB) 7\nC) 8")) == "B"
    assert ask(("user", "Question: What swims in water?\nChoices: (A) a bird (B) a fish in water")) == "B"
    recall = (("user", "My dog is called Rex."), ("assistant", "A good name."), ("user", "What is my dog?"))
    assert ask(*recall) == "Rex"
    code = ask(("user", "Write a Python function called double_all."))
    assert "```python\ndef double_all(" in code and code.count("```") == 2 and code.endswith(brain.LAST_WORDS)
    assert ask(("user", "Summarise in five paragraphs: One. Two.")).count("\n\n") == 5
    assert ask(("user", "Tell me of the sea.")).endswith(brain.LAST_WORDS)
    assert ask(("user", "Question: What is 2 + 2, then add 3?"), system="One numbered step per line.") == (
        "1. What is 2 + 2\n2. add 3? (needs: 1)"
    )
    assert ask(("user", "Question: x\nResult of step 1: 4\nTask: add 3")) == "7"
    assert ask(("user", "Question: x\nResult of step 1: 4\nTask: give the final answer")) == "4"


def test_the_brain_fills_any_schema():
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["cat", "dog"]},
            "age": {"type": "integer", "minimum": 1, "maximum": 9},
            "born": {"type": "string", "format": "date"},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
            "owner": {"$ref": "#/$defs/person"},
            "chip": {"type": ["string", "null"], "maxLength": 4},
        },
        "$defs": {"person": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }
    text = "A dog, age: 12, born on 2020-05-06. Tags: brown, loud, old. The name is Ann. Chip: 123456."
    assert brain.value_of(schema, text) == {
        "kind": "dog",
        "age": 9,
        "born": "2020-05-06",
        "tags": ["brown", "loud"],
        "owner": {"name": "Ann"},
        "chip": "1234",
    }


def test_the_pool_names_every_entry_with_the_price_of_the_imitation():
    async def run() -> None:
        async with Providers() as providers:
            pool = tomllib.loads(providers.pool_text())
            assert list(pool["models"]) == [entry for entry, *_ in ENTRIES]
            luna = pool["models"]["luna"]
            assert luna["endpoint"] == providers.openai.base_url and luna["dialect"] == "openai"
            assert luna["price_usd_per_mtok"]["long"] == [
                {"above_tokens": 272_000, "input": 0.2, "cached_input": 0.02, "output": 0.75, "cache_write": 0.25}
            ]
            assert (luna["sampling"], luna["omit"], luna["guided"]) == (False, ["stop"], True)
            assert "sampling" not in pool["models"]["mini"] and pool["models"]["llama"]["logprobs"] is True
            plain = tomllib.loads(providers.pool_text(is_plain=True))["models"]
            assert not {"sampling", "omit", "guided", "logprobs"} & {name for table in plain.values() for name in table}
            assert set(providers.environment) == {table["api_key_env"] for table in pool["models"].values()}
            await send(providers.gemini, body_of(providers.gemini))
            assert providers.bill_usd == providers.gemini.bill_usd > 0

    asyncio.run(run())
