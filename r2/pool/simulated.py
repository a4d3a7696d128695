"""An OpenAI-compatible server of simulated models, with faults on demand and a log of all it was asked: for demos, tests and load.

One server serves every `simulated:NAME` entry of a pool file, chosen by the request's `model`. What is answered is decided in
`simulated_mind`; here are HTTP, latency, faults and counts. An entry's `simulated` table: `ability` (required), `ttft_s` (seconds to the first
token), `tokens_per_s` (0: no time per token). As a script this module is the server's own process; it ends with its parent.
"""

import argparse
import asyncio
import hashlib
import math
import random
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from email.utils import format_datetime
from datetime import UTC, datetime, timedelta
from io import BufferedWriter
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from r2.errors import EndpointError, PoolFileError
from r2.pool.config import PoolConfig, endpoint_kind, load_pool
from r2.pool.lifeline import die_with_parent, end, spawn
from r2.pool.simulated_mind import Thought, think

FAULTS = {
    "rate_limited_seconds": "429 with Retry-After in seconds",
    "rate_limited_date": "429 with Retry-After as an HTTP date",
    "rate_limited_ms": "429 with retry-after-ms",
    "rate_limited_bare": "429 that does not say for how long",
    "server_error": "500",
    "hang": "no answer until the client gives up",
    "cut_body": "the connection is closed in the middle of the body",
    "wrong_json": "200 with a body that is no JSON",
    "no_usage": "an answer without its token counts",
    "slow_bytes": "an answer that trickles in over ten seconds",
}
"""Keys of a pool file's [simulated_faults] table: share of requests that meet each fault, drawn anew for a repeated request."""

_WORD = re.compile(r"\w+|[^\w\s]")
_LETTER = re.compile(r'("model": ")([A-Za-z])(")')
_FLUSH_S = 0.2


def count_tokens(text: str) -> int:
    """The simulated tokenizer: a token per word and per punctuation mark."""
    return len(_WORD.findall(text))


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    ability: float
    ttft_s: float = 0.0
    tokens_per_s: float = 0.0

    def delay_s(self, output_tokens: int) -> float:
        return self.ttft_s + (output_tokens / self.tokens_per_s if self.tokens_per_s else 0.0)


