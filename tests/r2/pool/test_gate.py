"""What limits sending, each part on a clock of its own: controller, bucket, door, the host's lease, this process's
shares."""

import asyncio
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2.pool.client.tokens import TOKENS_PER_BYTE, TokenRatio
from r2.pool.file.tables import EndpointLimits
from r2.pool.limits.aimd import Controller, Times
from r2.pool.limits.gate import Gate, GateClosedError, Slot, TokenBucket
from r2.pool.limits.lease import Lease, RateGrant, RateLimits, Wait
from r2.pool.limits.shares import MoneyShare, RateShare
from tests.support.paths import ROOT


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def full_round(controller: Controller) -> None:
    """As many first-attempt successes as the limit, all of it in use."""
    controller.sent(controller.limit)
    for _ in range(controller.limit):
        controller.succeeded(first_attempt=True, was_probe=False)


def refuse(controller: Controller, now: float, retry_after_s: float | None = None) -> None:
    controller.refused(now, now, retry_after_s, was_probe=False)


def test_the_limit_starts_slowly_doubles_and_then_steps_by_five_percent():
    controller = Controller(400)
    limits = []
    for _ in range(6):
        limits.append(controller.limit)
        full_round(controller)
    # 16, 32, ..., doubling while below 0.6 * 400 = 240, then + 256 // 20 = 12
    assert [*limits, controller.limit] == [16, 32, 64, 128, 256, 268, 281]


def test_a_round_that_did_not_use_the_limit_does_not_raise_it():
    controller = Controller(400)
    controller.sent(12)  # 0.8 * 16 = 12.8
    for _ in range(16):
        controller.succeeded(first_attempt=True, was_probe=False)
    assert controller.limit == 16


def test_retried_calls_and_failures_do_not_count_towards_growth():
    controller = Controller(400)
    controller.sent(16)
    for _ in range(16):
        controller.succeeded(first_attempt=False, was_probe=False)
    assert controller.limit == 16
    controller.failed(0.0, was_probe=False)
    full_round(controller)
    assert controller.limit == 16, "the round of a failure is frozen"
    full_round(controller)
    assert controller.limit == 32


def test_a_burst_of_refusals_cuts_once_and_the_next_cut_needs_a_success_and_five_seconds():
    controller = Controller(100, jitter=lambda: 0.0)
    for _ in range(10):
        refuse(controller, 0.0)
    assert controller.limit == 13  # int(0.85 * 16)
    refuse(controller, 6.0)
    assert controller.limit == 13, "no success since"
    controller.succeeded(first_attempt=True, was_probe=False)
    refuse(controller, 6.0)
    assert controller.limit == 11  # int(0.85 * 13)
    controller.succeeded(first_attempt=True, was_probe=False)
    refuse(controller, 10.9)
    assert controller.limit == 11, "4.9 s after the last cut"


def test_a_named_time_is_waited_for_whole_and_unnamed_pauses_double():
    controller = Controller(100, jitter=lambda: 0.0)
    refuse(controller, 0.0, 7.0)
    assert controller.blocked_until == 7.0
    refuse(controller, 1.0, 2.0)
    assert controller.blocked_until == 7.0, "a shorter time never shortens the pause"
    controller = Controller(100, jitter=lambda: 1.0)
    ends = []
    for now in (0.0, 10.0, 20.0):
        refuse(controller, now)
        ends.append(controller.blocked_until - now)
    assert ends == [0.5, 1.0, 2.0]
    controller.alive()
    refuse(controller, 30.0)
    assert controller.blocked_until == 30.5, "an answer ends the streak"


@pytest.mark.parametrize("named", [0.001, 0.25, 1.0])
def test_a_servers_time_only_lengthens_our_own_pause(named: float):
    unnamed, told = Controller(100, jitter=lambda: 1.0), Controller(100, jitter=lambda: 1.0)
    for now in (0.0, 10.0, 20.0, 30.0):
        refuse(unnamed, now)
        refuse(told, now, named)
        assert told.blocked_until == max(unnamed.blocked_until, now + 1.1 * named)


def test_the_breaker_opens_after_two_minutes_of_refusals_and_later_if_the_server_asked_for_more():
    controller = Controller(10, jitter=lambda: 0.0)
    refuse(controller, 0.0)
    refuse(controller, 119.9)
    assert controller.breaker == "closed"
    refuse(controller, 120.0)
    assert controller.breaker == "open"
    patient = Controller(10, jitter=lambda: 0.0)
    refuse(patient, 0.0, 100.0)
    refuse(patient, 299.0)
    assert patient.breaker == "closed", "it asked for 100 s, so it has 300"
    refuse(patient, 300.0)
    assert patient.breaker == "open"


