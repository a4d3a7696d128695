"""The vendors' own SDKs hold the imitations to their word: they talk to them and read what comes back.

So client and imitation cannot share one mistake about a provider: a reply that an SDK's types refuse, or a field that
they do not know, is the imitation's mistake.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types import Message
from anthropic.types.shared.error_response import ErrorResponse
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from tests.support.providers.anthropic import Anthropic
from tests.support.providers.azure import API_VERSION, Azure
from tests.support.providers.gemini import Gemini
from tests.support.providers.imitation import Imitation
from tests.support.providers.openai import OpenAI
from tests.support.providers.openrouter import OpenRouter
from tests.support.providers.vllm import Vllm

QUESTION = "What is 17 + 25?"
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
CITY_TEXT = "City: Oslo. People: 700000."


def unknown_fields(value: Any, path: str = "") -> list[str]:
    """Fields of a parsed reply that the SDK's types do not name."""
    if isinstance(value, BaseModel):
        found = [f"{path}.{name}" for name in value.model_extra or {}]
        for name in type(value).model_fields:
            found += unknown_fields(getattr(value, name, None), f"{path}.{name}")
        return found
    if isinstance(value, list):
        return [name for place, each in enumerate(value) for name in unknown_fields(each, f"{path}[{place}]")]
    return []


def checked(model: type[BaseModel], document: Any) -> Any:
    """The reply, validated in full: the SDKs themselves build their types without a check."""
    return model.model_validate(document)


async def with_openai(server: Imitation, use: Callable[[openai.AsyncOpenAI], Awaitable[Any]]) -> Any:
    """`verify` is off, as no certificate is to be read: the address is loopback's, without TLS."""
    bare = openai.DefaultAsyncHttpxClient(verify=False)
    async with (
        server,
        openai.AsyncOpenAI(base_url=server.base_url, api_key=server.key, max_retries=0, http_client=bare) as client,
    ):
        return await use(client)


async def with_azure(server: Azure, use: Callable[[openai.AsyncOpenAI], Awaitable[Any]]) -> Any:
    async with (
        server,
        openai.AsyncAzureOpenAI(
            azure_endpoint=server.base_url.removesuffix(server.route),
            api_version=API_VERSION,
            api_key=server.key,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(verify=False),
        ) as client,
    ):
        return await use(client)


async def with_anthropic(server: Anthropic, use: Callable[[anthropic.AsyncAnthropic], Awaitable[Any]]) -> Any:
    async with server:
        root = server.base_url.removesuffix(server.route)
        bare = anthropic.DefaultAsyncHttpxClient(verify=False)
        key = server.key
        async with anthropic.AsyncAnthropic(base_url=root, api_key=key, max_retries=0, http_client=bare) as client:
            return await use(client)


Generate = Callable[..., Awaitable[genai_types.GenerateContentResponse]]


async def with_gemini(server: Gemini, use: Callable[[Generate], Awaitable[Any]]) -> Any:
    """The SDK's blocking client in a thread: its other one warns of its own use of aiohttp."""
    async with server:
        root = server.base_url.removesuffix(server.route)
        off = {"verify": False}
        options = genai_types.HttpOptions(base_url=root, client_args=off, async_client_args=off)
        with genai.Client(api_key=server.key, http_options=options) as client:

            async def generate(**fields: Any) -> genai_types.GenerateContentResponse:
                return await asyncio.to_thread(client.models.generate_content, **fields)

            return await use(generate)


MESSAGES: list[Any] = [{"role": "system", "content": "Be short."}, {"role": "user", "content": QUESTION}]


@pytest.mark.parametrize(
    ("model", "fields", "n_thinking"),
    [
        ("gpt-4.1-mini", {"temperature": 0, "seed": 3, "max_tokens": 64, "stop": ["END"]}, 0),
        ("gpt-6-luna", {"max_completion_tokens": 500, "reasoning_effort": "low"}, 25),
        ("gpt-6-luna", {"max_completion_tokens": 500, "reasoning_effort": "none", "temperature": 0.3}, 0),
    ],
)
def test_the_openai_sdk_reads_the_reply(model: str, fields: dict[str, Any], n_thinking: int):
    server = OpenAI()

    async def use(client: openai.AsyncOpenAI) -> ChatCompletion:
        raw = await client.chat.completions.with_raw_response.create(model=model, messages=MESSAGES, **fields)
        assert raw.headers["x-ratelimit-limit-requests"] == "10000"
        reply = checked(ChatCompletion, json.loads(raw.content))
        assert raw.parse() == reply
        return reply

    reply: ChatCompletion = asyncio.run(with_openai(server, use))
    assert unknown_fields(reply) == []
    assert reply.choices[0].message.content == "42" and reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None and reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == n_thinking
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + n_thinking + 1


