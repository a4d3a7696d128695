"""What our dialects send passes the vendors' own types, is taken by the imitations, and is billed as we read it."""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import aiohttp
import anthropic.types
import openai.types.chat
import openai.types.shared_params
import pytest
from anthropic.types import message_create_params
from google.genai import types as genai_types
from openai.types.chat import completion_create_params
from pydantic import TypeAdapter, ValidationError

from r2.ledger import LongContextPrice, Price, cost_usd
from r2.pool.client.dialects import DIALECTS, parse
from r2.pool.client.dialects.dialect import NoReply, Reply, Request
from r2.pool.client.endings import ending
from r2.pool.file.catalogue import facts_of, takes_sampling
from tests.support.providers import brain
from tests.support.providers.anthropic import Anthropic
from tests.support.providers.azure import Azure
from tests.support.providers.bill import PriceList, Rates
from tests.support.providers.gemini import Gemini
from tests.support.providers.imitation import Imitation
from tests.support.providers.openai import OpenAI
from tests.support.providers.openrouter import OpenRouter
from tests.support.providers.pool import Providers
from tests.support.providers.vllm import Vllm

CITY: Mapping[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 2}, "people": {"type": "integer", "minimum": 0}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
TURNS = (
    ("system", "Be short."),
    ("user", "My dog is called Rex."),
    ("assistant", "A good name."),
    ("user", "What is my dog?"),
)
SUM = (("user", "What is 17 + 25?"),)
EVERYTHING = Request(
    "m",
    TURNS,
    64,
    temperature=0.5,
    top_p=0.9,
    seed=3,
    stop=("END",),
    n_top_logprobs=5,
    schema=CITY,
    effort="low",
    cache_prefix=True,
)
LEAST = Request("m", SUM, 64)
NATURAL, CUT = (False, None), (True, None)


@contextmanager
def closed(*modules: ModuleType) -> Iterator[None]:
    """The dictionaries that these modules type refuse every key that they do not name."""
    config = {"extra": "forbid", "arbitrary_types_allowed": True}
    changed = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and hasattr(value, "__total__") and not hasattr(value, "__pydantic_config__")
    ]
    for each in changed:
        each.__pydantic_config__ = config  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for each in changed:
            if "__pydantic_config__" in vars(each):
                del each.__pydantic_config__  # type: ignore[attr-defined]


def read_whole(value: Any) -> Any:
    """pydantic checks the members of an Iterable only when they are read."""
    if isinstance(value, Mapping):
        return {key: read_whole(inner) for key, inner in value.items()}
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return value
    return [read_whole(inner) for inner in value]


def openai_types() -> TypeAdapter[Any]:
    with closed(openai.types.chat, openai.types.shared_params, completion_create_params):
        return TypeAdapter(completion_create_params.CompletionCreateParamsNonStreaming)


def anthropic_types() -> TypeAdapter[Any]:
    with closed(anthropic.types, message_create_params):
        return TypeAdapter(message_create_params.MessageCreateParamsNonStreaming)


@pytest.mark.parametrize("request_", [EVERYTHING, LEAST])
@pytest.mark.parametrize("name", ["openai", "azure", "compatible", "openrouter", "vllm"])
def test_our_chat_bodies_are_of_openais_types(name: str, request_: Request):
    body = DIALECTS[name].body(request_)
    assert read_whole(openai_types().validate_python(body)) == json.loads(json.dumps(body))


@pytest.mark.parametrize("request_", [EVERYTHING, LEAST])
def test_our_messages_are_of_anthropics_types(request_: Request):
    body = DIALECTS["anthropic"].body(request_)
    older = {name: body.pop(name) for name in ("temperature", "top_p") if name in body}
    assert read_whole(anthropic_types().validate_python(body)) == json.loads(json.dumps(body))
    assert bool(older) is (request_ is EVERYTHING), "the SDK has no name for what the older models still take"


@pytest.mark.parametrize("request_", [EVERYTHING, LEAST])
def test_our_contents_are_of_geminis_types(request_: Request):
    body = DIALECTS["gemini"].body(request_)
    assert set(body) <= {"contents", "generationConfig", "systemInstruction"}
    for content in body["contents"]:
        genai_types.Content.model_validate(content)
    if "systemInstruction" in body:
        genai_types.Content.model_validate(body["systemInstruction"])
    config = genai_types.GenerationConfig.model_validate(body["generationConfig"])
    assert config.max_output_tokens == 64
    named = config.model_dump(by_alias=True, exclude_none=True, mode="json")
    assert set(named) == set(body["generationConfig"])


