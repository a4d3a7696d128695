"""A trained policy with full weights as an OpenAI-compatible server, in a process of its own: `python -m
r2.training.server --policy DIR`.

Requests that wait are answered as one batch (`decoding.py`); each is sent the moment its own text ends. A seed that is
not given counts as 0, so the same request has the same answer. One torch thread unless told: small models lose time to
a second one. The pool starts it for `policy:` entries (`r2/pool/servers/endpoints.py`); adapters on catalogue weights
go to llama.cpp instead.
"""

import argparse
import asyncio
import signal
import sys
import time
import uuid
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from r2.errors import ConfigError, R2Error
from r2.lifeline import die_with_parent
from r2.policies.registry import CARD, Registry

GATHER_S = 0.004
"""How long the first request of a batch waits for company."""
MAX_BATCH = 128
MAX_BATCH_TOKENS = 32_768
"""Rows times their longest prompt and reply: bounds the cache's memory."""
DEFAULT_MAX_TOKENS = 256


class BadRequest(Exception):
    """Answered with HTTP 400 and its text."""


class PolicyServer:
    """The handlers and the queue. `model` and `tokenizer` are transformers'; `name` is what the policy is called in
    replies."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        if not tokenizer.chat_template:
            raise ConfigError(f"policy {name}: its tokenizer has no chat template; save the one it was trained with.")
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.context_tokens = int(model.config.max_position_embeddings)
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self.end_ids = sorted({int(end) for end in (*ends, tokenizer.eos_token_id) if end is not None})
        self.token_text = lru_cache(maxsize=65536)(
            lambda token: str(tokenizer.decode([token], skip_special_tokens=True))
        )
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self._has_work = asyncio.Event()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.list_models)
        app.router.add_get("/health", self.health)
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def list_models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.name, "object": "model"}]})

    async def chat(self, request: web.Request) -> web.Response:
        try:
            prompt = self.read(await request.read())
        except BadRequest as error:
            return web.json_response({"error": {"message": str(error), "type": "bad_request"}}, status=400)
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((prompt, answered))
        self._has_work.set()
        try:
            reply = await answered
        except Exception as error:
            sys.stderr.write(f"{self.name}: a batch failed: {error!r}\n")
            return web.json_response({"error": {"message": repr(error), "type": "server_error"}}, status=500)
        return web.Response(body=orjson.dumps(self.document(prompt, reply)), content_type="application/json")

    def read(self, body: bytes) -> Any:
        """The request as a prompt to decode. BadRequest for what it does not say or this server does not do."""
        from r2.training.decoding import GenerationRequest

        try:
            asked = orjson.loads(body)
            messages = [{"role": str(m["role"]), "content": m["content"]} for m in asked["messages"]]
            if not messages or not all(isinstance(m["content"], str) for m in messages):
                raise BadRequest("messages: expected a list of messages whose content is text")
            limit = int(asked.get("max_tokens") or asked.get("max_completion_tokens") or DEFAULT_MAX_TOKENS)
            temperature, seed = float(asked.get("temperature") or 0), int(asked.get("seed") or 0)
            n_top = int(asked.get("top_logprobs") or 0) if asked.get("logprobs") else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadRequest(f"not a chat completion request with text messages: {error!r}") from error
        for field, only in (("stream", (None, False)), ("n", (None, 1)), ("response_format", (None, {"type": "text"}))):
            if asked.get(field) not in only:
                raise BadRequest(
                    f"{field} = {asked[field]!r}: this server does not do that (guided = false, no streams)"
                )
        if limit < 1 or not 0 <= temperature <= 100 or not 0 <= (n_top or 0) <= 20:
            raise BadRequest("expected max_tokens >= 1, temperature >= 0 and top_logprobs 0..20")
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) >= self.context_tokens:
            raise BadRequest(f"maximum context length is {self.context_tokens} tokens, the prompt has {len(ids)}")
        return GenerationRequest(ids, min(limit, self.context_tokens - len(ids)), temperature, seed % 2**63, n_top)

    def document(self, prompt: Any, reply: Any) -> dict[str, Any]:
        """The chat completion as OpenAI words it."""
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": self.tokenizer.decode(reply.ids, skip_special_tokens=True)},
            "finish_reason": "length" if reply.is_cut else "stop",
        }
        if prompt.n_top is not None:
            choice["logprobs"] = {
                "content": [
                    {
                        "token": self.token_text(token),
                        "logprob": logprob,
                        "top_logprobs": [
                            {"token": self.token_text(other), "logprob": value} for other, value in listed
                        ],
                    }
                    for token, logprob, listed in zip(reply.ids, reply.logprobs, reply.alternatives, strict=True)
                ]
            }
        return {
            "id": f"policy-{uuid.uuid4().hex[:16]}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.name,
            "choices": [choice],
            "usage": {
                "prompt_tokens": len(prompt.ids),
                "completion_tokens": reply.n_generated,
                "total_tokens": len(prompt.ids) + reply.n_generated,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
        }

    async def work(self) -> None:
        """Batch after batch, until cancelled. A batch that fails fails its own requests only."""
        while True:
            await self._has_work.wait()
            if len(self._waiting) < MAX_BATCH:
                await asyncio.sleep(GATHER_S)
            batch = self._take()
            if not self._waiting:
                self._has_work.clear()
            if batch:
                await asyncio.to_thread(self._decode, batch, asyncio.get_running_loop())

    def _take(self) -> list[tuple[Any, "asyncio.Future[Any]"]]:
        """As many of the longest waiting as fit; requests whose clients have gone are dropped."""
        waiting = [(prompt, answered) for prompt, answered in self._waiting if not answered.done()]
        size = longest = 0
        for prompt, _ in waiting[:MAX_BATCH]:
            longest = max(longest, len(prompt.ids) + prompt.max_new_tokens)
            if size and (size + 1) * longest > MAX_BATCH_TOKENS:
                break
            size += 1
        self._waiting = waiting[size:]
        return waiting[:size]

    def _decode(self, batch: list[tuple[Any, "asyncio.Future[Any]"]], loop: asyncio.AbstractEventLoop) -> None:
        from r2.training.decoding import Generation, decode

        def settle(answered: "asyncio.Future[Any]", reply: object) -> None:
            if not answered.done():
                answered.set_exception(reply) if isinstance(reply, Exception) else answered.set_result(reply)

        def on_reply(index: int, reply: Generation) -> None:
            loop.call_soon_threadsafe(settle, batch[index][1], reply)

        try:
            decode(self.model, [prompt for prompt, _ in batch], self.end_ids, on_reply)
        except Exception as error:
            for _, answered in batch:
                loop.call_soon_threadsafe(settle, answered, error)


async def run(server: PolicyServer, host: str, port: int) -> None:
    """Serves until SIGINT or SIGTERM; prints `listening <base URL>` once it can be called."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
    await runner.setup()
    worker = asyncio.create_task(server.work())
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
        print(f"listening http://{host}:{runner.addresses[0][1]}/v1", flush=True)
        await stop.wait()
    finally:
        worker.cancel()
        await runner.cleanup()