def test_the_openai_sdk_reads_log_probabilities_refusals_and_schemas():
    class City(BaseModel):
        city: str
        people: int

    async def use(client: openai.AsyncOpenAI) -> None:
        create = client.chat.completions.create
        reply = await create(model="gpt-4.1-mini", messages=MESSAGES, logprobs=True, top_logprobs=2)
        reply = checked(ChatCompletion, reply.model_dump())
        assert unknown_fields(reply) == []
        assert reply.choices[0].logprobs is not None and reply.choices[0].logprobs.content is not None
        [token] = reply.choices[0].logprobs.content
        assert token.token == "42" and len(token.top_logprobs) == 2
        refused = await create(model="gpt-4.1-mini", messages=MESSAGES, extra_headers={"x-imitate-fault": "refusal"})
        assert refused.choices[0].message.content is None and refused.choices[0].message.refusal
        parsed = await client.chat.completions.parse(
            model="gpt-4.1-mini", messages=[{"role": "user", "content": CITY_TEXT}], response_format=City
        )
        assert parsed.choices[0].message.parsed == City(city="Oslo", people=700000)

    asyncio.run(with_openai(OpenAI(), use))


OPENAI_ERRORS: tuple[tuple[str, type[openai.APIStatusError], str | None, str | None], ...] = (
    ("rate_requests", openai.RateLimitError, "requests", "rate_limit_exceeded"),
    ("rate_tokens", openai.RateLimitError, "tokens", "rate_limit_exceeded"),
    ("too_large", openai.RateLimitError, "tokens", "rate_limit_exceeded"),
    ("no_money", openai.RateLimitError, "insufficient_quota", "insufficient_quota"),
    ("overloaded", openai.InternalServerError, "server_error", None),
    ("server_error", openai.InternalServerError, "server_error", None),
    ("content_filter", openai.BadRequestError, "invalid_request_error", "invalid_prompt"),
    ("context", openai.BadRequestError, "invalid_request_error", "context_length_exceeded"),
    ("retired", openai.NotFoundError, "invalid_request_error", "model_not_found"),
)


@pytest.mark.parametrize(("fault", "kind", "type_", "code"), OPENAI_ERRORS)
def test_the_openai_sdk_reads_the_error(
    fault: str, kind: type[openai.APIStatusError], type_: str | None, code: str | None
):
    async def use(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(
                model="gpt-4.1-mini", messages=MESSAGES, extra_headers={"x-imitate-fault": fault}
            )
        assert (caught.value.type, caught.value.code) == (type_, code)
        assert caught.value.request_id is not None

    asyncio.run(with_openai(OpenAI(), use))


def test_the_openai_sdk_waits_as_the_imitation_says_and_asks_again():
    server = OpenAI()

    async def use(client: openai.AsyncOpenAI) -> ChatCompletion:
        server.fail_next("rate_requests", "overloaded")
        patient = client.with_options(max_retries=2)
        reply: ChatCompletion = await patient.chat.completions.create(model="gpt-4.1-mini", messages=MESSAGES)
        return reply

    assert asyncio.run(with_openai(server, use)).choices[0].message.content == "42"
    assert [seen.status for seen in server.requests] == [429, 503, 200]


def test_the_openai_sdk_reads_refused_parameters_and_keys():
    async def use(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="gpt-6-luna", messages=MESSAGES, max_tokens=9)
        assert (caught.value.param, caught.value.code) == ("max_tokens", "unsupported_parameter")
        with pytest.raises(openai.AuthenticationError) as unknown:
            await client.with_options(api_key="sk-wrong").chat.completions.create(
                model="gpt-4.1-mini", messages=MESSAGES
            )
        assert unknown.value.code == "invalid_api_key"

    asyncio.run(with_openai(OpenAI(), use))


def test_the_azure_client_finds_the_classic_address_and_reads_the_filter():
    server = Azure()

    async def use(client: openai.AsyncOpenAI) -> None:
        reply = await client.chat.completions.create(model="our-thinker", messages=MESSAGES)
        reply = checked(ChatCompletion, reply.model_dump())
        assert reply.choices[0].message.content == "42"
        added = {"prompt_filter_results", "choices[0].content_filter_results"}
        assert {name.lstrip(".") for name in unknown_fields(reply)} == added
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(
                model="our-mini", messages=MESSAGES, extra_headers={"x-imitate-fault": "content_filter"}
            )
        assert caught.value.code == "content_filter"
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="no-such", messages=MESSAGES)
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(
                model="our-mini", messages=MESSAGES, extra_headers={"x-imitate-fault": "rate_tokens"}
            )

    asyncio.run(with_azure(server, use))
    assert {seen.path.split("/")[3] for seen in server.requests} == {"our-thinker", "our-mini", "no-such"}