class SimulatedServer:
    """The request handlers and their counts."""

    def __init__(self, models: Mapping[str, SimulatedModel], faults: Mapping[str, float], seed: int, log: BufferedWriter | None) -> None:
        self.models = models
        self.faults = faults
        self.seed = seed
        self.log = log
        self.by_model: dict[str, Counter[str]] = {name: Counter() for name in models}
        self.times_seen: Counter[bytes] = Counter()
        self.times_completed: Counter[bytes] = Counter()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.list_models)
        app.router.add_get("/health", self.health)
        app.router.add_get("/stats", self.stats)
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def list_models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def stats(self, request: web.Request) -> web.Response:
        """Counts by model, and in total the completed answers and how many of them repeat an earlier one."""
        total: Counter[str] = Counter()
        for counts in self.by_model.values():
            total.update(counts)
        completed = sum(self.times_completed.values())
        total |= Counter({"requests": 0, "completed": 0})
        facts = {**total, "completed": completed, "duplicates": completed - len(self.times_completed)}
        return web.json_response({"total": facts, "by_model": self.by_model})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        arrived = time.time()
        try:
            body = orjson.loads(await request.read())
            name, messages = body["model"], [(m["role"], m["content"]) for m in body["messages"]]
            model = self.models[name]
        except (ValueError, KeyError, TypeError) as error:
            return _error(400, f"not a chat completion request for one of {', '.join(self.models)}: {error!r}")
        key = hashlib.blake2b(orjson.dumps([name, messages, body.get("seed"), body.get("max_tokens")]), digest_size=16).digest()
        self.times_seen[key] += 1
        self.by_model[name]["requests"] += 1
        fault = self._fault(key)
        thought = think(name, model.ability, messages, int(body.get("seed") or 0), self.seed)
        reply = _reply(name, messages, thought, body)
        if fault is not None:
            self.by_model[name][fault] += 1
        status, is_completed = 200, False
        try:
            if fault is not None and fault.startswith("rate_limited"):
                status = 429
                return _rate_limited(fault)
            if fault == "server_error":
                status = 500
                return _error(500, "simulated: internal error")
            if delay_s := model.delay_s(reply["usage"]["completion_tokens"]):
                await asyncio.sleep(delay_s)
            if fault == "hang":
                await asyncio.sleep(3600)
            response = await self._send(request, reply, fault)
            is_completed = fault not in ("cut_body", "wrong_json")
            if is_completed:
                self.times_completed[key] += 1
                self.by_model[name]["completed"] += 1
            return response
        finally:
            if self.log is not None:
                usage = reply["usage"] if status == 200 else {"prompt_tokens": 0, "completion_tokens": 0}
                entry = {
                    "time": arrived, "model": name, "key": key.hex(), "status": status, "fault": fault, "completed": is_completed,
                    "input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"],
                }  # fmt: skip
                self.log.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))

    def _fault(self, key: bytes) -> str | None:
        if not self.faults:
            return None
        draw = random.Random(key + self.times_seen[key].to_bytes(4, "little") + self.seed.to_bytes(8, "little")).random()
        for fault, share in self.faults.items():
            draw -= share
            if draw < 0:
                return fault
        return None

    async def _send(self, request: web.Request, reply: dict[str, Any], fault: str | None) -> web.StreamResponse:
        if fault == "no_usage":
            reply = {key: value for key, value in reply.items() if key != "usage"}
        content = orjson.dumps(reply)
        if fault == "wrong_json":
            content = content[: len(content) // 2]
        if fault in ("cut_body", "slow_bytes"):
            response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(content))})
            await response.prepare(request)
            if fault == "cut_body":
                await response.write(content[: len(content) // 2])
                if request.transport is not None:
                    request.transport.close()
                return response
            for at in range(0, len(content), max(1, len(content) // 10)):
                await response.write(content[at : at + max(1, len(content) // 10)])
                await asyncio.sleep(1.0)
            await response.write_eof()
            return response
        whole = web.Response(body=content, content_type="application/json")
        await whole.prepare(request)
        await whole.write_eof()
        return whole


def _reply(name: str, messages: list[tuple[str, str]], thought: Thought, body: Mapping[str, Any]) -> dict[str, Any]:
    text, finish_reason = thought.text, "stop"
    words = list(_WORD.finditer(text))
    limit = int(body.get("max_tokens") or len(words) or 1)
    if len(words) > limit:
        text, finish_reason = text[: words[limit - 1].end()], "length"
    n_in, n_out = sum(count_tokens(content) + 4 for _, content in messages), min(len(words), limit)
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": _logprobs(text, thought)}
    return {
        "id": f"sim-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": [choice],
        "usage": {"prompt_tokens": n_in, "completion_tokens": n_out, "total_tokens": n_in + n_out},
    }


def _logprobs(text: str, thought: Thought) -> list[dict[str, Any]]:
    """Tokens with log-probabilities: the letters of an allocation carry their alternatives, everything else was certain."""
    entries: list[dict[str, Any]] = []
    at = 0
    for match, probabilities in zip(_LETTER.finditer(text), thought.letter_probabilities, strict=False):
        entries.append({"token": text[at : match.start(2)], "logprob": 0.0, "top_logprobs": []})
        listed = sorted(((letter, math.log(max(p, 1e-12))) for letter, p in probabilities.items()), key=lambda item: -item[1])
        entries.append(
            {
                "token": match[2],
                "logprob": math.log(max(probabilities.get(match[2], 1e-12), 1e-12)),
                "top_logprobs": [{"token": letter, "logprob": logprob} for letter, logprob in listed],
            }
        )
        at = match.end(2)
    entries.append({"token": text[at:], "logprob": 0.0, "top_logprobs": []})
    return entries


def _rate_limited(fault: str) -> web.Response:
    headers = {
        "rate_limited_seconds": {"Retry-After": "1"},
        "rate_limited_date": {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)},
        "rate_limited_ms": {"retry-after-ms": "120"},
    }.get(fault, {})
    return _error(429, f"simulated: {fault}", headers)


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "simulated", "code": status}}, status=status, headers=headers)


def simulated_models(pool: PoolConfig) -> dict[str, SimulatedModel]:
    """NAME of each `simulated:NAME` entry -> its parameters. PoolFileError for parameters we do not know or miss."""
    models = {}
    for name, table in pool.models.items():
        if endpoint_kind(table.endpoint) == "simulated":
            try:
                models[table.endpoint.partition(":")[2]] = SimulatedModel(**table.simulated)
            except TypeError as error:
                raise PoolFileError(f"{pool.path}: models.{name}.simulated: {error}. Known: ability, ttft_s, tokens_per_s.") from None
    if unknown := sorted(set(pool.tables.simulated_faults) - set(FAULTS)):
        raise PoolFileError(f"{pool.path}: simulated_faults.{unknown[0]}: unknown fault. Known: {', '.join(FAULTS)}.")
    return models


async def run(pool: PoolConfig, host: str, port: int, seed: int, log_path: Path | None) -> None:
    """Serves until cancelled; prints `listening <base URL>` once it can be called."""
    log = log_path.open("ab") if log_path is not None else None
    server = SimulatedServer(simulated_models(pool), pool.tables.simulated_faults, seed, log)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, host, port, backlog=1024)
    await site.start()
    bound = runner.addresses[0][1]
    print(f"listening http://{host}:{bound}/v1", flush=True)
    try:
        while True:
            await asyncio.sleep(_FLUSH_S)
            if log is not None:
                log.flush()
    finally:
        await runner.cleanup()
        if log is not None:
            log.close()


def serve(pool: PoolConfig, *, host: str = "127.0.0.1", port: int = 8100, seed: int = 0, log_path: Path | None = None) -> None:
    """`run`, from a command, until Ctrl-C or SIGTERM."""
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        asyncio.run(run(pool, host, port, seed, log_path))


@asynccontextmanager
async def start_simulated(pool: PoolConfig, *, seed: int = 0, log_path: Path | None = None) -> AsyncIterator[str]:
    """The base URL of a server in a process of its own, which ends with the block and, whatever happens, with this process."""
    simulated_models(pool)
    args = [sys.executable, "-m", "r2.pool.simulated", "--pool", str(pool.path), "--seed", str(seed)]
    if log_path is not None:
        args += ["--log", str(log_path)]
    process = spawn(args, stdout=-1)
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 60)
        if not line.startswith(b"listening "):
            raise EndpointError(f"{pool.path}: the simulated server ended at start; run `r2 pool serve --pool {pool.path}` to see why")
        yield line.split()[1].decode()
    finally:
        await asyncio.to_thread(end, process, 5.0)


if __name__ == "__main__":
    die_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path)
    chosen = parser.parse_args()
    serve(load_pool(chosen.pool), port=chosen.port, seed=chosen.seed, log_path=chosen.log)
