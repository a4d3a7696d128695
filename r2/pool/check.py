"""Whether the entries of a pool do what routing needs of them: text, log-probabilities, JSON by a schema.

Each entry is asked once for a text, with log-probabilities where its table promises them, and once more for JSON where
it promises that. Nobody answers for another.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from r2.answering.prompts import solve_messages
from r2.call import Call, Completion
from r2.ledger import Usage, cost_usd, expected_usage, worst_cost_usd
from r2.pool.client.client import PoolClient
from r2.pool.client.dialects.dialect import RateLimits
from r2.pool.file.config import PoolConfig, endpoint_kind
from r2.pool.opening import open_client
from r2.problem import Problem

HOSTED_TOKENS: Final = 512
"""Output limit of a call to a hosted model: some think before a word of the answer. Few tokens are used of it."""
LOCAL_TOKENS: Final = 24
_USED_TOKENS: Final = 60
"""What a call is expected to generate, thinking included (ours)."""
_QUESTION = "What is 1 + 1?"
_SCHEMA: Final = orjson.dumps(
    {
        "type": "object",
        "properties": {"sum": {"type": "integer"}},
        "required": ["sum"],
        "additionalProperties": False,
    }
).decode()


@dataclass(frozen=True, slots=True)
class Checked:
    """One entry. `error` is None if it gave a text; `has_logprobs` and `has_schema` are None where its table promises
    none, or where it gave no text. `left_out` names parameters that it turned out not to take."""

    model: str
    response_model: str
    latency_s: float
    error: str | None
    has_logprobs: bool | None = None
    has_schema: bool | None = None
    cost_usd: float = 0.0
    limits: RateLimits = field(default_factory=RateLimits)
    left_out: tuple[str, ...] = ()


def calls_of(pool: PoolConfig, model: str) -> list[Call]:
    """The one or two calls that check an entry: for a text, and for JSON where its table promises it."""
    table = pool.models[model]
    limit = HOSTED_TOKENS if endpoint_kind(table.endpoint) == "http" else LOCAL_TOKENS
    messages = solve_messages(Problem("check", _QUESTION), None, {}, "direct")
    calls = [Call(model, messages, "calibrate", limit, top_logprobs=int(table.logprobs))]
    if table.guided:
        text = f'{_QUESTION} Reply with a JSON object that has the one field "sum".'
        calls.append(Call(model, (("user", text),), "calibrate", limit, json_schema=_SCHEMA))
    return calls


def price_of_check(pool: PoolConfig) -> tuple[int, float, float]:
    """(calls, what they will cost about, what they may cost at most) in USD."""
    roster = pool.roster()
    n_calls, about_usd, most_usd = 0, 0.0, 0.0
    for model in pool.models:
        for call in calls_of(pool, model):
            price, card = pool.price(model), roster[model]
            expected = expected_usage(call.messages, min(_USED_TOKENS, call.max_output_tokens))
            n_calls += 1
            about_usd += cost_usd(price, Usage(expected.input_tokens, 0, expected.output_tokens))
            worst = card.worst_case(call.messages, call.max_output_tokens, call.json_schema)
            most_usd += worst_cost_usd(price, worst)
    return n_calls, about_usd, most_usd


async def check_pool(pool: PoolConfig, models_dir: Path, state_dir: Path) -> list[Checked]:
    """Asks every entry, all at once. An entry that fails has an error; no other is asked for it."""

    async def checked(client: PoolClient, model: str) -> Checked:
        calls = calls_of(pool, model)
        done = [await client.complete(calls[0], problem_id="check")]
        if _error(done[0]) is None:
            done += [await client.complete(call, problem_id="check") for call in calls[1:]]
        return _result(pool, client, model, done)

    async with open_client(
        pool, models_dir=models_dir, log_dir=state_dir / "logs", state_dir=state_dir, has_fallbacks=False
    ) as client:
        return list(await asyncio.gather(*(checked(client, name) for name in pool.models)))


def _result(pool: PoolConfig, client: PoolClient, model: str, done: Sequence[Completion]) -> Checked:
    first, table = done[0], pool.models[model]
    error = _error(first)
    last = first.attempts[-1] if first.attempts else None
    return Checked(
        model,
        last.response_model if last is not None else "",
        last.latency_s if last is not None else 0.0,
        error,
        bool(first.token_logprobs) if error is None and table.logprobs else None,
        _has_sum(done[1]) if len(done) > 1 else None,
        sum(completion.cost_usd for completion in done),
        client.limits_seen(model),
        client.left_out(model),
    )


def _error(completion: Completion) -> str | None:
    if not completion.is_ok:
        return completion.error_message or completion.error_type or "no answer"
    if not completion.text.strip():
        return (
            f"an empty text, with finish reason {completion.finish_reason!r}: what was generated may all have been "
            "thinking. Set thinking_tokens, or a lower reasoning_effort"
        )
    return None


def _has_sum(completion: Completion) -> bool:
    try:
        document = orjson.loads(completion.text)
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and isinstance(document.get("sum"), int)