@pytest.mark.parametrize(
    ("make", "model", "added"),
    [
        (
            OpenRouter,
            "anthropic/claude-sonnet-5.5",
            {
                "provider",
                "choices[0].native_finish_reason",
                "choices[0].message.reasoning",
                "choices[0].message.reasoning_details",
                "usage.cost",
                "usage.is_byok",
            },
        ),
        (
            Vllm,
            "qwen3-8b",
            {"prompt_logprobs", "kv_transfer_params", "choices[0].stop_reason", "choices[0].message.reasoning"},
        ),
    ],
)
def test_the_openai_sdk_reads_the_compatible_ones_with_what_they_add(
    make: type[Imitation], model: str, added: set[str]
):
    async def use(client: openai.AsyncOpenAI) -> ChatCompletion:
        reply = await client.chat.completions.create(model=model, messages=MESSAGES)
        return checked(ChatCompletion, reply.model_dump())

    reply = asyncio.run(with_openai(make(), use))
    assert reply.choices[0].message.content == "42"
    assert {name.lstrip(".") for name in unknown_fields(reply)} == added


def test_the_openai_sdk_reads_openrouters_errors():
    async def use(client: openai.AsyncOpenAI) -> None:
        async def ask(fault: str) -> ChatCompletion:
            return await client.chat.completions.create(
                model="mistralai/mistral-small-3.2", messages=MESSAGES, extra_headers={"x-imitate-fault": fault}
            )

        with pytest.raises(openai.PermissionDeniedError, match="Your input was flagged"):
            await ask("flagged")
        with pytest.raises(openai.RateLimitError, match="free-models-per-day"):
            await ask("rate_day")
        with pytest.raises(openai.APIStatusError) as caught:
            await ask("no_money")
        assert caught.value.status_code == 402
        assert (await ask("error_in_200")).choices is None, "an error in the place of an answer"
        assert (await ask("empty_choices")).choices == []

    asyncio.run(with_openai(OpenRouter(), use))


@pytest.mark.parametrize(
    ("model", "fields", "kinds"),
    [
        ("claude-haiku-4-5", {"extra_body": {"temperature": 0.0}}, ["text"]),
        ("claude-haiku-4-5", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, ["thinking", "text"]),
        ("claude-haiku-5-5", {"thinking": {"type": "disabled"}, "stop_sequences": ["END"]}, ["text"]),
        ("claude-opus-5-5", {"output_config": {"effort": "low"}}, ["thinking", "text"]),
    ],
)
def test_the_anthropic_sdk_reads_the_reply(model: str, fields: dict[str, Any], kinds: list[str]):
    async def use(client: anthropic.AsyncAnthropic) -> Message:
        raw = await client.messages.with_raw_response.create(
            model=model,
            max_tokens=2048,
            system=[{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}}],
            messages=[{"role": "user", "content": QUESTION}],
            **fields,
        )
        assert raw.headers["anthropic-ratelimit-tokens-reset"].endswith("Z")
        reply: Message = checked(Message, json.loads(await raw.read()))
        return reply

    reply = asyncio.run(with_anthropic(Anthropic(), use))
    assert unknown_fields(reply) == []
    assert [part.type for part in reply.content] == kinds
    assert reply.content[-1].type == "text" and reply.content[-1].text == "42"
    assert reply.stop_reason == "end_turn" and reply.usage.output_tokens_details is not None
    assert reply.usage.output_tokens == reply.usage.output_tokens_details.thinking_tokens + 1


