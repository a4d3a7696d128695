"""Who has which shard, on a real PostgreSQL: claims, their deadlines and tokens, and the calls that go with them."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2.errors import ClaimLostError, ConfigError
from r2.pool.coordination.database import Database
from storage.joined import claims as of_claims
from storage.joined.call_rows import CallRows, JoinedJournal, adopt, paid_usd
from storage.joined.claims import FINISH, Claim, Claims, stop_run
from storage.joined.mark import new_mark, read_mark, refuse_joined, remove_mark, set_mark
from storage.runs.journal import Journal
from tests.support.postgres import Postgres
from tests.support.scripted import completion


def on(url: str, test: Callable[[Database], Coroutine[Any, Any, None]]) -> list[str]:
    """Runs `test` with a database, and returns what was said."""
    said: list[str] = []

    async def run() -> None:
        database = await Database.open(url, said.append)
        try:
            await test(database)
        finally:
            await database.close()

    asyncio.run(asyncio.wait_for(run(), 60))
    return said


async def entered(database: Database, run: str = "run:1", n_shards: int = 3, **others: Any) -> Claims:
    """A worker that has joined."""
    claims = Claims(database, run)
    facts = {"pool_path": "/pool.toml", "has_day_cap": False, "code": "1", "open_shards": set(range(n_shards))}
    await claims.enter(n_shards=n_shards, **{**facts, **others})
    return claims


async def taken(claims: Claims) -> Claim:
    claim = await claims.take()
    assert claim is not None
    return claim


def test_four_workers_take_200_shards_each_exactly_once(postgres: Postgres):
    async def workers(database: Database) -> None:
        found: list[int] = []

        async def works() -> None:
            claims = await entered(database, n_shards=200)
            while (claim := await claims.take()) is not None:
                assert claim.token == 1
                found.append(claim.shard)
                await claims.close(claim, is_done=True)

        await asyncio.gather(*(works() for _ in range(4)))
        assert sorted(found) == list(range(200))

    on(postgres.new_database(), workers)


def test_shards_that_were_settled_before_the_first_join_are_not_taken(postgres: Postgres):
    async def worker(database: Database) -> None:
        claims = await entered(database, n_shards=4, open_shards={2})
        assert (await taken(claims)).shard == 2
        assert await claims.take() is None

    on(postgres.new_database(), worker)


def test_a_claim_that_is_not_renewed_is_taken_over_and_its_old_owner_can_change_nothing(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(of_claims, "CLAIM_S", 0.3)

    async def workers(database: Database) -> None:
        dead, living = await entered(database, n_shards=1), await entered(database, n_shards=1)
        old = await taken(dead)
        assert await living.take() is None
        await asyncio.sleep(0.4)
        await dead.check(old)  # late, but nobody has taken it: it is still its own
        await asyncio.sleep(0.4)
        new = await taken(living)
        assert (new.shard, new.token) == (old.shard, old.token + 1)
        async with CallRows(dead) as rows:
            journal = JoinedJournal(rows, old)
            with pytest.raises(ClaimLostError, match="taken over by another machine"):
                await journal.commit("key", b"answer")
        assert old.is_lost and dead.n_lost == 1 and not dead.held
        with pytest.raises(ClaimLostError):
            await dead.check(old)
        await dead.close(old, is_done=True)
        assert (await living.look()).n_open == 1, "what the old owner says of it counts no more"
        await living.check(new)

    on(postgres.new_database(), workers)


def test_a_lost_claim_ends_its_answering_at_the_next_renewal(postgres: Postgres, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(of_claims, "CLAIM_S", 0.2)

    async def workers(database: Database) -> None:
        slow, other = await entered(database, n_shards=1), await entered(database, n_shards=1)
        claim = await taken(slow)
        claim.task = asyncio.create_task(asyncio.sleep(60))
        assert await slow.renew() is None and not claim.is_lost
        await asyncio.sleep(0.3)
        await taken(other)
        await slow.renew()
        await asyncio.wait([claim.task])
        assert claim.task.cancelled() and claim.is_lost

    on(postgres.new_database(), workers)


def test_a_worker_that_leaves_frees_its_shards_at_once(postgres: Postgres):
    async def workers(database: Database) -> None:
        one, other = await entered(database, n_shards=1), await entered(database, n_shards=1)
        await taken(one)
        assert set((await other.look()).workers) == {one.worker, other.worker}
        await one.leave()
        assert (await taken(other)).token == 2
        assert (await other.look()).workers == (other.worker,)

    on(postgres.new_database(), workers)


def test_the_end_of_the_run_is_one_workers_and_only_once_no_shard_is_open(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
):
    async def workers(database: Database) -> None:
        one, other = await entered(database, n_shards=1), await entered(database, n_shards=1)
        claim = await taken(one)
        assert await one.take_finish() is None
        await one.close(claim, is_done=True)
        finish = await one.take_finish()
        assert finish is not None and finish.shard == FINISH
        assert await other.take_finish() is None
        monkeypatch.setattr(of_claims, "CLAIM_S", -1.0)
        await one.renew()  # as if it had died a minute ago
        monkeypatch.undo()
        assert await other.take_finish() is not None
        await other.forget_run()
        assert not (await one.look()).is_there

    on(postgres.new_database(), workers)


def test_a_shard_that_was_given_up_is_left_to_others(postgres: Postgres):
    async def workers(database: Database) -> None:
        claims = await entered(database, n_shards=2)
        first = await taken(claims)
        await claims.close(first, is_done=False)
        again = await claims.take({first.shard})
        assert again is not None and again.shard != first.shard
        await claims.close(again, is_done=False)
        assert await claims.take({0, 1}) is None
        seen = await claims.look({0, 1})
        assert (seen.n_open, seen.n_busy) == (2, 0)

    on(postgres.new_database(), workers)


def test_another_version_of_the_code_is_refused_by_name_while_others_work(postgres: Postgres):
    async def workers(database: Database) -> None:
        first = await entered(database)
        with pytest.raises(ConfigError, match=r"pid \d+\) works on this run with version 1 of the code.*has 2"):
            await entered(database, code="2")
        await first.leave()
        await entered(database, code="2")

    on(postgres.new_database(), workers)


def test_a_cap_of_a_day_under_another_path_is_refused(postgres: Postgres):
    async def workers(database: Database) -> None:
        await entered(database)
        await entered(database, pool_path="/elsewhere/pool.toml")
        with pytest.raises(ConfigError, match="same path everywhere"):
            await entered(database, pool_path="/elsewhere/pool.toml", has_day_cap=True)

    on(postgres.new_database(), workers)


def test_a_stopped_run_is_told_to_its_workers_and_joined_by_none_until_it_is_resumed(postgres: Postgres):
    async def workers(database: Database) -> None:
        claims = await entered(database)
        assert await claims.renew() is None
        assert await stop_run(database, "run:1", "ann on desk")
        assert await claims.renew() == "ann on desk"
        with pytest.raises(ConfigError, match=r"stopped by ann on desk .*r2 join run --resume"):
            await entered(database)
        assert await stop_run(database, "run:1", None)
        await entered(database)
        assert not await stop_run(database, "another:1", "ann")

    on(postgres.new_database(), workers)


def test_whoever_takes_a_shard_over_has_what_was_paid_and_knows_what_was_lost(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
):
    stored = completion("42").to_bytes("ab")

    async def workers(database: Database) -> None:
        dead = await entered(database, n_shards=1)
        async with CallRows(dead) as rows:
            journal = await JoinedJournal.open(database, dead.run, rows, await taken(dead))
            await asyncio.gather(*(journal.begin(f"k{i}", 0.5) for i in range(50)))
            await asyncio.gather(*(journal.commit(f"k{i}", stored) for i in range(40)))
            await journal.hold("k49", 0.75)
        await dead.leave()
        living = await entered(database, n_shards=1)
        async with CallRows(living) as rows:
            claim = await taken(living)
            journal = await JoinedJournal.open(database, living.run, rows, claim)
            assert [journal.find(f"k{i}") == stored for i in range(50)] == [True] * 40 + [False] * 10
            assert sorted(call.key for call in journal.lost_at_open) == [f"k{i}" for i in range(40, 50)]
            assert (journal.lost_usd("k48"), journal.lost_usd("k49"), journal.lost_usd("k0")) == (0.5, 0.75, 0)
            await journal.begin("mine", 100.0)  # on its way, and in this worker's hold
            cost_usd = completion("42").cost_usd
            assert await paid_usd(database, living.run) == pytest.approx(40 * cost_usd + 9 * 0.5 + 0.75)
            await living.close(claim, is_done=False, settled_keys=[f"k{i}" for i in range(45)])
            again = await JoinedJournal.open(database, living.run, rows, await taken(living))
            assert [call.key for call in again.lost_at_open].count("mine") == 1
            assert len(again.lost_at_open) == 6 and again.find("k0") is None
            await living.close(living.claim_of(0), is_done=True)
            assert await paid_usd(database, living.run) == 0

    on(postgres.new_database(), workers)


STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "hold", "commit", "kill"]), st.sampled_from("abc"), st.integers(1, 9)),
    max_size=25,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_rows_tell_what_a_journal_on_disk_tells(
    steps: list[tuple[str, str, int]], postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
):
    """The same calls into both, with sessions that are killed between them."""
    path = tmp_path_factory.mktemp("journal") / "a.journal"

    async def both(database: Database) -> None:
        claims = await entered(database, run=str(path), n_shards=1)
        async with CallRows(claims) as rows:
            disk = Journal.open(path)
            joined = await JoinedJournal.open(database, claims.run, rows, await taken(claims))
            begun: set[str] = set()
            for what, key, number in [*steps, ("kill", "a", 1)]:
                if what == "begin" and key not in begun:
                    begun.add(key)
                    disk.begin(key, number)
                    await joined.begin(key, number)
                elif what == "hold" and key in begun:
                    disk.hold(key, number)
                    await joined.hold(key, number)
                elif what == "commit" and key in begun:
                    begun.discard(key)
                    await disk.commit(key, bytes([number]))
                    await joined.commit(key, bytes([number]))
                elif what == "kill":
                    begun.clear()
                    disk.close()
                    disk = Journal.open(path)
                    await claims.close(claims.claim_of(0), is_done=False)
                    joined = await JoinedJournal.open(database, claims.run, rows, await taken(claims))
                    for one in "abc":
                        assert joined.lost_usd(one) == disk.lost_usd(one)
                    assert sorted(joined.lost_at_open) == sorted(disk.lost_at_open)
                for one in "abc":
                    assert joined.find(one) == disk.find(one)
            disk.close()
        await claims.forget_run()

    on(postgres.url(), both)


def test_with_the_server_restarted_a_store_waits_and_is_there_once(postgres: Postgres):
    async def worker(database: Database) -> None:
        claims = await entered(database, n_shards=1)
        async with CallRows(claims) as rows:
            journal = await JoinedJournal.open(database, claims.run, rows, await taken(claims))
            await journal.begin("a", 0.5)
            await asyncio.to_thread(postgres.stop)
            waiting = asyncio.create_task(journal.commit("a", completion("1").to_bytes("ab")))
            await asyncio.sleep(0.5)
            assert not waiting.done() and journal.find("a") is None, "not used before it is durable"
            await asyncio.to_thread(postgres.start)
            await waiting
            assert journal.find("a") is not None
            assert await paid_usd(database, claims.run) == pytest.approx(completion("1").cost_usd)

    said = on(postgres.new_database(), worker)
    assert ["is away" in line or "is back" in line for line in said] == [True, True]


def test_what_a_session_alone_has_paid_for_comes_along_once(postgres: Postgres, tmp_path: Path):
    path = tmp_path / "00000.journal"
    answer = completion("1").to_bytes("ab")

    async def paid_alone() -> None:
        with Journal.open(path) as journal:
            for key in ("stored", "lost"):
                journal.begin(key, 0.25)
            await journal.commit("stored", answer)

    asyncio.run(paid_alone())

    async def worker(database: Database) -> None:
        for _ in range(2):
            with Journal.open(path) as journal:
                await adopt(database, "run:1", 0, journal)
        claims = await entered(database, n_shards=1)
        async with CallRows(claims) as rows:
            joined = await JoinedJournal.open(database, claims.run, rows, await taken(claims))
            assert joined.find("stored") == answer
            assert [(call.key, call.usd) for call in joined.lost_at_open] == [("lost", 0.25)]

    on(postgres.new_database(), worker)


def test_a_mark_keeps_sessions_that_join_nothing_from_a_joined_run(tmp_path: Path):
    refuse_joined(tmp_path, "cot-1")
    mark = set_mark(tmp_path, new_mark("cot-1", "lake", "PostgreSQL at db/r2"))
    assert set_mark(tmp_path, new_mark("cot-1", "lake", "PostgreSQL at db/r2")) == mark == read_mark(tmp_path)
    with pytest.raises(ConfigError, match=r"joined by machines.*PostgreSQL at db/r2.*r2 join cot-1"):
        refuse_joined(tmp_path, "cot-1")
    remove_mark(tmp_path)
    refuse_joined(tmp_path, "cot-1")


def test_a_run_in_a_bucket_has_one_name_on_every_machine_and_runs_in_folders_have_their_own():
    assert new_mark("r", "s3://b/lake", "").key == new_mark("r", "s3://b/lake/", "").key
    assert new_mark("r", "s3://b/lake", "").key != new_mark("r", "s3://b/other", "").key
    assert new_mark("r", "lake", "").key != new_mark("r", "lake", "").key
