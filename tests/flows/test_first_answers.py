"""From keys to answers: `r2 pool init`, then `r2 answer`. No price is typed, and nothing is asked that is refused."""

import asyncio
import csv
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from r2.answering.drive import drive
from r2.answering.route import solve
from r2.call import Call, Completion
from r2.methods.router import make_router
from r2.pool.client.client import PoolClient
from r2.pool.client.ports import Address
from r2.pool.file.catalogue import providers
from r2.pool.file.config import load_pool
from r2.pool.file.starter import starter_pool
from r2.problem import Problem
from r2.settings import AnswerSettings
from storage.sql.query import connect
from tests.support.paths import ROOT
from tests.support.providers import brain
from tests.support.providers.anthropic import HAIKU_55, OPUS_55, Anthropic
from tests.support.providers.bill import PriceList, rates
from tests.support.providers.gemini import FLASH_38, FLASH_LITE_35, Gemini
from tests.support.providers.imitation import Imitation
from tests.support.providers.openai import GPT_6_ASTRA, GPT_6_LUNA, OpenAI

OPENAI = (
    GPT_6_LUNA,
    replace(
        GPT_6_LUNA,
        name="gpt-6.1-terra",
        snapshot="gpt-6.1-terra-2026-10-02",
        prices=PriceList(rates("1", "5", cached="0.05", cache_write="1.25")),
    ),
    replace(
        GPT_6_ASTRA,
        name="gpt-6.1-sol",
        snapshot="gpt-6.1-sol-2026-10-02",
        prices=PriceList(rates("2", "10", cached="0.1", cache_write="2.5")),
    ),
)
ANTHROPIC = (
    HAIKU_55,
    replace(
        OPUS_55,
        name="claude-sonnet-5-5",
        snapshot="claude-sonnet-5-5",
        prices=PriceList(rates("2", "10", cached="0.1", cache_write="2.5")),
    ),
    OPUS_55,
)
GEMINI = (
    FLASH_LITE_35,
    FLASH_38,
    replace(
        FLASH_38,
        name="gemini-4-argon",
        snapshot="gemini-4-argon",
        prices=PriceList(rates("2", "10", cached="0.1")),
        is_new=False,
    ),
)
"""What the providers serve of each tier, at the prices of their own pages."""
SUMMARY = "Summarise in four paragraphs: Rain fell. The river rose. People left the town. Nobody was hurt."


@pytest.fixture
def servers() -> Iterator[dict[str, Imitation]]:
    """The three providers, in a thread of their own, by the catalogue's names."""
    found: dict[str, Imitation] = {
        "openai": OpenAI(OPENAI),
        "anthropic": Anthropic(ANTHROPIC),
        "gemini": Gemini(GEMINI),
    }
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    for server in found.values():
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(30)
    yield found
    for server in found.values():
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()


def variables(servers: dict[str, Imitation], *names: str) -> dict[str, str]:
    """The variables that a user sets for these providers, as the vendors' own clients read them."""
    environ = {}
    for name in names:
        facts, server = providers()[name], servers[name]
        environ[facts.api_key_env] = server.key
        assert facts.base_url_env is not None
        environ[facts.base_url_env] = server.base_url.removesuffix(facts.base_url_path)
    return environ


def r2(folder: Path, environ: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    """The command in a process with these variables and none other of a provider."""
    of_providers = {name for facts in providers().values() for name in (*facts.key_envs, facts.base_url_env)}
    kept = {name: value for name, value in os.environ.items() if name not in of_providers}
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *args],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=570,
        env={**kept, **environ, "PYTHONPATH": str(ROOT), "R2_STATE_DIR": str(folder / "state")},
    )


def test_two_commands_from_keys_to_answers(tmp_path: Path, servers: dict[str, Imitation]):
    with (tmp_path / "questions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "question", "answer", "benchmark"])
        for i in range(16, 20):
            writer.writerow([f"q{i}", f"{SUMMARY} Day {i}.", "", ""])
        for i in range(16):
            then, right = (", then multiply by 3", 3 * (i + 17)) if i % 4 == 3 else ("", i + 17)
            writer.writerow([f"q{i}", f"What is {i} + 17{then}?", right, "arithmetic"])
    environ = variables(servers, "openai", "anthropic", "gemini")
    made = r2(tmp_path, environ, "pool", "init")
    assert made.returncode == 0, made.stderr
    done = r2(tmp_path, environ, "answer", "questions.csv", "--pool", "pool.toml")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "questions.answers.csv").open(encoding="utf-8") as file:
        answers = list(csv.DictReader(file))
    assert [answer["status"] for answer in answers] == ["answered"] * 20
    assert all(answer["answer"].endswith(brain.LAST_WORDS) for answer in answers[:4]), "answered in full"
    assert [answer["is_correct"] for answer in answers[4:]] == ["True"] * 16
    with connect(tmp_path / "lake") as db:
        [(usd,)] = db.execute("SELECT sum(cost_usd) FROM calls").fetchall()
        stopped = db.execute("SELECT sum(n_units) FROM stop_reasons WHERE action = 'accept'").fetchall()
    assert stopped == [(20,)], "each question was routed by the rule"
    assert usd == pytest.approx(float(sum(server.bill_usd for server in servers.values())), abs=1e-9)
    statuses = {seen.status for server in servers.values() for seen in server.requests}
    assert statuses == {200}, "nothing was asked that a provider refuses"


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
def test_one_key_is_enough(tmp_path: Path, servers: dict[str, Imitation], name: str):
    path = tmp_path / "pool.toml"
    environ = variables(servers, name)
    path.write_text(starter_pool(environ, date(2026, 11, 26)), "utf-8")
    pool = load_pool(path)
    router = make_router(pool, AnswerSettings(input="q.csv"))
    questions = [
        Problem("a", "What is 40 + 2?", target="42", benchmark="arithmetic"),
        Problem("b", "What is 5 + 17, then multiply by 3?", target="66", benchmark="arithmetic"),
    ]

    async def scenario() -> None:
        where = {entry: Address(table.endpoint, table.served_model) for entry, table in pool.models.items()}
        async with PoolClient(pool, where, state_dir=tmp_path, environ=environ) as client:
            for question in questions:

                async def complete(call: Call, question: Problem = question) -> Completion:
                    return await client.complete(call, problem_id=question.problem_id)

                trajectory = await drive(question, solve(question, router), complete)
                assert (trajectory.outcome.error_type, trajectory.is_right) == (None, True), trajectory.outcome
            # each entry once, whoever the allocator chose
            for entry in pool.models:
                said = await client.complete(
                    Call(entry, (("system", "Be short."), ("user", "What is 1 + 1?")), "solve", 16), problem_id=entry
                )
                assert (said.model, said.text) == (entry, "2")
            assert client.spent_usd == pytest.approx(float(servers[name].bill_usd), abs=1e-9)

    asyncio.run(scenario())
    assert {seen.status for seen in servers[name].requests} == {200}
