"""Each fault of a batch endpoint, on a strict imitation of a provider: every call is answered once, the jobs account
for every line, and our ledger is their bill."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from r2.call import Call, Completion
from r2.pool.batch.jobs import LaneTimes, SystemClock
from r2.pool.batch.lanes import BatchEntry, Lanes
from r2.pool.batch.prices import batch_price
from r2.pool.batch.providers import open_provider
from r2.pool.client.client import PoolClient
from r2.pool.client.dialects import DIALECTS
from r2.pool.client.ports import Address
from r2.pool.file.config import load_pool
from storage.runs.job_files import JobFiles, JobRecord
from storage.runs.journal import Journal
from tests.support.batch_world import rates_of
from tests.support.providers.anthropic import Anthropic
from tests.support.providers.gemini import Gemini
from tests.support.providers.imitation import Imitation
from tests.support.providers.openai import OpenAI

SERVERS = {
    "openai": (OpenAI, "gpt-4.1-mini"),
    "anthropic": (Anthropic, "claude-haiku-4-5"),
    "gemini": (Gemini, "gemini-2.5-flash"),
}
QUICK = LaneTimes(0.01, 0.5, 0.01, 0.03, 0.01, 0.03, 0.02, 0.05, 0.3)
N = 12


async def asked(
    server: Imitation, model: str, folder: Path, **options: Any
) -> tuple[list[Completion], list[JobRecord], float]:
    """`N` calls in one session: their completions, the jobs, and what we say that it cost."""
    assert server.batches is not None
    prices = server.models[model].prices
    price = f"{{{rates_of(prices.base)}, batch = {{{rates_of(server.batches.prices(model, prices).base)}}}, "
    price += 'date = "2026-11-26", source = "the imitation"}'
    table = server.entry("one", model, tier="small", key_env="IMITATED_KEY", price_usd_per_mtok=price)
    (folder / "pool.toml").write_text(f'[router]\ndecomposer = "one"\nallocator = "one"\n{table}', "utf-8")
    pool = load_pool(folder / "pool.toml")
    environ = {"IMITATED_KEY": server.key}
    addresses = {"one": Address(server.base_url, model)}
    async with (
        aiohttp.ClientSession() as session,
        PoolClient(pool, addresses, state_dir=folder / "state", environ=environ) as client,
    ):
        provider = open_provider(
            DIALECTS[server.name], server.base_url, model, "IMITATED_KEY", session=session, environ=environ
        )
        assert provider is not None
        provider = _WithoutLag(provider)
        with JobFiles(folder / "jobs") as store, Journal.open(folder / "calls.journal") as journal:
            entries = {"one": BatchEntry(provider, batch_price(pool, "one"))}  # type: ignore[arg-type]
            lanes = Lanes(client, entries, store, "run", times=QUICK, say=lambda line: None, **options)
            async with lanes:
                calls = [Call("one", (("user", f"What is {i} + {2 * i}?"),), "solve", 1024) for i in range(N)]
                done = await asyncio.gather(
                    *(lanes.complete(call, problem_id=f"p{i}", journal=journal) for i, call in enumerate(calls))
                )
        return list(done), JobFiles(folder / "jobs").records(), lanes.spent_usd


class _WithoutLag:
    """A provider whose list is never behind."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self.limits = replace(provider.limits, listing_lag_s=0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)