def test_the_breaker_opens_after_half_a_minute_of_nothing_but_failures_and_one_probe_closes_it():
    controller = Controller(10)
    for now in (0.0, 10.0, 20.0, 29.0):
        controller.failed(now, was_probe=False)
    assert controller.breaker == "closed"
    controller.failed(30.0, was_probe=False)
    assert controller.breaker == "open" and not controller.may_probe(89.9) and controller.may_probe(90.0)
    controller.begin_probe()
    assert not controller.may_probe(95.0), "one probe at a time"
    controller.failed(95.0, was_probe=True)
    assert controller.breaker == "open" and controller.may_probe(155.0)
    controller.begin_probe()
    controller.succeeded(first_attempt=True, was_probe=True)
    assert (controller.breaker, controller.limit) == ("closed", 1), "a server that was down is met with one call"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("srf"), st.floats(0, 30)), max_size=200), st.integers(1, 300))
def test_the_limit_stays_between_one_and_its_maximum_and_pauses_never_shrink(
    events: list[tuple[str, float]], most: int
):
    controller, now = Controller(most), 0.0
    for kind, passed in events:
        now += passed
        blocked = controller.blocked_until
        controller.sent(controller.limit)
        if kind == "s":
            controller.succeeded(first_attempt=True, was_probe=False)
        elif kind == "r":
            refuse(controller, now)
        else:
            controller.failed(now, was_probe=False)
        assert 1 <= controller.limit <= most
        assert controller.blocked_until >= blocked


def test_a_bucket_has_five_seconds_of_burst_and_refills_at_its_pace():
    bucket = TokenBucket(1200, 0.0)  # 20 a second, burst 100
    assert bucket.wait_s(100, 0.0) == 0
    bucket.take(100)
    assert bucket.wait_s(40, 0.0) == 2.0
    assert bucket.wait_s(40, 2.0) == 0
    bucket.take(40)
    bucket.take(-30)  # the call used 10
    assert bucket.wait_s(30, 2.0) == 0
    assert bucket.wait_s(10_000, 2.0) == pytest.approx(3.5), "more than the burst passes when the bucket is full"


def opened(limits: EndpointLimits, clock: Clock, times: Times | None = None) -> Gate:
    return Gate("owner", limits, times=times, clock=clock)


def test_a_gate_lets_in_what_the_limit_allows_and_the_rest_in_order_of_asking():
    async def scenario() -> None:
        gate = opened(EndpointLimits(max_in_flight=2), Clock())
        entered: list[int] = []

        async def caller(number: int) -> Slot:
            slot = await gate.enter(10)
            entered.append(number)
            return slot

        tasks = [asyncio.create_task(caller(number)) for number in range(4)]
        await asyncio.sleep(0.01)
        assert entered == [0, 1] and gate.in_flight == 2
        assert gate.enter_now(10) is None, "nobody passes those who wait"
        gate.leave(tasks[0].result(), "answered", used_tokens=5)
        await asyncio.sleep(0.01)
        assert entered == [0, 1, 2]
        gate.leave(tasks[1].result(), "answered", used_tokens=5)
        await asyncio.gather(*tasks)
        assert entered == [0, 1, 2, 3] and gate.starts == 4

    asyncio.run(scenario())


def test_a_pause_holds_everybody_and_a_deadline_ends_the_wait():
    async def scenario() -> None:
        clock = Clock()
        gate = opened(EndpointLimits(), clock)
        slot = await gate.enter(10)
        gate.leave(slot, "refused", retry_after_s=5.0)
        assert 5.0 <= gate.gauge().paused_s <= 5.5 and gate.gauge().rate_limited == 1
        with pytest.raises(TimeoutError):
            await gate.enter(10, asyncio.get_running_loop().time() + 0.02)
        clock.now += 5.6
        assert gate.enter_now(10) is not None

    asyncio.run(scenario())


def test_a_gate_that_is_held_lets_nobody_in_until_all_who_hold_it_let_go():
    async def scenario() -> None:
        gate = opened(EndpointLimits(), Clock())
        inside = await gate.enter(10)
        gate.hold("one server", True)
        gate.hold("another", True)
        assert gate.enter_now(10) is None
        waiting = asyncio.create_task(gate.enter(10))
        await asyncio.sleep(0.01)
        gate.leave(inside, "failed")
        gate.hold("another", False)
        await asyncio.sleep(0.01)
        assert not waiting.done() and gate.in_flight == 0
        gate.hold("one server", False)
        gate.leave(await waiting, "answered")
        gate.hold("one server", True)
        waiting = asyncio.create_task(gate.enter(10))
        await asyncio.sleep(0.01)
        gate.stop()
        with pytest.raises(GateClosedError, match="asked to stop"):
            await waiting

    asyncio.run(scenario())


