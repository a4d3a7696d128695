"""Batch lanes against a provider in memory: what is sent, what is paid, and what follows each fault."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from r2.call import Call, Completion
from r2.errors import BatchGoneError, BatchLaneDownError, BatchUnclearError
from r2.ledger import Price
from r2.pool.batch.jobs import LaneTimes
from r2.pool.batch.lanes import BatchEntry, Lanes
from r2.pool.batch.protocol import BatchLimits, BatchRow
from r2.pool.client.client import PoolClient
from r2.pool.client.ports import Address
from storage.runs.job_files import JobFiles, JobRecord
from storage.runs.journal import Journal
from tests.support.fake_batches import FakeBatches, FakeJob, refuses, says
from tests.support.loopback import Loopback, write_pool

HALF = Price(0.5, 0.5, 1.0, "2026-11-01", "half of the live price")
"""The live price of `write_pool` is 1 and 2 USD per million tokens."""
COST = (20 * 0.5 + 5 * 1.0) / 1e6
"""Of one row of `says`, at batch price: 20 prompt tokens and 5 generated ones."""
QUICK = LaneTimes(0.01, 0.5, 0.01, 0.02, 0.005, 0.01, 0.02, 0.04, 0.2)


def call(number: int) -> Call:
    return Call("a", (("user", f"{number} + 2?"),), "solve", 16)


@dataclass
class Run:
    """One run over its sessions: `ask` is one session of it."""

    folder: Path
    fake: FakeBatches
    options: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    n_live: int = 0
    spent_usd: float = 0.0

    @asynccontextmanager
    async def session(self, cap_usd: float | None = None, why_closed: str = "") -> AsyncIterator[tuple[Lanes, Journal]]:
        pool = write_pool(self.folder, {"a": ""})
        async with Loopback() as server:
            addresses = {"a": Address(server.base_url, "a")}
            async with PoolClient(
                pool, addresses, state_dir=self.folder / "state", max_cost_usd=cap_usd, run_account="run:r"
            ) as client:
                with JobFiles(self.folder / "jobs") as store, Journal.open(self.folder / "calls.journal") as journal:
                    entries = {"a": BatchEntry(self.fake, HALF)}
                    options = {"times": QUICK, "say": self.said.append, **self.options}
                    lanes = Lanes(client, entries, store, "run", **options)
                    lanes.lanes["a"].why_closed = why_closed
                    async with lanes:
                        yield lanes, journal
                    self.spent_usd += lanes.spent_usd
            self.n_live += len(server.arrivals)

    def ask(self, n: int, cap_usd: float | None = None) -> list[Completion]:
        """`n` calls at once, in a session that ends by itself."""

        async def one_session() -> list[Completion]:
            async with self.session(cap_usd) as (lanes, journal):
                return list(
                    await asyncio.gather(
                        *(lanes.complete(call(i), problem_id=f"p{i}", journal=journal) for i in range(n))
                    )
                )

        return asyncio.run(one_session())

    def jobs(self) -> list[JobRecord]:
        return JobFiles(self.folder / "jobs").records()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    def make(fake: FakeBatches, **options: Any) -> Run:
        return Run(tmp_path, fake, options)

    return make


Make = Callable[..., Run]


def test_waiting_calls_become_one_job_at_half_the_price(run: Make):
    one = run(FakeBatches())
    done = one.ask(20)
    assert [c.text for c in done] == ["4"] * 20
    assert one.n_live == 1, "one is sent ahead: a form that is refused would be refused row by row"
    [job] = one.jobs()
    assert (job.job.n_rows, job.is_settled, job.totals.n_answered) == (19, True, 19)
    assert job.totals.cost_usd == pytest.approx(19 * COST)
    assert job.totals.live_usd == pytest.approx(2 * job.totals.cost_usd)
    assert one.spent_usd == pytest.approx(sum(c.cost_usd for c in done))
    assert one.fake.ran.total() == len(one.fake.ran) == 19


def test_what_was_paid_is_replayed_and_nothing_is_sent(run: Make):
    one = run(FakeBatches())
    first = one.ask(5)
    again = one.ask(5)
    assert all(c.is_replayed for c in again)
    assert [c.cost_usd for c in again] == [c.cost_usd for c in first]
    assert one.fake.asked["submit"] == 1


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (BatchLimits(7, 10**8, listing_lag_s=0), 7),
        (BatchLimits(100, 4000, line_overhead_bytes=100, job_overhead_bytes=100, listing_lag_s=0), 30),
        (BatchLimits(100, 10**8, max_queued_tokens=300, listing_lag_s=0), 30),
    ],
    ids=["rows", "bytes", "queued tokens"],
)
def test_a_job_is_cut_at_the_limits_of_the_provider(run: Make, limits: BatchLimits, most: int):
    one = run(FakeBatches(limits=limits))
    assert all(c.is_ok for c in one.ask(40))
    sizes = [job.job.n_rows for job in one.jobs()]
    assert sum(sizes) == 39
    assert max(sizes) <= most and len(sizes) > 1
    if limits.max_queued_tokens:
        assert max(job.job.n_tokens for job in one.jobs()) <= limits.max_queued_tokens


def test_rows_twice_foreign_and_absent_are_counted_and_only_what_is_absent_is_asked_again(run: Make):
    def change(job: FakeJob, rows: list[BatchRow]) -> list[BatchRow]:
        if job.id != "batch_0":
            return rows
        strange = BatchRow("0" * 48, 200, rows[0].body)
        unknown = BatchRow(job.facts.id[:16] + "f" * 32, 200, rows[0].body)
        return [*rows[:-2], rows[0], strange, unknown, BatchRow("", 0, b"{half")]

    one = run(FakeBatches(change=change))
    done = one.ask(11)
    assert all(c.is_ok for c in done)
    first, second = one.jobs()
    assert first.end is not None
    assert (first.end.n_twice, first.end.n_foreign, first.end.n_absent) == (1, 3, 2)
    assert second.job.n_rows == 2
    assert first.totals.n_again == 2
    assert "2 without a row" in one.said[0]
    assert one.spent_usd == pytest.approx(sum(c.cost_usd for c in done)), "the absent ones at their worst case"
    assert sum(len(c.attempts) == 2 for c in done) == 2


@pytest.mark.parametrize("state", ["expired", "cancelled"])
def test_the_done_part_of_a_job_that_did_not_end_is_kept_and_the_rest_alone_is_asked_again(run: Make, state: str):
    one = run(FakeBatches(ends_as=[state]))  # type: ignore[list-item]
    done = one.ask(11)
    assert all(c.is_ok for c in done)
    first, second = one.jobs()
    assert (first.totals.n_answered, first.totals.n_again, second.job.n_rows) == (5, 5, 5)
    assert one.fake.ran.total() == 10, "each line was paid once"
    assert one.spent_usd == pytest.approx(sum(c.cost_usd for c in done))


def test_a_row_that_is_refused_fails_alone_and_one_that_broke_is_asked_again(run: Make):
    too_long = b'{"error": {"message": "maximum context length is 10 tokens", "code": "context_length_exceeded"}}'
    seen: set[str] = set()

    def reply(custom_id: str, body: bytes) -> BatchRow:
        if b'"3 + 2' in body:
            return BatchRow(custom_id, 400, too_long)
        if b'"5 + 2' in body and not seen:
            seen.add(custom_id)
            return BatchRow(custom_id, 500, b'{"error": {"message": "oops"}}')
        return says()(custom_id, body)

    one = run(FakeBatches(reply=reply))
    done = one.ask(8)
    assert [c.error_type for c in done] == [None, None, None, "context_length", None, None, None, None]
    assert [a.error_type for a in done[5].attempts] == ["server_error", None]
    assert [job.job.n_rows for job in one.jobs()] == [7, 1]


def test_a_file_that_is_refused_for_one_line_costs_that_line_alone_its_place(run: Make):
    one = run(FakeBatches(wrong={"submit": [refuses("line 3: bad", line=3)]}))
    done = one.ask(10)
    assert all(c.is_ok for c in done)
    assert [job.job.n_rows for job in one.jobs()] == [9, 8]
    assert one.n_live == 2, "the one sent ahead, and the one that was blamed"


def test_a_file_that_is_refused_without_a_line_is_halved(run: Make):
    one = run(FakeBatches(wrong={"submit": [refuses("bad"), refuses("bad")]}))
    assert all(c.is_ok for c in one.ask(9))
    assert sorted(job.job.n_rows for job in one.jobs()) == [2, 2, 4, 4, 8]


def test_a_provider_that_refuses_every_job_is_asked_live(run: Make):
    one = run(FakeBatches(wrong={"submit": [BatchLaneDownError("no batches for this model", "unknown_model")]}))
    assert all(c.is_ok for c in one.ask(6))
    assert one.n_live == 6
    assert one.said == ["a: batch lane closed, its calls go live: no batches for this model"]


def test_a_full_queue_is_waited_for(run: Make):
    one = run(FakeBatches(queue_tokens=200, n_polls=2))
    assert all(c.is_ok for c in one.ask(30))
    assert one.n_live == 1
    assert max(one.jobs(), key=lambda job: job.job.created_at).totals.n_answered > 0
    assert any("waits for room" in line for line in one.said)


def test_hours_of_5xx_are_survived(run: Make):
    down = [BatchUnclearError("HTTP 503") for _ in range(30)]
    one = run(FakeBatches(wrong={"status": down, "results": [BatchUnclearError("HTTP 502")] * 5}))
    assert all(c.is_ok for c in one.ask(5))
    assert one.fake.asked["submit"] == 1
    assert one.fake.asked["status"] > 30


def test_results_that_break_off_are_read_again_from_the_start(run: Make):
    def change(job: FakeJob, rows: list[BatchRow]) -> list[Any]:
        one.fake.asked["read"] += 1
        return [*rows[:4], BatchUnclearError("cut in the middle of a line")] if one.fake.asked["read"] < 3 else rows

    one = run(FakeBatches())
    one.fake.change = change
    done = one.ask(11)
    assert all(c.is_ok for c in done)
    [job] = one.jobs()
    assert job.end is not None
    assert (job.totals.n_answered, job.end.n_twice) == (10, 0)
    assert one.fake.ran.total() == 10


def test_results_that_are_gone_are_charged_at_their_worst_and_asked_again(run: Make):
    one = run(FakeBatches(wrong={"results": [BatchGoneError("kept for 29 days only")]}))
    done = one.ask(6)
    assert all(c.is_ok for c in done)
    first, second = one.jobs()
    assert first.end is not None
    assert (first.end.n_absent, first.end.why) == (5, "kept for 29 days only")
    assert second.totals.n_answered == 5
    assert first.totals.cost_usd > second.totals.cost_usd
    assert one.spent_usd == pytest.approx(sum(c.cost_usd for c in done))


def test_a_submit_without_an_answer_is_looked_for_and_not_sent_again(run: Make):
    one = run(FakeBatches(loses_answers=True))
    assert all(c.is_ok for c in one.ask(6))
    assert (one.fake.asked["submit"], one.fake.asked["find"], len(one.fake.jobs)) == (1, 1, 1)


def test_a_submit_that_broke_before_the_job_was_made_is_sent_again(run: Make):
    one = run(FakeBatches(wrong={"submit": [BatchUnclearError("upload cut"), BatchUnclearError("?", may_exist=True)]}))
    assert all(c.is_ok for c in one.ask(6))
    assert (one.fake.asked["submit"], one.fake.asked["find"], len(one.fake.jobs)) == (3, 1, 1)


def test_a_job_that_never_ends_is_rescued_live_before_the_deadline(run: Make):
    one = run(FakeBatches(n_polls=-1, share_done=0.4), deadline_s=1.0)
    done = one.ask(11)
    assert all(c.is_ok for c in done)
    [job] = one.jobs()
    assert job.end is not None and job.end.rescued
    assert (job.totals.n_answered, job.totals.n_live) == (4, 6)
    assert one.n_live == 7
    assert "given up for the deadline" in one.said[0]
    assert one.spent_usd == pytest.approx(sum(c.cost_usd for c in done))


def test_a_job_that_does_not_even_end_when_it_is_cancelled_is_counted_at_its_worst(run: Make):
    one = run(FakeBatches(n_polls=-1, ends_when_cancelled=False), deadline_s=0.8)
    done = one.ask(4)
    assert all(c.is_ok for c in done)
    [job] = one.jobs()
    assert job.end is not None and (job.end.state, job.end.n_absent) == ("abandoned", 3)
    assert one.spent_usd == pytest.approx(sum(c.cost_usd for c in done))
    assert [len(c.attempts) for c in done].count(2) == 3


def test_a_job_that_nobody_knows_of_before_the_deadline_is_counted_at_its_worst_and_asked_live(run: Make):
    unclear = [BatchUnclearError("HTTP 503") for _ in range(1000)]
    lost = [BatchUnclearError("cut", may_exist=True)]
    one = run(FakeBatches(wrong={"submit": lost, "find": unclear}), deadline_s=0.8)
    done = one.ask(4)
    assert all(c.is_ok for c in done)
    [job] = one.jobs()
    assert job.end is not None and (job.end.state, job.end.rescued, job.end.n_absent) == ("abandoned", True, 3)
    assert job.totals.n_live == 3
    assert one.fake.asked["submit"] == 1
    assert one.spent_usd == pytest.approx(sum(c.cost_usd for c in done))


def test_results_that_never_come_are_given_up_for_the_deadline_and_asked_live(run: Make):
    one = run(FakeBatches(wrong={"results": [BatchUnclearError("HTTP 503") for _ in range(1000)]}), deadline_s=0.8)
    done = one.ask(4)
    assert all(c.is_ok for c in done)
    [job] = one.jobs()
    assert job.end is not None and (job.end.state, job.end.rescued, job.end.n_absent) == ("ended", True, 3)
    assert "did not come before the deadline" in job.end.why
    assert one.fake.asked["results"] > 5
    assert [len(c.attempts) for c in done].count(2) == 3, "the lost rows count at their worst"
    assert one.spent_usd == pytest.approx(sum(c.cost_usd for c in done))


def test_the_deadline_of_a_run_that_goes_on_counts_from_its_open_job(run: Make, monkeypatch: pytest.MonkeyPatch):
    one = run(FakeBatches(n_polls=-1, share_done=0.0), deadline_s=1000.0)

    async def killed() -> None:
        async with one.session() as (lanes, journal):
            asking = [
                asyncio.ensure_future(lanes.complete(call(i), problem_id=f"p{i}", journal=journal)) for i in (0, 1)
            ]
            await one.fake.is_sent.wait()
            await asyncio.sleep(0.05)
            lanes.stop()
            await asyncio.gather(*asking)

    asyncio.run(killed())
    assert one.n_live == 1
    now = time.time
    monkeypatch.setattr("r2.pool.batch.jobs.time.time", lambda: now() + 950)
    done = one.ask(2)  # 50 s are left, and a tenth of 1,000 is kept for asking live
    assert all(c.is_ok for c in done)
    assert one.n_live == 2
    [job] = one.jobs()
    assert job.end is not None and job.end.rescued


def test_a_provider_that_takes_no_job_before_the_deadline_is_asked_live(run: Make):
    one = run(FakeBatches(wrong={"submit": [BatchUnclearError("HTTP 503") for _ in range(1000)]}), deadline_s=0.8)
    done = one.ask(4)
    assert all(c.is_ok for c in done)
    [job] = one.jobs()
    assert job.end is not None and (job.end.state, job.totals.cost_usd) == ("refused", 0.0)
    assert one.n_live == 4


def test_a_cap_holds_over_jobs_and_the_rest_is_not_sent(run: Make):
    one = run(FakeBatches())
    done = one.ask(60, cap_usd=500e-6)
    assert one.spent_usd <= 500e-6
    assert {c.error_type for c in done} == {None, "budget_exhausted"}
    assert one.spent_usd == pytest.approx(sum(c.cost_usd for c in done))


def test_a_stopped_session_leaves_its_job_and_the_next_reads_it(run: Make):
    one = run(FakeBatches(n_polls=-1))

    async def stopped() -> list[Completion]:
        async with one.session() as (lanes, journal):
            asking = asyncio.gather(*(lanes.complete(call(i), problem_id=f"p{i}", journal=journal) for i in range(6)))
            await one.fake.is_sent.wait()
            lanes.stop()
            return list(await asking)

    assert [c.error_type for c in asyncio.run(stopped())].count("stopped") == 5
    for job in one.fake.jobs.values():
        job.n_polls = 0
    done = one.ask(6)
    assert all(c.is_ok for c in done)
    assert one.fake.asked["submit"] == 1
    assert one.fake.ran.total() == 5


@pytest.mark.parametrize("at", ["intent", "created", "sent", "claimed"])
def test_after_a_kill_no_job_is_sent_twice_and_no_row_is_paid_twice(
    run: Make, monkeypatch: pytest.MonkeyPatch, at: str
):
    """The process ends between two steps: everything after it is missing on disk."""
    one = run(FakeBatches(n_polls=2))

    class KilledError(BaseException):
        pass

    def dies(*args: Any, **kwargs: Any) -> Any:
        raise KilledError

    with monkeypatch.context() as kill:
        if at == "intent":
            kill.setattr(FakeBatches, "submit", dies)
        elif at == "created":
            kill.setattr(JobFiles, "sent", dies)
        elif at == "sent":
            kill.setattr(FakeBatches, "status", dies)
        else:
            kill.setattr(JobFiles, "claim", dies)
        with pytest.raises(BaseException) as died:
            one.ask(6)
        assert died.group_contains(KilledError) if isinstance(died.value, BaseExceptionGroup) else True
    n_before = len(one.fake.jobs)
    done = one.ask(6)
    assert all(c.is_ok for c in done)
    assert len(one.fake.jobs) == 1
    assert n_before == (0 if at == "intent" else 1)
    assert max(one.fake.ran.values()) == 1
    assert all(job.is_settled for job in one.jobs())


def test_a_session_that_asks_live_still_reads_the_jobs_that_were_left(run: Make):
    one = run(FakeBatches(n_polls=-1))

    async def stopped() -> None:
        async with one.session() as (lanes, journal):
            asking = asyncio.gather(*(lanes.complete(call(i), problem_id=f"p{i}", journal=journal) for i in range(6)))
            await one.fake.is_sent.wait()
            lanes.stop()
            await asking

    async def live() -> list[Completion]:
        async with one.session(why_closed="--lane live") as (lanes, journal):
            calls = (lanes.complete(call(i), problem_id=f"p{i}", journal=journal) for i in range(8))
            return list(await asyncio.gather(*calls))

    asyncio.run(stopped())
    for job in one.fake.jobs.values():
        job.n_polls = 0
    assert all(c.is_ok for c in asyncio.run(live()))
    assert (one.fake.asked["submit"], one.fake.ran.total()) == (1, 5)
    assert one.n_live == 3, "the one sent ahead, and the two that no job has"


def test_a_wave_of_calls_comes_back_in_its_order_by_whatever_way_each_was_asked(run: Make):
    def reply(custom_id: str, body: bytes) -> BatchRow:
        number = body.split(b" + 2?")[0].rsplit(b'"', 1)[1].decode()
        return says(f"by batch: {number}")(custom_id, body)

    one = run(FakeBatches(reply=reply))

    async def wave() -> tuple[list[Completion], list[Completion]]:
        async with one.session() as (lanes, journal):
            calls = [call(0), replace(call(1), max_cost_usd=0.0), call(2), call(3)]
            first = await lanes.complete_all(calls, problem_id="p", journal=journal)
            return first, await lanes.complete_all(calls, problem_id="p", journal=journal)

    first, again = asyncio.run(wave())
    assert [one.error_type for one in first] == [None, "question_budget", None, None]
    assert [one.text for one in first[2:]] == ["by batch: 2", "by batch: 3"]
    assert first[0].text == "4", "sent ahead, live"
    assert [one.is_replayed for one in again] == [True, False, True, True]


def test_a_question_that_is_given_up_leaves_its_row_to_the_next_session(run: Make):
    one = run(FakeBatches(n_polls=-1))

    async def given_up() -> None:
        async with one.session() as (lanes, journal):
            asking = asyncio.gather(*(lanes.complete(call(i), problem_id=f"p{i}", journal=journal) for i in range(4)))
            await one.fake.is_sent.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            for job in one.fake.jobs.values():
                job.n_polls = 0
            await asyncio.sleep(0.2)

    asyncio.run(given_up())
    assert all(c.is_ok for c in one.ask(4))
    assert (one.fake.asked["submit"], one.fake.ran.total()) == (1, 3)


def test_a_cap_holds_over_a_job_that_a_killed_session_left(run: Make, monkeypatch: pytest.MonkeyPatch):
    """Its rows are asked for one after the other, long after it is over, and each counts."""
    one = run(FakeBatches())

    class KilledError(BaseException):
        pass

    def dies(*args: Any, **kwargs: Any) -> Any:
        raise KilledError

    with monkeypatch.context() as kill:
        kill.setattr(FakeBatches, "status", dies)
        with pytest.raises(KilledError):
            one.ask(11, cap_usd=2000e-6)

    async def slowly() -> tuple[list[Completion], float]:
        async with one.session(2000e-6) as (lanes, journal):
            done = []
            for i in range(11):
                done.append(await lanes.complete(call(i), problem_id=f"p{i}", journal=journal))
            assert lanes.spent_usd == pytest.approx(10 * COST), "the call that was sent ahead is in the journal"
            return done, lanes.unspent_usd()

    done, unspent_usd = asyncio.run(slowly())
    assert all(c.is_ok for c in done)
    assert unspent_usd == pytest.approx(2000e-6 - 10 * COST)
    [job] = one.jobs()
    assert job.is_settled
