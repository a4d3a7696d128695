"""The vendors' own SDKs run a batch against the imitations: upload, create, poll, list, cancel, results."""

import asyncio
import io
import json
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse
from google import genai
from google.genai import types as genai_types
from openai.types import Batch, FileObject

from tests.r2.pool.dialects.test_vendor_sdks import (
    QUESTION,
    checked,
    unknown_fields,
    with_anthropic,
    with_azure,
    with_openai,
)
from tests.support.providers.anthropic import Anthropic
from tests.support.providers.azure import AzureWithBatches
from tests.support.providers.gemini import Gemini
from tests.support.providers.groq import Groq
from tests.support.providers.openai import OpenAI


def openai_lines(model: str, n: int, *, url: str = "/v1/chat/completions", **fields: Any) -> bytes:
    entries = []
    for index in range(n):
        message = {"role": "user", "content": f"What is {index} + 25?"}
        body = {"model": model, "messages": [message], **fields}
        entries.append({"custom_id": f"row-{index}", "method": "POST", "url": url, "body": body})
    return b"\n".join(json.dumps(entry).encode() for entry in entries)


@pytest.mark.parametrize(("make", "model"), [(OpenAI, "gpt-4.1-mini"), (Groq, "llama-3.3-70b-versatile")])
def test_the_openai_sdk_runs_a_batch(make: type[OpenAI], model: str):
    async def use(client: openai.AsyncOpenAI) -> None:
        stored = await client.files.create(file=("rows.jsonl", openai_lines(model, 5)), purpose="batch")
        assert unknown_fields(checked(FileObject, stored.model_dump())) == []
        made = await client.batches.create(
            input_file_id=stored.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"job": "mine"},
        )
        assert made.status == "validating" and made.metadata == {"job": "mine"}
        done = await client.batches.retrieve(made.id)
        assert unknown_fields(checked(Batch, done.model_dump())) == []
        assert done.status == "completed" and done.error_file_id is None and done.output_file_id is not None
        assert done.request_counts is not None and done.request_counts.completed == 5
        rows = [json.loads(line) for line in (await client.files.content(done.output_file_id)).text.splitlines()]
        answers = {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in rows}
        assert answers == {f"row-{index}": str(index + 25) for index in range(5)}
        assert [batch.id async for batch in client.batches.list(limit=1)] == [made.id]

    asyncio.run(with_openai(make(), use))


def test_the_openai_sdk_runs_a_batch_at_the_older_address_of_azure():
    async def use(client: openai.AsyncOpenAI) -> None:
        content = openai_lines("our-mini-batch", 3, url="/chat/completions")
        stored = await client.files.create(file=("rows.jsonl", content), purpose="batch")
        endpoint: Any = "/chat/completions"  # Azure's pages name it so, and the SDK's types do not
        made = await client.batches.create(input_file_id=stored.id, endpoint=endpoint, completion_window="24h")
        done = await client.batches.retrieve(made.id)
        assert (done.status, done.expires_at) == ("completed", None)
        assert done.output_file_id is not None
        assert len((await client.files.content(done.output_file_id)).text.splitlines()) == 3

    asyncio.run(with_azure(AzureWithBatches(), use))


def test_the_openai_sdk_sees_a_file_that_is_refused_whole_and_cancels_a_batch():
    server = OpenAI()
    assert server.batches is not None
    server.batches.terms.run_s = 1000.0

    async def use(client: openai.AsyncOpenAI) -> None:
        bad = openai_lines("gpt-4.1-mini", 2) + b"\n" + openai_lines("gpt-4.1-mini", 1)
        made = []
        for content in (bad, openai_lines("gpt-4.1-mini", 2)):
            stored = await client.files.create(file=("rows.jsonl", content), purpose="batch")
            made.append(
                await client.batches.create(
                    input_file_id=stored.id, endpoint="/v1/chat/completions", completion_window="24h"
                )
            )
        failed = await client.batches.retrieve(made[0].id)
        assert failed.status == "failed" and failed.errors is not None and failed.errors.data is not None
        assert [(error.code, error.line) for error in failed.errors.data] == [("duplicate_custom_id", 3)]
        await client.batches.retrieve(made[1].id)
        assert (await client.batches.cancel(made[1].id)).status == "cancelling"
        assert (await client.batches.retrieve(made[1].id)).status == "cancelled"
        pages = [batch.id async for batch in client.batches.list(limit=1)]
        assert pages == [made[1].id, made[0].id]

    asyncio.run(with_openai(server, use))