ANTHROPIC_ERRORS: tuple[tuple[str, type[anthropic.APIStatusError], str | None, str | None], ...] = (
    ("rate_requests", anthropic.RateLimitError, "rate_limit_error", None),
    ("rate_day", anthropic.RateLimitError, "rate_limit_error", "ramp_limit_exceeded"),
    ("no_money", anthropic.BadRequestError, "invalid_request_error", None),
    ("overloaded", anthropic.OverloadedError, "overloaded_error", None),
    ("server_error", anthropic.InternalServerError, "api_error", None),
    ("context", anthropic.BadRequestError, "invalid_request_error", None),
    ("retired", anthropic.NotFoundError, "not_found_error", None),
    ("too_large", anthropic.ContentTooLargeError, None, None),
)


@pytest.mark.parametrize(("fault", "kind", "type_", "code"), ANTHROPIC_ERRORS)
def test_the_anthropic_sdk_reads_the_error(
    fault: str, kind: type[anthropic.APIStatusError], type_: str | None, code: str | None
):
    async def use(client: anthropic.AsyncAnthropic) -> None:
        with pytest.raises(kind) as caught:
            await client.messages.create(
                model="claude-haiku-4-5",
                max_tokens=64,
                messages=[{"role": "user", "content": QUESTION}],
                extra_headers={"x-imitate-fault": fault},
            )
        assert (caught.value.type, caught.value.error_code) == (type_, code)
        assert caught.value.request_id is not None
        if type_ is not None:
            assert unknown_fields(checked(ErrorResponse, caught.value.body)) in ([], [".error.details"])

    asyncio.run(with_anthropic(Anthropic(), use))


def test_the_anthropic_sdk_reads_refusals_schemas_and_keys():
    async def use(client: anthropic.AsyncAnthropic) -> None:
        ask: dict[str, Any] = {"model": "claude-haiku-5-5", "max_tokens": 2048}
        refused = await client.messages.create(
            **ask, messages=[{"role": "user", "content": "x"}], extra_headers={"x-imitate-fault": "refusal"}
        )
        refused = checked(Message, refused.model_dump())
        assert refused.stop_reason == "refusal" and refused.stop_details.category == "cyber"
        reply = await client.messages.create(
            **ask,
            messages=[{"role": "user", "content": CITY_TEXT}],
            output_config={"format": {"type": "json_schema", "schema": CITY}},
        )
        assert reply.content[-1].type == "text"
        assert json.loads(reply.content[-1].text) == {"city": "Oslo", "people": 700000}
        with pytest.raises(anthropic.BadRequestError, match="seed: Extra inputs"):
            await client.messages.create(**ask, messages=[{"role": "user", "content": "x"}], extra_body={"seed": 3})
        with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"):
            await client.with_options(api_key="wrong").messages.create(
                **ask, messages=[{"role": "user", "content": "x"}]
            )

    asyncio.run(with_anthropic(Anthropic(), use))


