"""A shard is counted when it is committed, once, however often it is tried; and slow checks leave the event loop
free."""

import asyncio
import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from r2.errors import LakeError
from storage.lake.lake import Lake
from storage.runs.journal import Journal
from storage.sql.query import connect
from tasks.answering.answer_rows import answer_rows
from tasks.answering.progress import progress_so_far
from tasks.answering.session import RunSession
from tests.support.shards import ScriptedClient, planned, session_for

SUMS = [{"id": f"q{i}", "question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(40)]


def reply(call: Any) -> str:
    number = int(call.messages[-1][1].split("What is ")[1].split()[0])
    return f"Answer: {number + 1}"


def counted(session: RunSession) -> tuple[int, ...]:
    progress = session.progress
    return progress.n_answered, progress.n_failed, progress.n_judged, progress.n_correct, progress.n_deferred


def test_a_shard_that_is_tried_three_times_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = planned(tmp_path, [*SUMS, {"id": "bad"}], shard_size=100)
    real, failures = Lake.commit, iter([OSError(28, "No space left on device")] * 2)

    def commit(lake: Lake, *args: Any, **kwargs: Any) -> bool:
        for failure in failures:
            raise failure
        return real(lake, *args, **kwargs)

    monkeypatch.setattr(Lake, "commit", commit)

    async def three_tries() -> RunSession:
        session = session_for(plan, reply)
        with contextlib.closing(session.checks):
            for _ in range(2):
                with pytest.raises(OSError, match="No space left"):
                    await answer_rows(session, 0)
                assert counted(session) == (0, 0, 0, 0, 0)
                assert session.progress.settled_cost_usd == 0
                assert session.progress.shown().n_settled == 0
            assert await answer_rows(session, 0) == {"n_rows": 41, "n_settled": 41, "n_deferred": 0}
        return session

    session = asyncio.run(three_tries())
    assert counted(session) == (40, 1, 40, 40, 0)
    assert session.client.spent_usd == pytest.approx(session.progress.settled_cost_usd), "paid once, counted once"
    with connect(tmp_path / "lake") as db:
        [stored] = db.execute("select count(*), sum(cost_usd) from trajectories").fetchall()
    assert stored == (41, pytest.approx(session.progress.settled_cost_usd))
    assert counted(session)[:2] == (progress_so_far(plan).n_answered, progress_so_far(plan).n_failed)


def test_a_commit_that_fails_after_it_took_place_is_counted_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = planned(tmp_path, SUMS)
    real = Lake.commit

    def commit(lake: Lake, *args: Any, **kwargs: Any) -> bool:
        monkeypatch.undo()
        assert real(lake, *args, **kwargs)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Lake, "commit", commit)

    async def two_tries() -> RunSession:
        session = session_for(plan, reply)
        with contextlib.closing(session.checks):
            with pytest.raises(OSError, match="Input/output"):
                await answer_rows(session, 0)
            await answer_rows(session, 0)
        return session

    session = asyncio.run(two_tries())
    assert counted(session) == (40, 0, 40, 40, 0)
    assert isinstance(session.client, ScriptedClient) and session.client.n_sent == 40


def test_while_a_shard_is_open_its_answers_are_shown_and_not_counted(tmp_path: Path):
    plan = planned(tmp_path, SUMS, max_in_flight=1)
    seen: list[tuple[int, int]] = []

    async def watched() -> None:
        def reply_and_look(call: Any) -> str:
            seen.append((session.progress.shown().n_answered, session.progress.n_answered))
            return reply(call)

        session = session_for(plan, reply_and_look)
        with contextlib.closing(session.checks):
            await answer_rows(session, 0)

    asyncio.run(watched())
    assert seen == [(i, 0) for i in range(40)]


pytestmark_linux = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux only")
LOCKED = "Answer: def sol(n={}): import _thread; l=_thread.allocate_lock(); l.acquire(); l.acquire()"
PUZZLES = [
    {"id": f"p{i}", "question": f"def sat(n: int):\n    return n == {i}", "answer": "1", "benchmark": "p3"}
    for i in range(4)
]


def hostile_or_right(call: Any) -> str:
    """Puzzles 0 and 1 are answered by code that waits for a lock for ever."""
    number = int(call.messages[-1][1].split("n == ")[1].split()[0])
    return LOCKED.format(time.monotonic_ns()) if number < 2 else f"Answer: {number}"


async def longest_silence_s(work: Any) -> float:
    """How long the event loop did not turn while `work` went on."""
    task, longest = asyncio.ensure_future(work), 0.0
    while not task.done():
        before = time.monotonic()
        await asyncio.sleep(0.01)
        longest = max(longest, time.monotonic() - before)
    await task
    return longest


@pytestmark_linux
def test_a_puzzle_that_waits_on_a_lock_holds_neither_the_loop_nor_the_other_questions(tmp_path: Path):
    pytest.importorskip("pyseccomp", exc_type=(ImportError, RuntimeError))
    plan = planned(tmp_path, [*PUZZLES, *SUMS], max_in_flight=64)

    async def session() -> tuple[RunSession, float, float]:
        session = session_for(
            plan, lambda call: hostile_or_right(call) if "sat" in call.messages[-1][1] else reply(call)
        )
        started = time.monotonic()
        with contextlib.closing(session.checks):
            silence = await longest_silence_s(answer_rows(session, 0))
        return session, silence, time.monotonic() - started

    done, silence, wall_s = asyncio.run(session())
    assert counted(done) == (44, 0, 44, 42, 0)
    assert silence < 1.0, "the machine may be busy; the sandbox waits three seconds and held the loop for sixty"
    assert wall_s < 30
    with connect(tmp_path / "lake") as db:
        wrong = db.execute("select problem_id from trajectories where not is_correct order by 1").fetchall()
        order = db.execute("select problem_id from trajectories order by input_index").fetchall()
    assert wrong == [("p0",), ("p1",)]
    assert order == [(row["id"],) for row in [*PUZZLES, *SUMS]]


@pytestmark_linux
def test_ctrl_c_does_not_wait_for_answers_that_are_being_checked_and_the_next_session_checks_them(tmp_path: Path):
    pytest.importorskip("pyseccomp", exc_type=(ImportError, RuntimeError))
    plan = planned(tmp_path, PUZZLES)

    async def interrupted() -> tuple[RunSession, float]:
        session = session_for(plan, hostile_or_right)
        with contextlib.closing(session.checks):
            answering = asyncio.ensure_future(answer_rows(session, 0))
            await asyncio.sleep(1.5)  # everything is answered; two checks are under way for a second or two more
            stopped_at = time.monotonic()
            session.stop("interrupted")
            counts = await answering
            assert counts["n_rows"] == counts["n_settled"] + counts["n_deferred"] == 4
            assert counts["n_deferred"] >= 2
            return session, time.monotonic() - stopped_at

    first, wait_s = asyncio.run(interrupted())
    assert wait_s < 2.0
    with Journal.open(plan.journal_file(0)) as journal:
        assert len(journal) == first.progress.n_deferred, "the calls of what is deferred are kept"

    async def goes_on() -> RunSession:
        session = session_for(plan, hostile_or_right)
        with contextlib.closing(session.checks):
            await answer_rows(session, 0)
        return session

    second = asyncio.run(goes_on())
    assert counted(second) == (4, 0, 4, 2, 0)
    assert isinstance(second.client, ScriptedClient) and second.client.n_sent == 0, "nothing is paid twice"


def test_a_budget_stop_still_checks_what_was_answered(tmp_path: Path):
    pytest.importorskip("math_verify")
    plan = planned(tmp_path, [{"id": "m", "question": "Half?", "answer": "1/2", "benchmark": "math"}])

    async def stopped() -> RunSession:
        def reply_and_stop(call: Any) -> str:
            session.stop("budget")
            return "Answer: \\frac{1}{2}"

        session = session_for(plan, reply_and_stop)
        with contextlib.closing(session.checks):
            await answer_rows(session, 0)
        return session

    assert counted(asyncio.run(stopped())) == (1, 0, 1, 1, 0)


def test_labelling_checks_puzzles_beside_the_loop_too(tmp_path: Path):
    pytest.importorskip("pyseccomp", exc_type=(ImportError, RuntimeError))
    labelling = {"method": "label", "labelling": {"n_candidates": 1, "n_agreement": 1}}
    plan = planned(tmp_path, PUZZLES[:1], reasoning=labelling)

    async def session() -> tuple[RunSession, float]:
        session = session_for(
            plan, lambda call: "1. Find n" if call.purpose == "teach" else LOCKED.format(time.monotonic_ns())
        )
        with contextlib.closing(session.checks):
            silence = await longest_silence_s(answer_rows(session, 0))
        return session, silence

    done, silence = asyncio.run(session())
    assert counted(done)[:2] == (0, 1)
    assert silence < 1.0
    with connect(tmp_path / "lake") as db:
        assert db.execute("select error_type from trajectories").fetchall() == [("label_no_right_plan",)]


def test_a_unit_that_somebody_else_committed_counts_and_the_rest_is_answered_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A lost race: of our 40 rows theirs had 15 by then, and these are theirs."""
    plan = planned(tmp_path, SUMS)
    real = Lake.commit

    def commit(lake: Lake, run_id: str, unit: str, tables: Any, meta: Any = None) -> bool:
        monkeypatch.undo()
        theirs = {name: [row for row in rows if int(row.problem_id[1:]) < 15] for name, rows in tables.items()}
        assert real(lake, run_id, unit, theirs, meta=meta | {"n_answered": 15, "n_correct": 15, "n_judged": 15})
        return real(lake, run_id, unit, tables, meta=meta)

    monkeypatch.setattr(Lake, "commit", commit)

    async def session() -> RunSession:
        session = session_for(plan, reply)
        with contextlib.closing(session.checks):
            assert await answer_rows(session, 0) == {"n_rows": 40, "n_settled": 40, "n_deferred": 0}
        return session

    done = asyncio.run(session())
    assert counted(done) == (40, 0, 40, 40, 0)
    assert isinstance(done.client, ScriptedClient) and done.client.n_sent == 40, "paid once, from the journal again"
    assert done.progress.dropped_cost_usd == pytest.approx(done.client.spent_usd * 15 / 40)
    with connect(tmp_path / "lake") as db:
        assert db.execute("select count(*), count(distinct problem_id) from trajectories").fetchall() == [(40, 40)]


def test_a_unit_that_is_refused_as_there_already_and_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = planned(tmp_path, SUMS)
    monkeypatch.setattr(Lake, "commit", lambda *args, **kwargs: False)

    async def session() -> None:
        session = session_for(plan, reply)
        with contextlib.closing(session.checks):
            await answer_rows(session, 0)

    with pytest.raises(LakeError, match="is not there"):
        asyncio.run(session())
