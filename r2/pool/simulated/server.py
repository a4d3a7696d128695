"""The HTTP side of the simulated models: an OpenAI-compatible server with latency, faults, counts and a log of all it
was asked.

One server serves every `simulated:NAME` entry of a pool file, chosen by the request's `model`. What is answered is
decided in `simulated_mind`, what goes wrong in `simulated_faults`; `simulated` runs the server in a process of its own.
"""

import asyncio
import hashlib
import math
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from io import BufferedWriter
from typing import Any

import orjson
from aiohttp import web

from r2.errors import PoolFileError
from r2.pool.file.config import PoolConfig, endpoint_kind
from r2.pool.simulated.faults import OVER_LIMIT, SLOW_BYTES_S, MinuteWindow, check_faults, draw_fault, refusal
from r2.pool.simulated.mind import CERTAINTY_NOISE, SKILLS, Thought, think

_WORD = re.compile(r"\w+|[^\w\s]")
_LETTER = re.compile(r'("model": ")([A-Za-z])(")')


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """An entry's `simulated` table. `ability` is on the scale of `simulated_mind`, `ttft_s` the time to the first
    token; with `tokens_per_s` 0, tokens take no time. `abilities` holds those at single kinds of work, by the names of
    `SKILLS`; `ability` is that at all others. `certainty_noise`: how far its token probabilities are from true, as a
    standard deviation on ability's scale."""

    ability: float
    ttft_s: float = 0.0
    tokens_per_s: float = 0.0
    abilities: Mapping[str, float] = field(default_factory=dict)
    certainty_noise: float = CERTAINTY_NOISE

    def delay_s(self, output_tokens: int) -> float:
        return self.ttft_s + (output_tokens / self.tokens_per_s if self.tokens_per_s else 0.0)


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under what the models are served.

    `seed` is that of answers and faults. `time_scale` stretches every delay: 0 answers as fast as it can. `faults`
    replaces the pool file's [simulated_faults]; None keeps them. The limits are enforced with 429 for each model, over
    any 60 seconds.
    """

    seed: int = 0
    time_scale: float = 1.0
    faults: Mapping[str, float] | None = None
    max_requests_per_minute: float | None = None
    max_tokens_per_minute: float | None = None


@dataclass(slots=True)
class ServedRequest:
    """One request on its way: what the log will say of it. `status` 0: nothing was sent."""

    model: str
    key: bytes
    arrived_at: float = field(default_factory=time.time)
    arrived_monotonic: float = field(default_factory=time.monotonic)
    status: int = 0
    fault: str | None = None
    is_completed: bool = False
    input_tokens: int = 0
    output_tokens: int = 0

    def line(self) -> bytes:
        entry = {
            "time": self.arrived_at,
            "monotonic": self.arrived_monotonic,
            "model": self.model,
            "key": self.key.hex(),
            "status": self.status,
            "fault": self.fault,
            "completed": self.is_completed,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
        }
        return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)


class SimulatedServer:
    """The request handlers and their counts. `log` gets one JSON line per request, when it is over."""

    def __init__(self, pool: PoolConfig, conditions: Conditions, log: BufferedWriter | None = None) -> None:
        self.models = simulated_models(pool)
        self.conditions = conditions
        self.faults = pool.tables.simulated_faults if conditions.faults is None else conditions.faults
        check_faults(self.faults, f"{pool.path}: simulated_faults" if conditions.faults is None else "faults")
        self.log = log
        self.counts = {name: Counter({"requests": 0, "completed": 0, "duplicates": 0}) for name in self.models}
        self._windows = {
            name: (MinuteWindow(conditions.max_requests_per_minute), MinuteWindow(conditions.max_tokens_per_minute))
            for name in self.models
        }
        self._times_seen: Counter[bytes] = Counter()
        self._completed: set[bytes] = set()

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
        """Counts by model and in total: requests, completed (usable answers handed over whole), duplicates (completed
        again for an equal request), and each fault that was met."""
        total = {name: sum(c[name] for c in self.counts.values()) for counts in self.counts.values() for name in counts}
        return web.json_response({"total": total, "by_model": self.counts})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        try:
            exchange, reply = self.complete(orjson.loads(await request.read()))
        except (ValueError, KeyError, TypeError) as error:
            known = ", ".join(self.models)
            return _error(400, f"not a chat completion request with text messages for one of {known}: {error!r}")
        try:
            return await self._answer(request, exchange, reply)
        finally:
            if self.log is not None:
                self.log.write(exchange.line())

    def complete(self, body: Mapping[str, Any]) -> tuple[ServedRequest, dict[str, Any]]:
        """The reply to a request, without latency and faults. Raises ValueError, KeyError or TypeError for what is no
        request to us."""
        messages = [(str(message["role"]), message["content"]) for message in body["messages"]]
        model = self.models[body["model"]]
        seed, limit = int(body.get("seed") or 0), int(body.get("max_tokens") or 0)
        key = hashlib.blake2b(orjson.dumps([body["model"], messages, seed, limit]), digest_size=16).digest()
        is_sampled = float(body.get("temperature") or 0) > 0
        thought = think(
            body["model"],
            model.ability,
            messages,
            seed,
            self.conditions.seed,
            is_sampled=is_sampled,
            by_kind=model.abilities,
            certainty_noise=model.certainty_noise,
        )
        exchange = ServedRequest(body["model"], key)
        return exchange, _reply(exchange, messages, thought, body, limit)

    async def _answer(self, request: web.Request, exchange: ServedRequest, reply: dict[str, Any]) -> web.StreamResponse:
        counts = self.counts[exchange.model]
        counts["requests"] += 1
        wait_s = self._over_limit_s(exchange)
        exchange.fault = OVER_LIMIT if wait_s else self._draw(exchange.key)
        if exchange.fault is not None:
            counts[exchange.fault] += 1
            if (refused := refusal(exchange.fault, wait_s or 1.0)) is not None:
                exchange.status, headers = refused
                exchange.input_tokens = exchange.output_tokens = 0
                return _error(exchange.status, f"simulated: {exchange.fault}", headers)
        if delay_s := self.models[exchange.model].delay_s(exchange.output_tokens) * self.conditions.time_scale:
            await asyncio.sleep(delay_s)
        if exchange.fault == "hang":
            await asyncio.Event().wait()  # the handler is cancelled when the client gives up
        exchange.status = 200
        response = await self._send(request, reply, exchange.fault)
        exchange.is_completed = exchange.fault not in ("cut_body", "wrong_json")
        if exchange.is_completed:
            counts["completed"] += 1
            counts["duplicates"] += exchange.key in self._completed
            self._completed.add(exchange.key)
        return response

    def _over_limit_s(self, exchange: ServedRequest) -> float:
        """Seconds until the model's limits let the request in; 0 if they do now, and then it is counted."""
        requests, tokens = self._windows[exchange.model]
        now, n_tokens = exchange.arrived_monotonic, exchange.input_tokens + exchange.output_tokens
        wait_s = max(requests.wait_s(now, 1), tokens.wait_s(now, n_tokens))
        if not wait_s:
            requests.admit(now, 1)
            tokens.admit(now, n_tokens)
        return wait_s

    def _draw(self, key: bytes) -> str | None:
        if not self.faults:
            return None
        self._times_seen[key] += 1
        return draw_fault(self.faults, key, self._times_seen[key], self.conditions.seed)

    async def _send(self, request: web.Request, reply: dict[str, Any], fault: str | None) -> web.StreamResponse:
        """Hands the body to the transport, whole unless the fault says otherwise, and waits until it is drained."""
        if fault == "no_usage":
            del reply["usage"]
        content = orjson.dumps(reply)
        if fault == "wrong_json":
            content = content[: len(content) // 2]
        if fault not in ("cut_body", "slow_bytes"):
            whole = web.Response(body=content, content_type="application/json")
            await whole.prepare(request)
            await whole.write_eof()
            return whole
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        pieces = web.StreamResponse(headers=headers)
        await pieces.prepare(request)
        size = -(-len(content) // 10)
        if fault == "cut_body":
            await pieces.write(content[: 5 * size])
            if request.transport is not None:
                request.transport.close()
            return pieces
        for at in range(0, len(content), size):
            await pieces.write(content[at : at + size])
            await asyncio.sleep(SLOW_BYTES_S / 10 * self.conditions.time_scale)
        await pieces.write_eof()
        return pieces


@lru_cache(maxsize=4096)
def count_tokens(text: str) -> int:
    """The simulated tokenizer: a token per word and per punctuation mark."""
    return len(_WORD.findall(text))


def _reply(
    exchange: ServedRequest, messages: list[tuple[str, str]], thought: Thought, body: Mapping[str, Any], limit: int
) -> dict[str, Any]:
    """The chat completion, cut at `limit` tokens (0: none), and its token counts noted on the exchange."""
    text, finish_reason = thought.text, "stop"
    exchange.output_tokens = count_tokens(text)
    if 0 < limit < exchange.output_tokens:
        text, finish_reason, exchange.output_tokens = _cut(text, limit), "length", limit
    exchange.input_tokens = sum(count_tokens(content) + 4 for _, content in messages)
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish_reason,
    }
    if body.get("logprobs"):
        choice["logprobs"] = {"content": _logprobs(text, thought, int(body.get("top_logprobs") or 0))}
    return {
        "id": f"sim-{exchange.key.hex()[:16]}",
        "object": "chat.completion",
        "created": int(exchange.arrived_at),
        "model": exchange.model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": exchange.input_tokens,
            "completion_tokens": exchange.output_tokens,
            "total_tokens": exchange.input_tokens + exchange.output_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def _cut(text: str, n_tokens: int) -> str:
    ends = [match.end() for match in _WORD.finditer(text)]
    return text[: ends[n_tokens - 1]]


def _logprobs(text: str, thought: Thought, n_top: int) -> list[dict[str, Any]]:
    """Tokens with log-probabilities: an allocation's letters bring their best `n_top` alternatives; every other token
    is as probable as the thought says.
    """
    plain = math.log(max(thought.token_probability, 1e-12))
    entries: list[dict[str, Any]] = []
    at = 0
    for match, probabilities in zip(_LETTER.finditer(text), thought.letter_probabilities, strict=False):
        logprobs = {letter: math.log(max(p, 1e-12)) for letter, p in probabilities.items()}
        best = sorted(logprobs, key=lambda letter: -logprobs[letter])[:n_top]
        entries.append({"token": text[at : match.start(2)], "logprob": plain, "top_logprobs": []})
        top = [{"token": letter, "logprob": logprobs[letter]} for letter in best]
        entries.append({"token": match[2], "logprob": logprobs[match[2]], "top_logprobs": top})
        at = match.end(2)
    entries.append({"token": text[at:], "logprob": plain, "top_logprobs": []})
    return entries


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    error = {"message": message, "type": "simulated", "code": status}
    return web.json_response({"error": error}, status=status, headers=headers)


def simulated_models(pool: PoolConfig) -> dict[str, SimulatedModel]:
    """NAME of each `simulated:NAME` entry -> its parameters, which entries that share a NAME must agree on. Raises
    PoolFileError."""
    models: dict[str, SimulatedModel] = {}
    for name, table in pool.models.items():
        if endpoint_kind(table.endpoint) != "simulated":
            continue
        place = f"{pool.path}: models.{name}.simulated"
        model = _model_of(table.simulated, place)
        served = table.endpoint.partition(":")[2]
        if models.setdefault(served, model) != model:
            raise PoolFileError(
                f"{place}: differs from another entry of {table.endpoint!r}; give both the same, or two names."
            )
    return models


def _model_of(table: Mapping[str, float | Mapping[str, float]], place: str) -> SimulatedModel:
    """PoolFileError, naming `place`, for a table that is none."""
    try:
        model = SimulatedModel(**table)  # type: ignore[arg-type]
    except TypeError as error:
        raise PoolFileError(
            f"{place}: {error}. Known keys: ability (required), ttft_s, tokens_per_s, abilities, certainty_noise."
        ) from None
    for key in ("ability", "ttft_s", "tokens_per_s", "certainty_noise"):
        if isinstance(getattr(model, key), Mapping):
            raise PoolFileError(f"{place}.{key}: expected a number. Abilities by kind of work go into `abilities`.")
    if not isinstance(model.abilities, Mapping):
        raise PoolFileError(
            f"{place}.abilities: expected a table of abilities by kind of work, as {{add = 1.5}}, got "
            f"{model.abilities!r}."
        )
    for kind in model.abilities:
        if kind not in SKILLS:
            raise PoolFileError(f"{place}.abilities: unknown kind of work {kind!r}. Known: {', '.join(SKILLS)}.")
    return model
