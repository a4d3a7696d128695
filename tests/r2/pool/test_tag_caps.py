"""A cap per tag and day in the pool file holds over all runs that have the tag."""

import asyncio
import re
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from flows.cli.options import tags_of
from r2.call import Call
from r2.errors import ConfigError, PoolFileError
from r2.pool.client.client import PoolClient
from r2.pool.client.ports import Address
from r2.pool.file.config import load_pool
from r2.pool.limits import host as host_module
from r2.settings import AnswerSettings, load_settings
from tests.support.loopback import Loopback, answers, write_pool

PRICE = 'price_usd_per_mtok = {input = 1000.0, output = 1000.0, date = "2026-11-01", source = "a test"}'
"""A call is billed 20 + 5 tokens: 0.025 USD."""


def pool_with_cap(folder: Path, cap: str):
    path = write_pool(folder, {"a": f'tier = "small"\n{PRICE}'}).path
    path.write_text(f"{path.read_text('utf-8')}\n[budget.max_usd_per_day_by_tag]\n{cap}\n", "utf-8")
    return load_pool(path)


async def asked(pool, url: str, state: Path, run: str, tags: tuple[str, ...], n: int) -> tuple[list[str | None], float]:
    """Each call's error, None where it was answered, and what was spent."""
    client = PoolClient(pool, {"a": Address(url, "a")}, state_dir=state, run_account=f"run:{run}", tags=tags)
    async with client:
        calls = [Call("a", (("user", f"2 + {i}?"),), "solve", 16) for i in range(n)]
        done = [await client.complete(call, problem_id=f"{run}-{i}") for i, call in enumerate(calls)]
        return [one.error_type for one in done], client.spent_usd


def test_runs_of_one_tag_spend_its_cap_together_and_runs_of_another_are_not_held(tmp_path: Path):
    pool = pool_with_cap(tmp_path, '"team=search" = 0.5')

    async def scenario() -> None:
        async with Loopback(after=answers(usage=(20, 5))) as server:
            state, spent = tmp_path / "state", 0.0
            errors: list[str | None] = []
            for run in range(40):
                its, usd = await asked(pool, server.base_url, state, f"r{run}", ("team=search", "project=x"), 4)
                errors, spent = errors + its, spent + usd
            assert set(errors) == {None, "budget_exhausted"}
            assert errors.index("budget_exhausted") > 4, "several runs spent before the cap was near"
            assert errors.count(None) * 0.025 == pytest.approx(spent)
            assert 0.25 < spent <= 0.5
            others, usd = await asked(pool, server.base_url, state, "other", ("team=ads",), 8)
            assert others == [None] * 8
            untagged, usd = await asked(pool, server.base_url, state, "none", (), 8)
            assert untagged == [None] * 8 and usd > 0
            held, _ = await asked(pool, server.base_url, state, "again", ("team=search",), 1)
            assert held == ["budget_exhausted"]

    asyncio.run(scenario())


def test_the_next_day_has_its_own_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pool = pool_with_cap(tmp_path, '"team=search" = 0.5')

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=1)

    async def scenario() -> None:
        async with Loopback(after=answers(usage=(20, 5))) as server:
            for _ in range(40):
                await asked(pool, server.base_url, tmp_path, "a", ("team=search",), 4)
            monkeypatch.setattr(host_module, "datetime", Tomorrow)
            errors, _ = await asked(pool, server.base_url, tmp_path, "b", ("team=search",), 1)
            assert errors == [None]

    asyncio.run(scenario())
    with closing(sqlite3.connect(tmp_path / "lease.sqlite3")) as db:
        names = [row[0] for row in db.execute("select name from accounts order by name")]
    whose = re.escape(f":team=search:{pool.path.resolve()}")
    assert len([name for name in names if re.fullmatch(rf"tag:\d{{4}}-\d\d-\d\d{whose}", name)]) == 2


def test_tags_and_their_caps_are_no_part_of_what_identifies_a_run(tmp_path: Path):
    with_tags = AnswerSettings(input="q", tags={"team": "search"})
    assert with_tags.run_id("i", "p") == AnswerSettings(input="q").run_id("i", "p")
    capped, plain = tmp_path / "a", tmp_path / "b"
    capped.mkdir()
    plain.mkdir()
    assert pool_with_cap(capped, '"team=search" = 0.5').digest == pool_with_cap(plain, '"team=ads" = 9').digest


@pytest.mark.parametrize("word", ["team", "=search", "team=", "1team=x", "te am=x", "team=" + "x" * 101, "team=a\nb"])
def test_what_is_no_tag_is_refused_on_the_command_line_in_settings_and_in_the_pool_file(word: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="expected NAME=VALUE, as team=search"):
        tags_of([word])
    name, _, value = word.partition("=")
    with pytest.raises(ConfigError, match="expected NAME=VALUE"):
        load_settings(None, {"input": "q", "tags": {name: value}})
    with pytest.raises(PoolFileError, match="expected NAME=VALUE"):
        pool_with_cap(tmp_path, f"{word!r} = 1".replace("'", '"'))


def test_a_name_has_one_value():
    assert tags_of(["team=search", "project=x=y"]) == {"team": "search", "project": "x=y"}
    assert tags_of(None) is None
    with pytest.raises(ConfigError, match="team is 'search' already"):
        tags_of(["team=search", "team=ads"])
