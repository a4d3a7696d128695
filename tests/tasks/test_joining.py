"""A run that several workers join: each question stored once and paid once, whoever dies, on a real PostgreSQL."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r2.errors import ConfigError, CoordinationError
from r2.pool.coordination.database import Database
from storage.joined import claims as of_claims
from storage.joined.call_rows import CallRows, paid_usd
from storage.joined.claims import Claims, stop_run
from storage.joined.mark import read_mark
from storage.lake.lake import Lake
from storage.runs.journal import Journal
from storage.runs.plan import RunPlan
from storage.sql.query import connect
from tasks.answering import joining
from tasks.answering.answer_rows import answer_rows
from tasks.answering.code_version import code_version
from tasks.answering.finish_joined import finish_joined
from tasks.answering.joining import answer_claimed, coordination, run_joined
from tasks.answering.journals import JoinedJournals
from tasks.answering.session import RunSession
from tests.support.postgres import Postgres
from tests.support.shards import ScriptedClient, planned, session_for

SUMS = [{"id": f"q{i}", "question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(120)]


def reply(call: Any) -> str:
    return f"Answer: {int(call.messages[-1][1].split('What is ')[1].split()[0]) + 1}"


class Counted:
    """Answers, and says when it was asked so many times."""

    def __init__(self, n: int) -> None:
        self._left = n
        self.reached = asyncio.Event()

    def __call__(self, call: Any) -> str:
        self._left -= 1
        if self._left == 0:
            self.reached.set()
        return reply(call)


POOL: Any = SimpleNamespace(
    path=Path("/pool.toml"),
    tables=SimpleNamespace(budget=SimpleNamespace(max_usd_per_day=None, max_usd_per_day_by_tag={})),
)
"""What a worker needs to know of a pool file."""


@pytest.fixture
def url(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    url = postgres.new_database()
    monkeypatch.setenv("R2_COORDINATION_URL", url)
    monkeypatch.setattr(joining, "POLL_S", 0.1)
    yield url


@contextlib.asynccontextmanager
async def worker(plan: RunPlan, answer: Callable[[Any], str] = reply) -> Any:
    """(session, claims) of a worker that has joined."""
    async with run_joined(plan, POOL, print) as claims, CallRows(claims) as rows:
        session = session_for(plan, answer)
        with contextlib.closing(session.checks):
            session.journals = JoinedJournals(claims, rows)
            yield session, claims


def n_sent(session: RunSession) -> int:
    assert isinstance(session.client, ScriptedClient)
    return session.client.n_sent


def stored(plan: RunPlan) -> list[tuple[Any, ...]]:
    with connect(Path(plan.settings.lake)) as db:
        return db.execute(
            "select count(*), count(distinct problem_id), sum(is_correct::int) from trajectories"
        ).fetchall()


def test_three_workers_answer_every_question_once_and_one_of_them_closes_the_run(tmp_path: Path, url: str):
    plan = planned(tmp_path, [*SUMS, {"id": "bad"}], shard_size=10)
    ended: list[tuple[int, int, list[Path]]] = []

    async def joins() -> None:
        async def one() -> None:
            async with worker(plan) as (session, claims):
                await answer_claimed(session, claims)
                progress = session.progress
                assert (progress.n_answered, progress.n_failed) == (120, 1), "of all machines"
                session.progress.session_cost_usd = session.client.spent_usd
                summary, written = await finish_joined(plan, progress, claims, str(tmp_path / "answers.jsonl"))
                assert (summary.n_answered, summary.n_failed, progress.n_deferred) == (120, 1, 0)
                assert summary.cost_usd == pytest.approx(progress.settled_cost_usd)
                ended.append((n_sent(session), progress.session_n_settled, written))

        await asyncio.gather(*(one() for _ in range(3)))

    asyncio.run(joins())
    assert stored(plan) == [(121, 121, 120)]
    assert sum(sent for sent, _, _ in ended) == 120 and sum(settled for _, settled, _ in ended) == 121
    assert all(settled for _, settled, _ in ended), "all of them worked"
    assert [len(written) for _, _, written in ended].count(1) == 1
    assert len((tmp_path / "answers.jsonl").read_text("utf-8").splitlines()) == 121
    assert read_mark(plan.run_dir) is None, "it is finished: sessions that join nothing may look at it"
    notes = [entry.meta for name, entry in Lake(plan.settings.lake).units(plan.run_id).items() if name[0].isdigit()]
    assert len(notes) == 13 and {note["claim"] for note in notes} == {1} and all(note["worker"] for note in notes)
    with connect(Path(plan.settings.lake)) as db:
        rows = db.execute("select session, n_answered, session_cost_usd from runs order by session").fetchall()
        [[cost_usd]] = db.execute("select sum(cost_usd) from trajectories").fetchall()
    assert [row[0] for row in rows] == [0, 1, 2]
    assert sum(row[2] for row in rows) == pytest.approx(cost_usd), "each session has its own spending"


def test_a_dead_workers_shards_are_taken_over_and_nothing_it_paid_for_is_paid_again(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(of_claims, "CLAIM_S", 3.0)
    monkeypatch.setattr(of_claims, "RENEW_S", 0.1)
    plan = planned(tmp_path, SUMS, shard_size=30, max_in_flight=4)

    async def joins() -> None:
        async def dies() -> int:
            """Works until it has paid for 40 calls; then its rows are what is left of it."""
            async with database_of(url) as database:
                mark = await joining.mark_joined(plan, database)
                claims = Claims(database, mark.key)
                await claims.enter(
                    pool_path="/pool.toml", has_day_cap=False, code=code_version(), n_shards=4, open_shards=range(4)
                )
                async with CallRows(claims) as rows:
                    counted = Counted(20)
                    session = session_for(plan, counted)
                    session.journals = JoinedJournals(claims, rows)
                    claim = await claims.take()
                    assert claim is not None
                    answering = asyncio.create_task(answer_rows(session, claim.shard))
                    await counted.reached.wait()
                    answering.cancel()
                    await asyncio.gather(answering, return_exceptions=True)
                    session.checks.close()
                    return n_sent(session)

        n_by_dead = await dies()
        paid_usd_before = 0.0
        async with coordination(print) as database:
            mark = read_mark(plan.run_dir)
            assert mark is not None
            paid_usd_before = await paid_usd(database, mark.key)
        assert paid_usd_before > 0
        async with worker(plan) as (session, claims):
            await answer_claimed(session, claims)
            await finish_joined(plan, session.progress, claims, str(tmp_path / "answers.jsonl"))
            n_lost = session.progress.n_calls_lost
            assert n_by_dead + n_sent(session) - len(SUMS) <= n_lost <= 4, "asked twice: what was on its way at most"

    asyncio.run(joins())
    assert stored(plan) == [(120, 120, 120)]
    units = Lake(plan.settings.lake).units(plan.run_id)
    tokens = [entry.meta["claim"] for name, entry in units.items() if name[0].isdigit()]
    assert sorted(tokens) == [1, 1, 1, 2]


def test_a_unit_that_a_dead_worker_had_committed_counts_and_ours_is_dropped(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
):
    """Its commit came through after its claim was gone: rows of ours for the same questions are not stored."""
    plan = planned(tmp_path, SUMS[:20], shard_size=20)
    real = Lake.commit

    async def join() -> None:
        async with worker(plan) as (session, claims):

            def commit(lake: Lake, run_id: str, name: str, tables: Any, meta: Any = None) -> bool:
                monkeypatch.undo()
                assert real(lake, run_id, name, tables, meta=meta | {"claim": 0}), "theirs"
                return real(lake, run_id, name, tables, meta=meta)

            monkeypatch.setattr(Lake, "commit", commit)
            await answer_claimed(session, claims)
            assert (session.progress.n_answered, session.progress.n_deferred) == (20, 0)
            assert session.progress.dropped_cost_usd == pytest.approx(session.client.spent_usd)
            assert (await claims.look()).n_open == 0

    asyncio.run(join())
    assert stored(plan) == [(20, 20, 20)]


def test_a_stop_ends_every_worker_and_what_was_paid_is_there_when_they_join_again(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(of_claims, "RENEW_S", 0.05)
    plan = planned(tmp_path, SUMS, shard_size=60, max_in_flight=1)

    async def joins() -> None:
        n_before = 0
        counted = Counted(10)
        async with worker(plan, counted) as (session, claims):

            async def stop() -> None:
                await counted.reached.wait()
                await stop_run(claims.database, claims.run, "ann on desk")

            await asyncio.gather(answer_claimed(session, claims), stop())
            n_before = n_sent(session)
            assert 10 <= n_before < 120 and session.progress.stop_reason == "interrupted"
            summary, written = await finish_joined(plan, session.progress, claims, str(tmp_path / "answers.jsonl"))
            assert len(written) == 1, "the last to leave writes what there is"
            assert summary.n_answered + session.progress.n_deferred == 120
        with pytest.raises(ConfigError, match="--resume"):
            async with worker(plan):
                pass
        async with coordination(print) as database:
            mark = read_mark(plan.run_dir)
            assert mark is not None
            await stop_run(database, mark.key, None)
        async with worker(plan) as (session, claims):
            await answer_claimed(session, claims)
            assert session.progress.n_answered == 120
            assert n_before + n_sent(session) == 120

    asyncio.run(joins())


def test_with_the_server_restarted_in_mid_run_the_workers_wait_and_go_on(tmp_path: Path, url: str, postgres: Postgres):
    plan = planned(tmp_path, SUMS, shard_size=20)

    async def joins() -> None:
        counted = Counted(30)
        async with worker(plan, counted) as (session, claims):

            async def restart() -> None:
                await counted.reached.wait()
                await asyncio.to_thread(postgres.stop)
                n_asked = n_sent(session)
                await asyncio.sleep(0.5)
                assert n_sent(session) <= n_asked + 64, "none is sent that could not be noted"
                await asyncio.to_thread(postgres.start)

            await asyncio.gather(answer_claimed(session, claims), restart())
            await finish_joined(plan, session.progress, claims, str(tmp_path / "answers.jsonl"))
            assert n_sent(session) == 120

    asyncio.run(joins())
    assert stored(plan) == [(120, 120, 120)]


def test_a_run_that_a_session_alone_began_is_joined_with_what_it_paid_for(tmp_path: Path, url: str):
    plan = planned(tmp_path, SUMS[:40], shard_size=40, max_in_flight=1)

    async def alone() -> None:
        counted = Counted(11)
        session = session_for(plan, counted)
        with contextlib.closing(session.checks):
            answering = asyncio.create_task(answer_rows(session, 0))
            await counted.reached.wait()
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    asyncio.run(alone())
    with Journal.open(plan.journal_file(0)) as journal:
        n_paid = len(journal)
    assert n_paid >= 10

    async def join() -> None:
        async with worker(plan) as (session, claims):
            assert not plan.journal_file(0).exists()
            await answer_claimed(session, claims)
            assert n_sent(session) == 40 - n_paid

    asyncio.run(join())
    assert stored(plan) == [(40, 40, 40)]


def test_without_a_database_nothing_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = planned(tmp_path, SUMS[:2])

    async def join() -> None:
        async with run_joined(plan, POOL, print):
            raise AssertionError("joined")

    monkeypatch.delenv("R2_COORDINATION_URL", raising=False)
    with pytest.raises(ConfigError, match=r"R2_COORDINATION_URL.*pool file's limits"):
        asyncio.run(join())
    monkeypatch.setenv("R2_COORDINATION_URL", "postgresql://me:word@127.0.0.1:1/r2")
    with pytest.raises(CoordinationError, match="nothing was paid"):
        asyncio.run(join())


@contextlib.asynccontextmanager
async def database_of(url: str) -> Any:
    database = await Database.open(url)
    try:
        yield database
    finally:
        await database.close()


def test_the_version_of_the_code_is_the_same_in_every_process_and_another_with_a_changed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert code_version() == code_version()
    from tasks.answering import code_version as module

    for name in ("r2", "storage", "tasks", "flows"):
        (tmp_path / name).mkdir()
    (tmp_path / "r2" / "a.py").write_text("x = 1", "utf-8")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "tasks" / "answering" / "code_version.py"))
    before = code_version()
    (tmp_path / "r2" / "a.py").write_text("x = 2", "utf-8")
    assert code_version() != before
