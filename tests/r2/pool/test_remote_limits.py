"""Requests, tokens and money of several hosts on one PostgreSQL: a real one, which is stopped and killed here."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from r2.errors import ConfigError, CoordinationError
from r2.pool.coordination.address import coordination_url, shown
from r2.pool.coordination.database import Database
from r2.pool.file.tables import EndpointLimits
from r2.pool.limits import remote, remote_lease
from r2.pool.limits.ahead import Ahead
from r2.pool.limits.gate import Gate
from r2.pool.limits.lease import RateGrant, RateLimits, Wait
from r2.pool.limits.remote import RemoteLimits, RemoteMoneyShare, RemoteRateShare
from tests.support.postgres import Postgres


def on(url: str, test: Callable[..., Coroutine[Any, Any, None]], n_hosts: int = 1) -> list[str]:
    """Runs `test` with the limits of so many hosts, and returns what was said."""
    said: list[str] = []

    async def run() -> None:
        databases = [await Database.open(url, said.append) for _ in range(n_hosts)]
        try:
            await test(*[await RemoteLimits.open(database, said.append) for database in databases])
        finally:
            for database in databases:
                await database.close()

    asyncio.run(asyncio.wait_for(run(), 60))
    return said


async def granted(rates: RemoteRateShare) -> None:
    """Returns with the first grant."""
    changed = asyncio.Event()
    rates.follow(changed.set)
    while isinstance(rates.take(0.0), Wait):
        changed.clear()
        await asyncio.wait_for(changed.wait(), 30)


def most_in_any(times: list[float], window_s: float) -> int:
    """The most of these moments that lie within any window."""
    times = sorted(times)
    first = most = 0
    for last, at in enumerate(times):
        while at - times[first] >= window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


def test_requests_of_three_hosts_stay_within_the_limit_in_every_window(postgres: Postgres):
    window_s, limit = 1.0, 60
    sent: list[float] = []

    async def hosts(*limits: RemoteLimits) -> None:
        end = time.monotonic() + 4 * window_s

        async def sends(gate: Gate) -> None:
            while time.monotonic() < end:
                try:
                    slot = await gate.enter(1.0, asyncio.get_running_loop().time() + end - time.monotonic())
                except TimeoutError:
                    return
                sent.append(time.monotonic())
                gate.leave(slot, "answered", used_tokens=1.0)

        shares = [one.rates("owner", RateLimits(limit, None, window_s)) for one in limits]
        gates = [Gate("owner", EndpointLimits(max_in_flight=8), share) for share in shares]
        await asyncio.gather(*(sends(gate) for gate in gates for _ in range(8)))
        for one in limits:
            await one.end()

    on(postgres.new_database(), hosts, 3)
    assert most_in_any(sent, window_s) <= limit
    assert len(sent) >= 2.5 * limit, "and most of what is allowed is used"


def test_tokens_that_were_not_used_come_back_and_those_used_beyond_are_counted(postgres: Postgres):
    async def host(limits: RemoteLimits) -> None:
        lease, limit = limits.lease, RateLimits(None, 1000, 60.0)
        first = await lease.take("o", limit, (1, 900), (1, 900), {})
        assert isinstance(first, RateGrant) and first.tokens == 900
        assert isinstance(await lease.take("o", limit, (1, 200), (1, 200), {}), Wait)
        # 900 were reserved and 300 used: 700 are left
        second = await lease.take("o", limit, (1, 700), (1, 5000), {first.start_us: (0, -600)})
        assert isinstance(second, RateGrant) and second.tokens == 700
        await lease.correct("o", {second.start_us: (0, 50)})
        wait = await lease.take("o", limit, (1, 1), (1, 1), {})
        assert isinstance(wait, Wait) and 55 < wait.seconds < 63.5
        other = await lease.take("other", limit, (1, 1), (1, 1), {})
        assert isinstance(other, RateGrant), "another owner has a window of its own"

    on(postgres.new_database(), host)


def test_money_of_four_hosts_never_passes_the_cap_and_all_of_it_can_be_spent(postgres: Postgres):
    cap_usd, call_usd = 1.0, 0.004

    async def hosts(*limits: RemoteLimits) -> None:
        spent: list[float] = []

        async def spends(money: RemoteMoneyShare, cost_usd: float) -> None:
            while money.reserve_now(call_usd) or await money.reserve(call_usd):
                await asyncio.sleep(0)
                money.settle(call_usd, cost_usd)
                spent.append(cost_usd)

        shares = []
        for one in limits:
            one.open_account("run", cap_usd, spent_usd=0.0)
            shares.append(one.money(lambda: ("run",), cap_usd))
            await one.begin()
        await asyncio.gather(*(spends(share, cost) for share in shares for cost in (0.004, 0.001)))
        assert cap_usd - call_usd < sum(spent) <= cap_usd + 1e-9
        for one in limits:
            await one.end()
        cap, booked, held = await limits[0].lease.balance("run")
        assert (cap, held) == (cap_usd, 0) and booked == pytest.approx(sum(spent))

    on(postgres.new_database(), hosts, 4)


def test_an_exchange_that_is_repeated_books_nothing_twice(postgres: Postgres):
    async def host(limits: RemoteLimits) -> None:
        lease = limits.lease
        await lease.open_account("a", 10.0, None)
        for _ in range(3):
            await lease.exchange(["a"], "me", keep_usd=1.0, want_usd=2.0, totals_usd=[3.0])
        assert await lease.balance("a") == (10.0, 3.0, 2.0)

    on(postgres.new_database(), host)


def test_what_a_host_held_counts_as_spent_after_its_deadline_and_comes_back_with_it(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote_lease, "HOLD_S", 0.2)

    async def hosts(dead: RemoteLimits, living: RemoteLimits) -> None:
        await living.lease.open_account("a", 10.0, None)
        # 1 spent and 4 held by one that is gone; 5 are left
        assert (await dead.lease.exchange(["a"], "dead", keep_usd=0, want_usd=4, totals_usd=[1.0])).fits
        assert not (await living.lease.exchange(["a"], "me", keep_usd=0, want_usd=5.5, totals_usd=[0.0])).fits
        await asyncio.sleep(0.3)
        assert (await living.lease.exchange(["a"], "me", keep_usd=0, want_usd=5, totals_usd=[0.0])).fits
        assert await living.lease.balance("a") == (10.0, 5.0, 5.0)
        # it was not dead: 1.5 in all is what it spent, and nothing of it is counted twice
        assert (await dead.lease.exchange(["a"], "dead", keep_usd=0, want_usd=0, totals_usd=[1.5])).fits
        assert await living.lease.balance("a") == (10.0, 1.5, 5.0)

    on(postgres.new_database(), hosts, 2)


def test_a_run_that_goes_on_sets_its_account_by_its_journal_unless_others_spend_from_it(postgres: Postgres):
    async def host(limits: RemoteLimits) -> None:
        lease = limits.lease
        await lease.open_account("run", 10.0, 0.0)
        await lease.exchange(["run"], "me", keep_usd=0, want_usd=2, totals_usd=[3.0])
        await lease.open_account("run", 20.0, 1.0)
        assert await lease.balance("run") == (20.0, 3.0, 2.0), "another holds money: it knows more than the journal"
        await lease.open_account("run", 20.0, 4.0)
        assert await lease.balance("run") == (20.0, 4.0, 2.0)
        await lease.exchange(["run"], "me", keep_usd=0, want_usd=0, totals_usd=[3.0])
        await lease.open_account("run", 20.0, 1.0)
        assert await lease.balance("run") == (20.0, 1.0, 0.0)

    on(postgres.new_database(), host)


def test_with_the_server_away_a_slice_is_used_up_and_then_everybody_waits_until_it_is_back(postgres: Postgres):
    async def host(limits: RemoteLimits) -> None:
        rates = limits.rates("owner", RateLimits(6000, None, 60.0))
        limits.open_account("run", 10.0, spent_usd=0.0)
        money = limits.money(lambda: ("run",), 10.0)
        await limits.begin()
        assert isinstance(rates.take(0.0), Wait) and await money.reserve(0.001)
        await asyncio.sleep(0.3)
        assert isinstance(rates.take(0.0), int)
        await asyncio.to_thread(postgres.stop)
        n_granted = 0
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            n_granted += isinstance(rates.take(0.0), int)
            await asyncio.sleep(0.001)
        assert n_granted <= 300, "no more than a slice at the full rate"
        n_taken = 0
        while money.reserve_now(0.001):
            n_taken += 1
        assert n_taken * 0.001 <= 0.002 * 10.0 + 0.001, "no more than the free part of the hold"
        with pytest.raises(TimeoutError):
            await money.reserve(0.5, asyncio.get_running_loop().time() + 0.3)
        await asyncio.to_thread(postgres.start)
        assert await money.reserve(0.5)
        await granted(rates)
        await limits.end()

    said = on(postgres.new_database(), host)
    assert len(said) == 2, said
    assert "is away" in said[0] and "waits until it is back" in said[0] and "is back after" in said[1]
    assert "not-a-secret" not in " ".join(said)


def test_after_a_crash_that_lost_what_was_sent_one_window_is_held_back(postgres: Postgres):
    url, window_s = postgres.new_database(), 2.0

    async def before(limits: RemoteLimits) -> None:
        assert isinstance(await limits.lease.take("o", RateLimits(10, None, window_s), (10, 0), (10, 0), {}), RateGrant)

    async def after(limits: RemoteLimits) -> None:
        rates = limits.rates("o", RateLimits(10, None, window_s))
        began = time.monotonic()
        await granted(rates)
        assert time.monotonic() - began >= window_s

    on(url, before)
    postgres.crash()
    postgres.start()
    [said] = on(url, after)
    assert "nothing is sent" in said
    postgres.stop()
    postgres.start()

    async def later(limits: RemoteLimits) -> None:
        assert isinstance(await limits.lease.take("p", RateLimits(10, None, window_s), (1, 0), (1, 0), {}), RateGrant)

    on(url, later)  # a restart in order loses nothing, so nothing is held back


def test_the_day_is_the_servers_and_not_that_of_a_host_whose_clock_is_wrong(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
):
    async def host(limits: RemoteLimits) -> None:
        assert limits.today() == f"{datetime.now(UTC):%Y-%m-%d}"
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 3 * 86400)
        assert limits.today() == f"{datetime.now(UTC):%Y-%m-%d}"
        skewed = await RemoteLimits.open(limits.lease.database, print)
        assert skewed.today() == limits.today()

    on(postgres.new_database(), host)


def test_a_server_that_is_not_there_is_said_without_its_password():
    url = "postgresql://me:my-password@127.0.0.1:1/db?sslmode=disable"
    with pytest.raises(CoordinationError) as refused:
        asyncio.run(Database.open(url))
    assert "PostgreSQL at 127.0.0.1:1/db" in str(refused.value) and "R2_COORDINATION_URL" in str(refused.value)
    assert "my-password" not in str(refused.value) and "sslmode" not in shown(url)


def test_a_connection_that_the_server_ends_while_it_is_opened_is_a_server_that_is_away():
    class Ending:
        def acquire(self) -> Any:
            raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

    said: list[str] = []
    database = Database("postgresql://r2@127.0.0.1:9/r2", said.append)
    database._pool = Ending()

    async def work(connection: Any) -> None:
        raise AssertionError("there is no connection")

    with pytest.raises(CoordinationError, match="is away: cannot switch to state 12"):
        asyncio.run(database.once(work))
    assert "is away" in said[0]


def test_a_database_of_a_later_version_is_refused(postgres: Postgres):
    url = postgres.new_database()

    async def upgrade(limits: RemoteLimits) -> None:
        await limits.lease.database.run(
            lambda connection: connection.execute("update r2_shared.version set version = 9")
        )

    on(url, upgrade)
    with pytest.raises(ConfigError, match="version 9"):
        asyncio.run(Database.open(url))


def test_ten_hosts_that_start_together_make_the_schema_once(postgres: Postgres):
    url = postgres.new_database()

    async def together() -> None:
        for database in await asyncio.gather(*(Database.open(url) for _ in range(10))):
            await database.close()

    asyncio.run(together())


@pytest.mark.parametrize("url", ["http://host/db", "postgresql://host:port/db", "host:5432"])
def test_what_is_no_url_of_a_postgresql_is_refused_without_a_word_of_it(url: str):
    with pytest.raises(ConfigError, match="not the URL of a PostgreSQL") as refused:
        coordination_url({"R2_COORDINATION_URL": url})
    assert url not in str(refused.value)
    assert coordination_url({"R2_COORDINATION_URL": " "}) is None


def test_a_slice_grows_with_use_and_shrinks_with_it():
    ahead = Ahead(1.0, 100.0)
    sizes = []
    for now, used in ((0.0, 1), (0.01, 2), (0.02, 4), (0.03, 8), (1.03, 20), (2.03, 2), (3.03, 0)):
        sizes.append(ahead.next(now, 1.0))
        ahead.note(used)
    # used up at once: doubled each time; then half as much again as a second took: 1.5 * 8 = 12, 30 > 2 * 12, 1.5 * 2
    assert sizes == [1.0, 2.0, 4.0, 8.0, 12.0, 24.0, 3.0]
    assert ahead.next(4.03, 1.0) == 1.0


def test_the_deadline_of_a_hold_is_renewed_well_before_it_ends():
    assert remote._RENEW_S <= remote_lease.HOLD_S / 3