def test_the_genai_sdk_reads_the_reply_with_thoughts_log_probabilities_and_schema():
    async def use(generate: Generate) -> None:
        reply = await generate(
            model="gemini-3.8-flash",
            contents=QUESTION,
            config=genai_types.GenerateContentConfig(
                system_instruction="Be short.",
                temperature=0.0,
                seed=3,
                max_output_tokens=2000,
                stop_sequences=["END"],
                thinking_config=genai_types.ThinkingConfig(
                    thinking_level=genai_types.ThinkingLevel.LOW, include_thoughts=True
                ),
            ),
        )
        assert reply.text == "42" and reply.model_version == "gemini-3.8-flash"
        assert reply.candidates is not None and reply.candidates[0].content is not None
        assert reply.candidates[0].finish_reason == genai_types.FinishReason.STOP
        assert [part.thought for part in reply.candidates[0].content.parts or ()] == [True, None]
        counts = reply.usage_metadata
        assert counts is not None and counts.prompt_token_count and counts.thoughts_token_count
        assert counts.candidates_token_count == 1
        assert counts.total_token_count == counts.prompt_token_count + counts.thoughts_token_count + 1
        likely = await generate(
            model="gemini-2.5-flash",
            contents=QUESTION,
            config=genai_types.GenerateContentConfig(response_logprobs=True, logprobs=2),
        )
        assert likely.candidates is not None and likely.candidates[0].logprobs_result is not None
        [token] = likely.candidates[0].logprobs_result.chosen_candidates or ()
        assert token.token == "42"
        city = await generate(
            model="gemini-3.8-flash",
            contents=CITY_TEXT,
            config=genai_types.GenerateContentConfig(response_mime_type="application/json", response_json_schema=CITY),
        )
        assert json.loads(city.text or "") == {"city": "Oslo", "people": 700000}

    asyncio.run(with_gemini(Gemini(), use))


def test_every_field_of_a_gemini_reply_is_one_the_sdk_knows():
    """The SDK drops what it does not know; its types, asked directly, refuse it."""
    server = Gemini()

    async def use(generate: Generate) -> list[str]:
        bodies = []
        for fault in ("", "content_filter", "filtered_reply", "finish_error", "empty_choices"):
            if fault:
                server.fail_next(fault)
            reply = await generate(
                model="gemini-3.8-flash",
                contents=QUESTION,
                config=genai_types.GenerateContentConfig(should_return_http_response=True),
            )
            assert reply.sdk_http_response is not None and reply.sdk_http_response.body is not None
            bodies.append(reply.sdk_http_response.body)
        return bodies

    for body in asyncio.run(with_gemini(server, use)):
        checked(genai_types.GenerateContentResponse, json.loads(body))


GEMINI_ERRORS: tuple[tuple[str, type[genai_errors.APIError], int, str], ...] = (
    ("rate_requests", genai_errors.ClientError, 429, "RESOURCE_EXHAUSTED"),
    ("rate_day", genai_errors.ClientError, 429, "RESOURCE_EXHAUSTED"),
    ("no_money", genai_errors.ClientError, 402, "RESOURCE_EXHAUSTED"),
    ("overloaded", genai_errors.ServerError, 503, "UNAVAILABLE"),
    ("server_error", genai_errors.ServerError, 500, "INTERNAL"),
    ("context", genai_errors.ClientError, 400, "INVALID_ARGUMENT"),
    ("retired", genai_errors.ClientError, 404, "NOT_FOUND"),
)


@pytest.mark.parametrize(("fault", "kind", "code", "status"), GEMINI_ERRORS)
def test_the_genai_sdk_reads_the_error(fault: str, kind: type[genai_errors.APIError], code: int, status: str):
    server = Gemini()

    async def use(generate: Generate) -> None:
        server.fail_next(fault)
        with pytest.raises(kind) as caught:
            await generate(model="gemini-3.8-flash", contents=QUESTION)
        assert (caught.value.code, caught.value.status) == (code, status)
        assert caught.value.message

    asyncio.run(with_gemini(server, use))


def test_the_genai_sdk_reads_a_blocked_prompt_a_cut_reply_and_a_wrong_key():
    server = Gemini()

    async def use(generate: Generate) -> None:
        server.fail_next("content_filter")
        blocked = await generate(model="gemini-3.8-flash", contents=QUESTION)
        assert blocked.text is None and blocked.prompt_feedback is not None
        assert blocked.prompt_feedback.block_reason == genai_types.BlockedReason.PROHIBITED_CONTENT
        cut = await generate(
            model="gemini-3.8-flash",
            contents=QUESTION,
            config=genai_types.GenerateContentConfig(max_output_tokens=20),
        )
        assert cut.text is None and cut.candidates is not None
        assert cut.candidates[0].finish_reason == genai_types.FinishReason.MAX_TOKENS
        server.key = "another"
        with pytest.raises(genai_errors.ClientError, match="API key not valid"):
            await generate(model="gemini-3.8-flash", contents=QUESTION)

    asyncio.run(with_gemini(server, use))
