"""What the dialects cost: CPU of a request's body and of a reply's reading, beside a plain chat body written by hand.

    python -m benchmarks.bench_dialects [--calls 20000] [--rounds 7]

No network. "Plain" is the least that a client of OpenAI's chat completions can do: one dictionary dumped, one body
loaded, text, finish reason and three counts taken out of it. Ours is all that an entry has: what its table says, what
its endpoint refused, its cache marks, thinking and log-probabilities in every form, usage that can be true. Rounds are
interleaved; the figures are medians in microseconds of process time. Exit code 1 if a dialect costs more than 8 us a
call over plain: that is 5 us over the client of one form that was here before the dialects, which took 3 us over plain.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from r2.call import Call
from r2.ledger import Price
from r2.pool.client.caching import PrefixMarks
from r2.pool.client.dialects import DIALECTS
from r2.pool.client.habits import Habits
from r2.pool.client.wire import ParsedReply, parse_body, request_body
from r2.pool.file.tables import ModelTable

MOST_US = 8.0
CALL = Call("m", (("system", "Answer briefly."), ("user", "What is 17 + 25? ".ljust(600, "."))), "solve", 256)
TEXT = "18 44 67 ".ljust(440, "4")
PRICE = {"input": 1.0, "output": 2.0, "date": "2026-11-01", "source": "a benchmark"}
CHAT = orjson.dumps(
    {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "created": 1793491200,
        "model": "served",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 170, "completion_tokens": 120, "total_tokens": 290},
    }
)
ANTHROPIC = orjson.dumps(
    {
        "id": "msg_0123456789abcdef",
        "type": "message",
        "model": "served",
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 170, "cache_read_input_tokens": 0, "output_tokens": 120},
    }
)
GEMINI = orjson.dumps(
    {
        "candidates": [{"content": {"role": "model", "parts": [{"text": TEXT}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 170, "candidatesTokenCount": 120, "totalTokenCount": 290},
        "modelVersion": "served",
        "responseId": "0123456789abcdef",
    }
)


def plain() -> int:
    """One call in the least code."""
    body = orjson.dumps(
        {
            "model": "served",
            "messages": [{"role": role, "content": text} for role, text in CALL.messages],
            "temperature": CALL.temperature,
            "max_tokens": CALL.max_output_tokens,
        }
    )
    document = orjson.loads(CHAT)
    choice, usage = document["choices"][0], document["usage"]
    reply = ParsedReply(choice["message"]["content"], choice["finish_reason"], document["model"], document["id"], None)
    return len(body) + len(reply.text) + usage["prompt_tokens"] + usage["completion_tokens"] + usage["total_tokens"]


def through(name: str, reply: bytes) -> Callable[[], int]:
    """One call through a dialect, as the pool client makes it."""
    dialect = DIALECTS[name]
    table = ModelTable.model_validate({"endpoint": "http://h/v1", "tier": "small", "price_usd_per_mtok": PRICE})
    habits = Habits("m", table, pool_path=Path("pool.toml"))
    marks = PrefixMarks(table, Price(1.0, 0.1, 2.0, "2026-11-01", "a benchmark", cache_write=1.25), dialect)

    def one() -> int:
        body = request_body(
            CALL,
            table,
            "served",
            dialect=dialect,
            omitted=habits.omitted,
            limit_field=habits.limit_field or "",
            unasked_schemas=habits.unasked_schemas,
            cache_prefix=marks.wants(CALL),
        )
        parsed = parse_body(reply)
        assert isinstance(parsed, ParsedReply)
        habits.answered(body, parsed.response_model)
        return len(body) + len(parsed.text)

    return one


def us_per_call(one: Callable[[], int], n_calls: int) -> float:
    began = time.process_time()
    for _ in range(n_calls):
        one()
    return (time.process_time() - began) / n_calls * 1e6


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    paths = {
        "plain": plain,
        "compatible": through("compatible", CHAT),
        "openai": through("openai", CHAT),
        "anthropic": through("anthropic", ANTHROPIC),
        "gemini": through("gemini", GEMINI),
    }
    measured: dict[str, list[float]] = {name: [] for name in paths}
    for one in paths.values():
        us_per_call(one, 1000)
    for _ in range(options.rounds):
        for name, one in paths.items():
            measured[name].append(us_per_call(one, options.calls))
    medians = {name: statistics.median(figures) for name, figures in measured.items()}
    print(f"{'dialect':12} {'us a call':>10} {'over plain':>11}")
    for name, median in medians.items():
        print(f"{name:12} {median:10.2f} {median - medians['plain']:11.2f}")
    return int(any(median - medians["plain"] > MOST_US for median in medians.values()))


if __name__ == "__main__":
    sys.exit(main())
