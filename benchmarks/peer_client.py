"""One of the other clients, measured in its own environment, which has none of ours: `peer_client.py NAME BASE_URL N`.

Prints [requests per second, microseconds of CPU per request]. Retries and caches are off, so that a request is a
request.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from in_flight import IN_FLIGHT, MAX_TOKENS, Clock, collect_seldom, measure, message

KEY = "none-is-needed"
Figures = tuple[float, float]


def _messages(number: int) -> list[Any]:
    return [{"role": "user", "content": message(number)}]


def openai_sdk(base_url: str, n: int) -> Callable[[], Awaitable[Figures]]:
    import openai

    async def main() -> Figures:
        async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:

            async def one(number: int) -> None:
                completion = await client.chat.completions.create(
                    model="served", messages=_messages(number), temperature=0.0, max_tokens=MAX_TOKENS
                )
                assert completion.choices[0].message.content

            return await measure(one, n)

    return main


def litellm(base_url: str, n: int) -> Callable[[], Awaitable[Figures]]:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    async def one(number: int) -> None:
        completion = await litellm.acompletion(
            model="openai/served",
            api_base=base_url,
            api_key=KEY,
            messages=_messages(number),
            temperature=0.0,
            max_tokens=MAX_TOKENS,
            max_retries=0,
        )
        assert completion.choices[0].message.content

    return lambda: measure(one, n)


def litellm_router(base_url: str, n: int) -> Callable[[], Awaitable[Figures]]:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    from litellm import Router

    entry = {
        "model_name": "served",
        "litellm_params": {"model": "openai/served", "api_base": base_url, "api_key": KEY, "rpm": 6_000_000},
    }

    async def main() -> Figures:
        router = Router(model_list=[entry], num_retries=0)

        async def one(number: int) -> None:
            completion = await router.acompletion(
                model="served", messages=_messages(number), temperature=0.0, max_tokens=MAX_TOKENS
            )
            assert completion.choices[0].message.content

        return await measure(one, n)

    return main


def inspect_ai(base_url: str, n: int) -> Callable[[], Awaitable[Figures]]:
    from inspect_ai.model import GenerateConfig, get_model

    async def main() -> Figures:
        config = GenerateConfig(max_connections=IN_FLIGHT, max_retries=0, temperature=0.0, max_tokens=MAX_TOKENS)
        model = get_model(
            "openai/served", base_url=base_url, api_key=KEY, config=config, memoize=False, responses_api=False
        )
        async with model:

            async def one(number: int) -> None:
                output = await model.generate(message(number))
                assert output.completion

            return await measure(one, n)

    return main


def curator(base_url: str, n: int) -> Figures:
    """Takes a list of prompts and runs them with a loop of its own. Its backend for OpenAI fetches a tokenizer when it
    starts; that of litellm needs none."""
    os.environ.update(
        {
            "OPENAI_API_KEY": KEY,
            "TELEMETRY_ENABLED": "false",
            "CURATOR_DISABLE_CACHE": "true",
            "CURATOR_DISABLE_RICH_DISPLAY": "1",
        }
    )
    from bespokelabs import curator

    llm = curator.LLM(
        model_name="openai/served",
        backend="litellm",
        backend_params={
            "base_url": base_url,
            "max_concurrent_requests": IN_FLIGHT,
            "max_requests_per_minute": 6_000_000,
            "max_tokens_per_minute": 10_000_000_000,
            "max_retries": 0,
        },
        generation_params={"temperature": 0.0, "max_tokens": MAX_TOKENS},
    )
    llm([message(number) for number in range(2 * IN_FLIGHT)])
    clock = Clock()
    answers = llm([message(number) for number in range(2 * IN_FLIGHT, 2 * IN_FLIGHT + n)])
    figures = clock.per_request(n)
    assert len(answers.dataset) == n
    return figures


LOOPED = {
    "openai SDK": openai_sdk,
    "litellm": litellm,
    "litellm Router": litellm_router,
    "inspect_ai": inspect_ai,
}
"""Those whose caller chooses the event loop."""


def main() -> None:
    name, base_url, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if name not in LOOPED:
        figures = curator(base_url, n)
    else:
        import uvloop

        run = LOOPED[name](base_url, n)  # imports, before the heap is frozen
        collect_seldom()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(run())
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