def test_an_open_breaker_refuses_those_who_wait_too_and_says_why():
    async def scenario() -> None:
        gate = opened(EndpointLimits(max_in_flight=1), Clock())
        slot = await gate.enter(10)
        waiting = asyncio.create_task(gate.enter(10))
        await asyncio.sleep(0.01)
        gate.leave(slot, "bad_key", why="401 bad key")
        with pytest.raises(GateClosedError, match="owner is taken as down: 401 bad key") as refused:
            await waiting
        assert refused.value.reason == "circuit_open"
        gate.stop()
        with pytest.raises(GateClosedError, match="asked to stop"):
            await gate.enter(10)

    asyncio.run(scenario())


def test_a_cancelled_probe_leaves_the_next_one_free():
    async def scenario() -> None:
        clock = Clock()
        gate = opened(EndpointLimits(), clock, Times(probe_every_s=10.0))
        gate.leave(await gate.enter(10), "bad_key", why="401")
        clock.now += 10
        probe = await gate.enter(10)
        assert probe.is_probe
        with pytest.raises(GateClosedError):
            await gate.enter(10)
        gate.leave(probe, "abandoned")
        again = await gate.enter(10)
        assert again.is_probe
        gate.leave(again, "answered", used_tokens=1)
        assert gate.gauge().breaker == "closed"

    asyncio.run(scenario())


def grant(taken: RateGrant | Wait) -> RateGrant:
    assert isinstance(taken, RateGrant)
    return taken


def test_a_full_window_says_when_it_has_room_again(tmp_path: Path):
    clock = Clock()
    lease, limits = Lease(tmp_path / "lease.db", clock), RateLimits(10, None, window_s=60.0, margin_s=2.0)
    assert grant(lease.take("o", limits, (1, 0), (8, 0), {})).requests == 8
    clock.now += 30
    assert grant(lease.take("o", limits, (1, 0), (8, 0), {})).requests == 2, "what is left of ten"
    wait = lease.take("o", limits, (1, 0), (1, 0), {})
    assert isinstance(wait, Wait)
    assert wait.seconds == pytest.approx(32.5, abs=0.51)  # the window, the margin and one bucket after the first grant
    clock.now += wait.seconds
    assert grant(lease.take("o", limits, (1, 0), (20, 0), {})).requests == 8


def test_tokens_are_given_back_to_the_bucket_they_were_taken_from(tmp_path: Path):
    clock = Clock()
    lease, limits = Lease(tmp_path / "lease.db", clock), RateLimits(None, 1000)
    first = grant(lease.take("o", limits, (1, 900), (1, 900), {}))
    assert isinstance(lease.take("o", limits, (1, 200), (1, 200), {}), Wait)
    lease.correct("o", {first.start_us: (0.0, -500.0)})
    assert grant(lease.take("o", limits, (1, 200), (1, 200), {})).tokens == 200
    assert grant(lease.take("another owner", limits, (1, 5000), (1, 5000), {})).tokens == 1000, (
        "above the limit: all of it"
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0.0, 8.0), st.integers(1, 400)), min_size=1, max_size=120))
def test_no_window_holds_more_than_its_limit_whoever_asks(
    tmp_path_factory: pytest.TempPathFactory, asks: list[tuple[int, float, int]]
):
    clock = Clock()
    path = tmp_path_factory.mktemp("lease") / "lease.db"
    limits = RateLimits(20, 1500, window_s=60.0)
    shares = [RateShare(Lease(path, clock), "o", limits, clock) for _ in range(2)]
    sent: list[tuple[float, int]] = []
    for who, passed, tokens in asks:
        clock.now += passed
        if not isinstance(shares[who].take(tokens), Wait):
            sent.append((clock.now, tokens))
    for at, _ in sent:
        window = [tokens for then, tokens in sent if at <= then < at + 60.0]
        assert len(window) <= 20 and sum(window) <= 1500


def test_money_that_one_process_holds_is_not_the_others_until_it_is_let_go(tmp_path: Path):
    lease = Lease(tmp_path / "lease.db")
    lease.open_account("run", 1.0, spent_usd=0.2)
    mine, other = MoneyShare(lease, lambda: ["run"], 1.0), MoneyShare(lease, lambda: ["run"], 1.0)
    assert mine.reserve_now(0.5)
    assert not other.reserve_now(0.31), "0.2 spent and 0.5 held leave 0.3"
    assert other.reserve_now(0.25)
    mine.settle(0.5, 0.1)
    mine.close()
    other.settle(0.25, 0.05)
    other.close()
    cap, spent, held = lease.balance("run")
    assert (cap, held) == (1.0, 0.0)
    assert spent == pytest.approx(0.35)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.floats(1e-6, 0.4), st.floats(0, 1)), max_size=60))