def test_the_anthropic_sdk_runs_a_batch():
    requests: list[Any] = [
        {
            "custom_id": f"row-{index}",
            "params": {
                "model": "claude-haiku-4-5",
                "max_tokens": 200,
                "messages": [{"role": "user", "content": f"What is {index} + 25?"}],
                **({"temperature": 5} if index == 3 else {}),
            },
        }
        for index in range(4)
    ]

    async def use(client: anthropic.AsyncAnthropic) -> None:
        made = await client.messages.batches.create(requests=requests)
        assert made.processing_status == "in_progress" and made.request_counts.processing == 4
        done = await client.messages.batches.retrieve(made.id)
        assert unknown_fields(checked(MessageBatch, done.model_dump())) == []
        assert done.processing_status == "ended"
        assert (done.request_counts.succeeded, done.request_counts.errored) == (3, 1)
        found = {}
        async for row in await client.messages.batches.results(made.id):
            row = checked(MessageBatchIndividualResponse, row.model_dump())
            assert set(unknown_fields(row)) <= {".result.error.error.details"}  # documented, and not in the types
            found[row.custom_id] = row.result
        assert {name: result.type for name, result in found.items()} == {
            "row-0": "succeeded",
            "row-1": "succeeded",
            "row-2": "succeeded",
            "row-3": "errored",
        }
        assert found["row-2"].message.content[0].text == "27"
        assert found["row-3"].error.error.type == "invalid_request_error"
        assert [batch.id async for batch in client.messages.batches.list(limit=1)] == [made.id]

    asyncio.run(with_anthropic(Anthropic(), use))


def test_the_genai_sdk_runs_a_batch_from_a_file_and_one_of_inline_requests():
    lines = [{"key": f"row-{i}", "request": {"contents": [{"parts": [{"text": QUESTION}]}]}} for i in range(3)]
    content = b"\n".join(json.dumps(entry).encode() for entry in lines)

    def use(client: genai.Client) -> None:
        stored = client.files.upload(
            file=io.BytesIO(content),
            config=genai_types.UploadFileConfig(display_name="rows", mime_type="application/jsonl"),
        )
        assert stored.name is not None and stored.size_bytes == len(content)
        made = client.batches.create(
            model="gemini-2.5-flash",
            src=stored.name,
            config=genai_types.CreateBatchJobConfig(display_name="mine"),
        )
        assert made.name is not None
        done = client.batches.get(name=made.name)
        assert done.state == genai_types.JobState.JOB_STATE_SUCCEEDED and done.display_name == "mine"
        assert done.dest is not None and done.dest.file_name is not None
        rows = [json.loads(line) for line in client.files.download(file=done.dest.file_name).splitlines()]
        assert [row["key"] for row in rows] == ["row-0", "row-1", "row-2"]
        replies = [genai_types.GenerateContentResponse.model_validate(row["response"]) for row in rows]
        assert [reply.text for reply in replies] == ["42"] * 3
        inline = client.batches.create(
            model="gemini-2.5-flash",
            src=[genai_types.InlinedRequest(contents=QUESTION)],
            config=genai_types.CreateBatchJobConfig(display_name="other"),
        )
        assert inline.name is not None
        done = client.batches.get(name=inline.name)
        assert done.dest is not None and done.dest.inlined_responses is not None
        [one] = done.dest.inlined_responses
        assert one.response is not None and one.response.text == "42"
        assert [job.display_name for job in client.batches.list()] == ["other", "mine"]

    async def run() -> None:
        async with Gemini() as server:
            root = server.base_url.removesuffix(server.route)
            off = {"verify": False}
            options = genai_types.HttpOptions(base_url=root, client_args=off, async_client_args=off)
            with genai.Client(api_key=server.key, http_options=options) as client:
                await asyncio.to_thread(use, client)

    asyncio.run(run())