def test_the_types_would_refuse_a_field_that_is_no_one_s():
    body = DIALECTS["openai"].body(LEAST)
    for wrong in ({**body, "max_output_tokens": 9}, {**body, "messages": [{"role": "model", "content": "x"}]}):
        with pytest.raises(ValidationError):
            read_whole(openai_types().validate_python(wrong))
    message = DIALECTS["anthropic"].body(LEAST)
    for wrong in ({**message, "seed": 3}, {**message, "output_config": {"format": {"type": "json_object"}}}):
        with pytest.raises(ValidationError):
            read_whole(anthropic_types().validate_python(wrong))
    with pytest.raises(ValidationError):
        genai_types.GenerationConfig.model_validate({"maxTokens": 9})


def price_of(prices: PriceList) -> Price:
    """The imitation's price list as a pool file states it."""

    def at(rates: Rates, **more: Any) -> Price:
        written = None if rates.cache_write == rates.input else float(rates.cache_write)
        numbers = (float(rates.input), float(rates.cached), float(rates.output))
        return Price(*numbers, "2026-11-26", "test", cache_write=written, **more)

    if prices.long is None or prices.long_above is None:
        return at(prices.base)
    return at(prices.base, long=(LongContextPrice(prices.long_above, at(prices.long)),))


class Sum:
    """What our ledger makes of the replies, beside what the imitation billed."""

    def __init__(self, server: Imitation) -> None:
        self.server = server
        self.dialect = DIALECTS[server.name]
        self.usd = 0.0

    async def ask(self, session: aiohttp.ClientSession, request: Request, endpoint: str = "") -> Reply | NoReply:
        url = self.dialect.url(endpoint or self.server.base_url, request.model)
        headers = self.dialect.headers(self.server.key)
        async with session.post(url, json=self.dialect.body(request), headers=headers) as response:
            document = await response.json()
            assert response.status == 200, document
        reply = parse(document)
        if isinstance(reply, Reply) and reply.usage is not None:
            self.usd += cost_usd(price_of(self.server.models[request.model].prices), reply.usage)
        return reply

    def check(self) -> None:
        """Equal to the last micro-dollar, and further."""
        assert self.usd == pytest.approx(float(self.server.bill_usd), abs=1e-9)
        assert self.usd > 0


def of_catalogue(provider: str, model: str, messages: tuple[tuple[str, str], ...], **fields: Any) -> Request:
    """A request that leaves out what our own table says the model refuses."""
    facts = facts_of(provider, model)
    effort = fields.pop("effort", None)
    sampled = takes_sampling(facts, effort)
    return Request(
        model,
        messages,
        fields.pop("max_output_tokens", 4096),
        temperature=0.3 if sampled else None,
        seed=3,
        stop=("THE END",) if facts.stop else (),
        n_top_logprobs=3 if facts.logprobs and sampled else 0,
        effort=effort,
        limit_field=facts.limit_field or "",
        **fields,
    )


KNOWN = [
    (make, model.name)
    for make in (OpenAI, Anthropic, Gemini)
    for model in make.default_models()
    if facts_of(make.name, model.name).context_tokens
]


@pytest.mark.parametrize(("make", "model"), KNOWN)
def test_a_request_by_our_table_is_taken_with_every_effort_of_the_model(make: type[Imitation], model: str):
    server = make()
    total = Sum(server)

    async def run() -> None:
        async with server, aiohttp.ClientSession() as session:
            for effort in (None, *facts_of(make.name, model).efforts):
                reply = await total.ask(session, of_catalogue(make.name, model, SUM, effort=effort))
                assert isinstance(reply, Reply) and (reply.text, ending(reply.finish_reason)) == ("42", NATURAL)
            recalled = await total.ask(session, of_catalogue(make.name, model, TURNS))
            assert isinstance(recalled, Reply) and recalled.text == "Rex"
            city = (("user", "City: Oslo. People: 700000."),)
            reply = await total.ask(session, of_catalogue(make.name, model, city, schema=CITY))
            assert isinstance(reply, Reply) and json.loads(reply.text) == {"city": "Oslo", "people": 700000}

    asyncio.run(run())
    total.check()


def test_every_model_of_openai_anthropic_and_gemini_that_is_imitated_is_in_our_table():
    assert len(KNOWN) == sum(len(make.default_models()) for make in (OpenAI, Anthropic, Gemini))


