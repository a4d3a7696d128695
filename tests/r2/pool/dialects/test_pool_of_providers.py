"""One pool of all imitations: the client asks each in its own form, and its ledger is their bill."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from r2.call import Call, Completion
from r2.pool.client.client import PoolClient
from r2.pool.client.ports import Address
from r2.pool.file.config import load_pool
from tests.support.providers import brain
from tests.support.providers.pool import ENTRIES, Providers

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer", "minimum": 0}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
SUMMARY = "Summarise in four paragraphs: Rain fell. The river rose. People left the town. Nobody was hurt."


async def asked(providers: Providers, folder: Path, calls: list[Call]) -> tuple[list[Completion], float]:
    """(outcomes, what our ledger says they cost)."""
    (folder / "pool.toml").write_text(providers.pool_text(), "utf-8")
    pool = load_pool(folder / "pool.toml")
    where = {name: Address(table.endpoint, table.served_model) for name, table in pool.models.items()}
    async with PoolClient(pool, where, state_dir=folder, environ=providers.environment) as client:
        waiting = (client.complete(call, problem_id=str(number)) for number, call in enumerate(calls))
        outcomes = await asyncio.gather(*waiting)
        return outcomes, client.spent_usd


def call(entry: str, text: str, **fields: Any) -> Call:
    return Call(entry, (("system", "Be short."), ("user", text)), "solve", 4096, **fields)


def test_every_entry_answers_whole_and_the_ledger_is_the_bill(tmp_path: Path):
    async def scenario() -> None:
        entries = [entry for entry, *_ in ENTRIES]
        async with Providers() as providers:
            calls = [call(entry, "What is 17 + 25?", top_logprobs=3) for entry in entries]
            calls += [call(entry, SUMMARY) for entry in entries]
            calls += [call(entry, "Write a Python function called double_all.") for entry in entries]
            schema = json.dumps(CITY)
            calls += [call(entry, "City: Oslo. People: 700000.", json_schema=schema) for entry in entries]
            outcomes, spent_usd = await asked(providers, tmp_path, calls)
            assert [outcome.error_type for outcome in outcomes] == [None] * len(calls)
            assert [outcome.model for outcome in outcomes] == entries * 4, "nobody had to answer for another"
            n = len(entries)
            assert {outcome.text for outcome in outcomes[:n]} == {"42"}
            for outcome in outcomes[n : 3 * n]:
                assert outcome.text.endswith(brain.LAST_WORDS) and "<think>" not in outcome.text
            for outcome in outcomes[3 * n :]:
                assert json.loads(outcome.text) == {"city": "Oslo", "people": 700000}
            for server in providers.by_name.values():
                assert {seen.status for seen in server.requests} == {200}
            assert spent_usd == pytest.approx(float(providers.bill_usd), abs=1e-9)
            assert spent_usd > 0

    asyncio.run(scenario())
