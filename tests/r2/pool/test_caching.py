"""Prompt caches: marked where it pays, billed as the provider does; and one model with two efforts as two entries."""

import asyncio
from pathlib import Path

import orjson
import pytest

from r2.call import Call, Completion
from r2.ledger import Price
from r2.pool.client.caching import LEAST_CHARACTERS, PrefixMarks
from r2.pool.client.client import PoolClient
from r2.pool.client.dialects import DIALECTS
from r2.pool.client.ports import Address
from r2.pool.client.wire import request_body
from r2.pool.file.config import load_pool
from r2.pool.file.tables import ModelTable
from tests.support.providers.anthropic import Anthropic
from tests.support.providers.imitation import Imitation
from tests.support.providers.openai import OpenAI
from tests.support.providers.vllm import Vllm

RULES = "You know the rules of this house. " * 200
DEAR_WRITES = Price(1, 0.1, 5, "2026-11-26", "x", cache_write=1.25)


def table(**options: object) -> ModelTable:
    price = {"input": 1.0, "output": 2.0, "date": "2026-11-01", "source": "a test"}
    return ModelTable.model_validate(
        {"endpoint": "http://h/v1", "tier": "small", "price_usd_per_mtok": price, **options}
    )


def question(system: str, text: str = "What is 17 + 25?", entry: str = "a") -> Call:
    return Call(entry, (("system", system), ("user", text)), "solve", 4096)


def marks(price: Price = DEAR_WRITES, dialect: str = "anthropic", **options: object) -> PrefixMarks:
    return PrefixMarks(table(**options), price, DIALECTS[dialect])


def test_a_long_system_text_is_marked_from_its_second_time_on():
    own = marks()
    assert [own.wants(question(RULES)) for _ in range(3)] == [False, True, True]
    assert [own.wants(question(f"{number} {RULES}")) for number in range(3)] == [False] * 3, "each comes once"
    assert [own.wants(question("x" * (LEAST_CHARACTERS - 1))) for _ in range(3)] == [False] * 3


def test_the_pool_file_marks_always_or_never_and_others_need_no_marks():
    assert marks(cache_prefix=True).wants(question("Be short."))
    assert not any(marks(cache_prefix=False).wants(question(RULES)) for _ in range(3))
    for own in (marks(Price(1, 0.1, 5, "2026-11-26", "no price of a write")), marks(dialect="openai")):
        assert not any(own.wants(question(RULES)) for _ in range(3))


def test_openrouter_is_sent_the_marks_for_anthropics_models():
    body = orjson.loads(
        request_body(question("Be short."), table(), "anthropic/x", dialect=DIALECTS["openrouter"], cache_prefix=True)
    )
    mark = {"type": "ephemeral"}
    assert body["messages"][0]["content"] == [{"type": "text", "text": "Be short.", "cache_control": mark}]
    other = orjson.loads(
        request_body(question("Be short."), table(), "mistral/x", dialect=DIALECTS["openrouter"], cache_prefix=True)
    )
    assert other["messages"][0]["content"] == "Be short."


async def asked(
    server: Imitation, folder: Path, tables: list[str], calls: list[Call]
) -> tuple[list[Completion], float]:
    async with server:
        text = '[router]\ndecomposer = "a"\nallocator = "a"\n'
        for each in tables:
            name, model, lines = each.split("|")
            further = dict(line.split(" = ") for line in lines.split(";") if line)
            text += server.entry(name, model, tier="small", key_env="KEY", **further)
        (folder / "pool.toml").write_text(text, "utf-8")
        pool = load_pool(folder / "pool.toml")
        where = {name: Address(each.endpoint, each.served_model) for name, each in pool.models.items()}
        async with PoolClient(pool, where, state_dir=folder, environ={"KEY": server.key}) as client:
            done = [await client.complete(call, problem_id=str(number)) for number, call in enumerate(calls)]
            return done, client.spent_usd


def test_anthropics_cache_is_written_once_and_read_from_then_on_and_billed_so(tmp_path: Path):
    server = Anthropic()
    calls = [question(RULES, f"What is 17 + {number}?") for number in range(25, 29)]
    done, spent_usd = asyncio.run(asked(server, tmp_path, ["a|claude-haiku-5-5|"], calls))
    usages = [completion.attempts[0].usage for completion in done]
    assert [usage.cache_write_tokens > 1024 for usage in usages] == [False, True, False, False]
    assert [usage.cached_input_tokens > 1024 for usage in usages] == [False, False, True, True]
    assert spent_usd == pytest.approx(float(server.bill_usd), abs=1e-9)
    assert done[3].cost_usd < done[0].cost_usd


def test_one_model_with_two_efforts_is_two_entries(tmp_path: Path):
    server = OpenAI()
    tables = ['a|gpt-6-luna|reasoning_effort = "none"', 'b|gpt-6-luna|reasoning_effort = "high"']
    calls = [question("Be short.", entry=entry) for entry in ("a", "b")]
    (quick, slow), spent_usd = asyncio.run(asked(server, tmp_path, tables, calls))
    assert [seen.body["reasoning_effort"] for seen in server.requests] == ["none", "high"]
    assert quick.attempts[0].usage.reasoning_tokens == 0
    assert slow.attempts[0].usage.reasoning_tokens >= 192
    assert slow.attempts[0].usage.reasoning_tokens < slow.attempts[0].usage.output_tokens
    assert (quick.text, slow.text) == ("42", "42") and slow.cost_usd > quick.cost_usd
    assert spent_usd == pytest.approx(float(server.bill_usd), abs=1e-9)
    roster = load_pool(tmp_path / "pool.toml").roster()
    assert [card.name for card in roster.solvers] == ["a", "b"], "the allocator chooses between them"
    assert roster["a"].weights == roster["b"].weights


def test_thinking_is_kept_apart_from_the_answer_and_stored_with_the_attempt(tmp_path: Path):
    for number, model in enumerate(("qwen3-8b", "qwen3-8b-raw")):
        folder = tmp_path / str(number)
        folder.mkdir()
        [done], _ = asyncio.run(asked(Vllm(), folder, [f"a|{model}|"], [question("Be short.")]))
        assert done.text == "42"
        assert done.attempts[0].thinking.startswith("Step 0")