def accounted(done: list[Completion], jobs: list[JobRecord], spent_usd: float, bill_usd: float) -> None:
    """Every call has its answer, every line of a job its outcome, every dollar its call."""
    assert [one.text.split()[-1] for one in done] == [str(3 * i) for i in range(N)]
    for one in jobs:
        t = one.totals
        assert one.is_settled
        assert one.job.n_rows == t.n_answered + t.n_failed + t.n_again + t.n_live + t.n_unused
    assert spent_usd == pytest.approx(sum(one.cost_usd for one in done))
    n_absent = sum(one.end.n_absent for one in jobs if one.end is not None)
    if n_absent:
        assert spent_usd >= bill_usd, "what may have run is charged at the most it may have cost"
    else:
        assert spent_usd == pytest.approx(bill_usd)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((name, fault) for fault in ("expires", "cancelled", "twice", "missing", "cut") for name in SERVERS),
        ("openai", "fails"),
        ("gemini", "fails"),
        ("openai", "foreign"),
        ("anthropic", "shuffled"),
    ],
)
def test_a_fault_of_a_job(tmp_path: Path, name: str, fault: str):
    async def scenario() -> None:
        make, model = SERVERS[name]
        async with make() as server:
            assert server.batches is not None
            server.batches.fail_job(fault)
            done, jobs, spent_usd = await asked(server, model, tmp_path)
            accounted(done, jobs, spent_usd, float(server.bill_usd))
            first = jobs[0]
            assert first.end is not None
            if fault == "twice":
                assert first.end.n_twice > 0
            if fault == "foreign":
                assert first.end.n_foreign == 3
            if fault in ("missing", "cut"):
                assert first.end.n_absent > 0
            if (name, fault) == ("gemini", "expires"):
                assert first.end.n_absent == N - 1, "it counts and bills what ran, and gives nothing of it"
            elif fault in ("expires", "cancelled"):
                assert first.totals.n_answered > 0 and first.totals.n_again > 0, "the done part is kept"
                assert server.batches.paid_twice() == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("name", "fault", "times"),
    [
        ("openai", "upload_breaks", 2),
        ("gemini", "upload_breaks", 1),
        *((name, "create_reset", 1) for name in SERVERS),
        *((name, "create_5xx", 2) for name in SERVERS),
        ("openai", "poll_5xx", 20),
        ("anthropic", "poll_5xx", 20),
        ("gemini", "poll_5xx", 20),
        ("openai", "download_breaks", 2),
        ("anthropic", "download_breaks", 2),
        ("openai", "late_file", 1),
        ("anthropic", "rate", 1),
    ],
)
def test_a_fault_of_a_request_costs_nothing_and_makes_no_second_job(tmp_path: Path, name: str, fault: str, times: int):
    async def scenario() -> None:
        make, model = SERVERS[name]
        async with make() as server:
            assert server.batches is not None
            server.batches.fail_request(fault, times)
            done, jobs, spent_usd = await asked(server, model, tmp_path)
            accounted(done, jobs, spent_usd, float(server.bill_usd))
            assert len(server.batches.jobs) == 1
            assert server.batches.paid_twice() == []

    asyncio.run(scenario())


def test_a_job_that_is_created_while_the_list_is_down_is_found_when_it_is_back(tmp_path: Path):
    async def scenario() -> None:
        async with Anthropic() as server:
            assert server.batches is not None
            server.batches.fail_request("create_reset", 1)
            server.batches.fail_request("list_5xx", 3)
            done, jobs, spent_usd = await asked(server, "claude-haiku-4-5", tmp_path)
            accounted(done, jobs, spent_usd, float(server.bill_usd))
            assert len(server.batches.jobs) == 1

    asyncio.run(scenario())


def test_two_runs_on_one_key_share_the_queue_limit_and_both_end(tmp_path: Path):
    async def scenario() -> None:
        async with OpenAI() as server:
            assert server.batches is not None
            server.batches.terms.enqueued_tokens = 150
            server.batches.terms.run_s = 0.15
            folders = [tmp_path / "a", tmp_path / "b"]
            for folder in folders:
                folder.mkdir()
            both = await asyncio.gather(*(asked(server, "gpt-4.1-mini", folder) for folder in folders))
            for done, jobs, _ in both:
                assert all(one.is_ok for one in done)
                assert all(one.is_settled for one in jobs)
            assert sum(spent for _, _, spent in both) == pytest.approx(float(server.bill_usd))

    asyncio.run(scenario())


class _DayAhead(SystemClock):
    """A clock that is a day ahead, and jumps back to the truth after the first looks at it."""

    def __init__(self) -> None:
        self.n_looks = 0

    def time(self) -> float:
        self.n_looks += 1
        return time.time() + 86_400 * (self.n_looks < N + 3)


@pytest.mark.parametrize("name", SERVERS)
def test_a_clock_that_is_wrong_and_jumps_makes_no_second_job(tmp_path: Path, name: str):
    async def scenario() -> None:
        make, model = SERVERS[name]
        async with make() as server:
            assert server.batches is not None
            server.batches.fail_request("create_reset", 1)
            clock = _DayAhead()
            done, jobs, spent_usd = await asked(server, model, tmp_path, clock=clock, deadline_s=900.0)
            accounted(done, jobs, spent_usd, float(server.bill_usd))
            assert clock.n_looks > N + 3
            assert len(server.batches.jobs) == 1

    asyncio.run(scenario())


def test_a_job_that_never_ends_is_rescued_live_before_the_deadline(tmp_path: Path):
    async def scenario() -> None:
        async with OpenAI() as server:
            assert server.batches is not None
            server.batches.fail_job("never_ends")
            done, [job], spent_usd = await asked(server, "gpt-4.1-mini", tmp_path, deadline_s=1.5)
            accounted(done, [job], spent_usd, float(server.bill_usd))
            assert job.end is not None and job.end.rescued
            assert job.totals.n_answered > 0 and job.totals.n_live > 0
            assert server.batches.paid_twice() == []

    asyncio.run(scenario())