def test_spent_and_held_never_pass_the_cap(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[int, float, float]]
):
    lease = Lease(tmp_path_factory.mktemp("lease") / "lease.db")
    lease.open_account("run", 1.0)
    shares_of_money = [MoneyShare(lease, lambda: ["run"], 1.0) for _ in range(3)]
    total = 0.0
    for who, usd, share in calls:
        if shares_of_money[who].reserve_now(usd):
            shares_of_money[who].settle(usd, share * usd)
            total += share * usd
        _, spent, held = lease.balance("run")
        assert spent + held <= 1.0 + 1e-9
    for money in shares_of_money:
        money.close()
    assert lease.balance("run")[1:] == (pytest.approx(total, abs=1e-9), 0.0)
    assert math.isfinite(total) and total <= 1.0 + 1e-9


def test_what_a_killed_process_held_counts_as_spent_until_a_journal_knows_better(tmp_path: Path):
    path = tmp_path / "lease.db"
    lease = Lease(path)
    lease.open_account("run", 1.0)
    code = (
        "import os, signal, sys; from pathlib import Path; from r2.pool.limits.lease import Lease, new_holder\n"
        "lease, me = Lease(Path(sys.argv[1])), new_holder('0')\n"
        "assert lease.exchange(['run'], me, keep_usd=0.0, want_usd=0.6, spent_usd=0.3)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False, cwd=ROOT)
    assert killed.returncode == -9
    assert lease.balance("run") == (1.0, 0.3, 0.6)
    Lease(path).close()
    assert lease.balance("run") == (1.0, pytest.approx(0.9), 0.0), "its calls in flight may have cost all of it"
    late = MoneyShare(lease, lambda: ["run"], 1.0)
    assert not late.reserve_now(0.15)
    late.close()
    lease.open_account("run", 1.0, spent_usd=0.35)
    assert lease.balance("run") == (1.0, 0.35, 0.0)


def test_a_reserve_waits_for_calls_that_may_give_back_and_is_refused_when_none_are_left(tmp_path: Path):
    async def scenario() -> None:
        lease = Lease(tmp_path / "lease.db")
        lease.open_account("run", 1.0)
        budget = MoneyShare(lease, lambda: ["run"], 1.0)
        assert await budget.reserve(0.8)
        waiting = asyncio.create_task(budget.reserve(0.5))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        budget.settle(0.8, 0.1)
        assert await waiting
        budget.settle(0.5, 0.5)
        assert not await budget.reserve(0.5), "0.6 is spent, and nobody is left who could give back"

    asyncio.run(scenario())


def test_tokens_are_guessed_high_until_a_model_has_told_and_by_its_own_ratio_then():
    ratio = TokenRatio()
    assert ratio.upper(1000) == round(1000 * TOKENS_PER_BYTE) == 400
    ratio.learn(400, 100)
    assert ratio.upper(1000) == 376  # 0.25 + 4 * 0.25 / 8 = 0.375, rounded up
    for _ in range(200):
        ratio.learn(400, 100)
    assert ratio.upper(1000) == 251, "the deviation of a steady ratio goes to zero"
    ratio.learn(0, 5)
    assert ratio.upper(1000) == 251


def test_a_provider_s_limits_are_kept_under_the_file_s_and_never_above_them():
    async def scenario() -> None:
        for ours, theirs, kept in ((None, 60.0, 60.0), (30.0, 60.0, 30.0), (90.0, 60.0, 60.0), (30.0, None, 30.0)):
            gate = Gate("a", EndpointLimits(max_requests_per_minute=ours, max_tokens_per_minute=ours))
            gate.keep_to(theirs, theirs)
            assert gate._pace is not None and gate._bucket is not None
            assert gate._pace.rate_limit * 60 / gate._pace.period == pytest.approx(kept)
            assert gate._bucket._per_s * 60 == pytest.approx(kept)
        gate = Gate("a", EndpointLimits())
        assert gate.enter_now(10) is not None
        gate.keep_to(60.0, None)
        assert gate.enter_now(10) is not None
        assert gate.enter_now(10) is None, "one a second"
        gate.keep_to(None, None)
        assert gate.enter_now(10) is not None

    asyncio.run(scenario())