OTHERS = [(make, model.name) for make in (Azure, OpenRouter, Vllm) for model in make.default_models()]


@pytest.mark.parametrize(("make", "model"), OTHERS)
def test_the_compatible_ones_take_our_bodies_too(make: type[Imitation], model: str):
    server = make()
    total = Sum(server)
    thinks = model == "our-thinker"
    fields: dict[str, Any] = {} if thinks else {"temperature": 0.3, "stop": ("THE END",), "n_top_logprobs": 3}

    async def run() -> None:
        async with server, aiohttp.ClientSession() as session:
            reply = await total.ask(session, Request(model, SUM, 4096, seed=3, **fields))
            assert isinstance(reply, Reply) and (reply.text, ending(reply.finish_reason)) == ("42", NATURAL)
            assert reply.thinking.startswith("Step 0") or model not in ("qwen3-8b", "qwen3-8b-raw")
            if isinstance(server, Azure):
                classic = await total.ask(session, Request(model, TURNS, 4096), server.classic_url)
                assert isinstance(classic, Reply) and classic.text == "Rex"

    asyncio.run(run())
    total.check()


def test_every_provider_s_count_of_cache_and_thinking_is_read_to_the_micro_dollar():
    """A long prompt twice (written, then read), a limit spent on thinking, an answer cut, and a refusal."""
    models = {
        "openai": "gpt-6-luna",
        "anthropic": "claude-haiku-5-5",
        "gemini": "gemini-3.8-flash",
        "azure": "our-thinker",
        "openrouter": "anthropic/claude-sonnet-5.5",
        "vllm": "qwen3-8b",
    }
    long = (("system", "You know the rules of this house. " * 400), ("user", "What is 17 + 25?"))
    summary = (("user", "Summarise in six paragraphs: Rain fell. The river rose. People left. Nobody was hurt."),)

    async def run() -> None:
        async with Providers() as providers, aiohttp.ClientSession() as session:
            for name, model in models.items():
                server = providers.by_name[name]
                total = Sum(server)
                for _ in range(2):
                    reply = await total.ask(session, Request(model, long, 4096, cache_prefix=True))
                    assert isinstance(reply, Reply) and reply.text == "42"
                assert reply.usage is not None
                assert (reply.usage.cached_input_tokens > 1024) is (name != "vllm"), name
                spent = await total.ask(session, Request(model, SUM, 20))
                assert isinstance(spent, Reply) and (spent.text, ending(spent.finish_reason)) == ("", CUT), name
                assert spent.usage is not None and spent.usage.output_tokens == 20
                whole = await total.ask(session, Request(model, summary, 4096))
                assert isinstance(whole, Reply) and whole.text.endswith(brain.LAST_WORDS)
                if name != "vllm":
                    server.fail_next("refusal" if name != "gemini" else "content_filter")
                    refused = await total.ask(session, Request(model, SUM, 4096))
                    assert isinstance(refused, Reply), name
                    assert refused.is_refused or ending(refused.finish_reason)[1] == "content_filter", name
                total.check()
            assert providers.bill_usd == sum(one.bill_usd for one in providers.by_name.values())

    asyncio.run(run())


def test_a_long_prompt_is_billed_at_the_long_price_by_both():
    words = "".join(f" {letter}bcde" for letter in "abcdefghij") * 11_000
    server = Anthropic()
    total = Sum(server)

    async def run() -> None:
        async with server, aiohttp.ClientSession() as session:
            reply = await total.ask(session, Request("claude-haiku-5-5", (("user", f"{words} 1 + 1"),), 900))
            assert isinstance(reply, Reply) and reply.usage is not None and reply.usage.input_tokens > 100_000
            await total.ask(session, Request("claude-haiku-5-5", SUM, 900))

    asyncio.run(run())
    total.check()


def test_log_probabilities_are_read_from_each_that_gives_them():
    for make, model in ((OpenAI, "gpt-4.1-mini"), (Gemini, "gemini-2.5-flash"), (Vllm, "llama-3.1-8b")):
        server = make()

        async def run(server: Imitation = server, model: str = model) -> Reply | NoReply:
            async with server, aiohttp.ClientSession() as session:
                return await Sum(server).ask(session, Request(model, SUM, 4096, n_top_logprobs=3))

        reply = asyncio.run(run())
        assert isinstance(reply, Reply)
        [token] = reply.token_logprobs
        assert token.token == "42" and -1 < token.logprob < 0 and len(token.alternatives) == 3
