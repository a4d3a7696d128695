"""A server on this machine that answers with replies made elsewhere, or writes down what it is asked: what
`record.py --replies` and `--asked` put in the place of a pool's local models.

It speaks as much of the OpenAI-compatible API as the pool client sends. A request that has no reply is refused, and
counted.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from r2.errors import InputFileError
from r2.pool.file.config import PoolConfig

Key = tuple[str, str]
"""(weights, messages as JSON)."""


def key_of(weights: str, messages: object) -> Key:
    return weights, json.dumps(messages, sort_keys=True)


def read_replies(path: Path) -> dict[Key, dict[str, Any]]:
    """By what was asked. InputFileError for no file, or a line that is no reply."""
    if not path.is_file():
        raise InputFileError(f"{path}: no such file. benchmarks/gguf_replies.py makes it.")
    found = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            reply = json.loads(line)
            found[key_of(reply["weights"], reply["messages"])] = reply
            _ = reply["text"], reply["tokens"], reply["logprobs"], reply["end"], reply["input_tokens"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputFileError(f"{path}:{number}: no reply of benchmarks/gguf_replies.py ({error!r}).") from error
    return found


class Replies:
    """`asked` gets each request once, in their order; `known` answers them, None: nobody does."""

    def __init__(self, known: Mapping[Key, dict[str, Any]] | None) -> None:
        self.known = known
        self.asked: dict[Key, dict[str, Any]] = {}
        self.n_without = 0

    async def answer(self, request: web.Request) -> web.Response:
        weights, body = request.match_info["weights"], await request.json()
        key = key_of(weights, body["messages"])
        limit = int(body["max_tokens"])
        one = self.asked.setdefault(key, {"weights": weights, "messages": body["messages"], "max_tokens": limit})
        one["max_tokens"] = max(one["max_tokens"], limit)
        if self.known is None:
            return web.json_response(completion(weights, NOTHING, limit))
        reply = self.known.get(key)
        if reply is None or body.get("temperature") or (reply["end"] == "length" and len(reply["tokens"]) < limit):
            self.n_without += 1
            message = f"no reply of {weights} to this request: it was not asked there, or with a lower limit"
            return web.json_response({"error": {"message": message}}, status=400)
        return web.json_response(completion(weights, reply, limit))


NOTHING: dict[str, Any] = {"text": "0", "tokens": ["0"], "logprobs": [0.0], "end": "stop", "input_tokens": 1}


def completion(weights: str, reply: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """The reply as a chat completion; one that is longer than `limit` tokens is cut there."""
    tokens, is_cut = reply["tokens"][:limit], len(reply["tokens"]) > limit
    content = [
        {"token": token, "logprob": logprob, "top_logprobs": [{"token": token, "logprob": logprob}]}
        for token, logprob in zip(tokens, reply["logprobs"], strict=False)
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(tokens) if is_cut else reply["text"]},
        "finish_reason": "length" if is_cut else reply["end"],
        "logprobs": {"content": content},
    }
    usage = {
        "prompt_tokens": reply["input_tokens"],
        "completion_tokens": len(tokens),
        "total_tokens": reply["input_tokens"] + len(tokens),
        "prompt_tokens_details": {"cached_tokens": reply.get("cached_tokens", 0)},
    }
    return {"id": "reply", "object": "chat.completion", "model": weights, "choices": [choice], "usage": usage}


@asynccontextmanager
async def in_place_of_local(pool: PoolConfig, replies: Replies) -> AsyncIterator[PoolConfig]:
    """The pool with its `local:` entries at a server that answers with these replies; it ends with the block."""
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/{weights}/v1/chat/completions", replies.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        moved = {}
        for name, model in pool.models.items():
            kind, _, weights = model.endpoint.partition(":")
            if kind == "local":
                moved[name] = model.model_copy(
                    update={"endpoint": f"{address}/{weights}/v1", "served_model": weights, "stream": False}
                )
        tables = pool.tables.model_copy(update={"models": {**pool.models, **moved}})
        yield PoolConfig(pool.path, tables, pool.text, pool.policies, pool.policies_dir)
    finally:
        await runner.cleanup()