def load_server(folder: Path, models_dir: Path) -> PolicyServer:
    """From a version's folder, or any folder of Hugging Face weights with a chat template. ConfigError if it holds
    neither."""
    from r2.training.base import load_policy_weights

    policy = Registry(folder.parent).load(folder) if (folder / CARD).exists() else None
    base, name = (policy.card.base, policy.ref) if policy is not None else ("", folder.name)
    started = time.monotonic()
    model, tokenizer = load_policy_weights(folder, base, models_dir)
    n_parameters = sum(p.numel() for p in model.parameters())
    sys.stderr.write(f"{name}: {n_parameters / 1e6:.2f} M parameters loaded in {time.monotonic() - started:.1f} s\n")
    return PolicyServer(model, tokenizer, name)


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(prog="python -m r2.training.server", description="Serve a trained policy.")
    parser.add_argument("--policy", type=Path, required=True, help="folder of one version")
    parser.add_argument("--models-dir", type=Path, default=Path("models"), help="where an adapter's base is")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; the address is printed")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    sys.stderr.write(f"loading {given.policy}; the first start on a machine takes some seconds\n")
    import torch

    torch.set_num_threads(given.threads)

    async def serve() -> None:
        await run(load_server(given.policy, given.models_dir), given.host, given.port)

    try:
        asyncio.run(serve())
    except R2Error as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    die_with_parent()
    main()
