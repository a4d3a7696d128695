"""The lanes of a run: stands where the pool client would, and sends each call live or by its entry's batch lane.

A call of a batch lane waits for its row, is made durable in its own journal under its own key, and only then is its
line of the job claimed: after a kill each row is in the journal, or is read from the provider once more. A call that is
asked again brings what it has cost so far with it, in the journal as well.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from r2.call import ROUTER_PURPOSES, Call, Completion
from r2.errors import is_asked_again
from r2.ledger import Price, cost_usd, worst_cost_usd
from r2.pool.batch.jobs import Clock, LaneGauge, LaneTimes, Outcome, SystemClock, Waiting, Wave
from r2.pool.batch.lane import Lane
from r2.pool.batch.ports import Claim, JobStore, StoredJob
from r2.pool.batch.protocol import BatchLine, BatchProvider
from r2.pool.batch.reading import paid_so_far
from r2.pool.client.client import PoolClient, paid_attempts
from r2.pool.client.gauges import ModelGauge
from r2.pool.client.ports import CallJournal, NoJournal

MOST_UNKEPT: Final = 4096
"""Rows in memory that are not on disk yet."""
_NO_JOURNAL: Final = NoJournal()
_AS_CLAIM: Final[Mapping[str, Claim]] = {"answered": "answered", "failed": "failed", "again": "again", "live": "live"}


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """A pool entry whose calls go by batch. `routes`: its calls as decomposer or allocator do as well; else these go
    live, as each question waits for them before anything else."""

    provider: BatchProvider
    price: Price
    routes: bool = False


class Lanes:
    """`entries` are those that go by batch; `deadline_s` is counted from now, or from when the oldest job that is still
    open was made; None: no deadline. `say` gets a line where something is not as usual. Used inside `async with`, and a
    client of the same run inside it."""

    def __init__(
        self,
        client: PoolClient,
        entries: Mapping[str, BatchEntry],
        store: JobStore,
        run_id: str,
        *,
        deadline_s: float | None = None,
        times: LaneTimes | None = None,
        clock: Clock | None = None,
        say: Callable[[str], None],
    ) -> None:
        self._client = client
        self._entries = entries
        self._store = store
        self._clock = clock or SystemClock()
        self._times = times or LaneTimes()
        self._deadline_s = deadline_s
        self._began = self._clock.monotonic()
        self._deadline = math.inf if deadline_s is None else self._began + deadline_s
        self._n_live = 0
        self._due: list[_Due] = []
        self._keeping: set[asyncio.Task[None]] = set()
        self._n_unkept = 0
        self._has_kept = asyncio.Event()
        opened = client.opened
        self.lanes = {
            name: Lane(
                opened.entries[name],
                entry.price,
                entry.provider,
                store,
                run_id,
                money=opened.money,
                times=self._times,
                clock=self._clock,
                others_under_way=lambda: self._n_live,
                rescue_at=lambda n_rows, name=name: self._rescue_at(name, n_rows),  # type: ignore[misc]
                say=say,
                told=self._told,
                ease=self._ease,
            )
            for name, entry in entries.items()
        }

    async def __aenter__(self) -> "Lanes":
        left: dict[str, list[tuple[StoredJob, Collection[BatchLine]]]] = {name: [] for name in self.lanes}
        for stored in self._store.open_jobs():
            if stored.job.entry in left:
                left[stored.job.entry].append((stored, self._store.lines(stored.job)))
                if stored.end is None:  # oldest first; a clock that was set back gives no more than the whole of it
                    waited_s = max(0.0, self._clock.time() - stored.job.created_at)
                    self._deadline = min(self._deadline, self._began + (self._deadline_s or math.inf) - waited_s)
        for name, lane in self.lanes.items():
            lane.open(left[name])
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Nothing is asked any more; what is spent is known then."""
        for lane in self.lanes.values():
            await lane.close()
        await asyncio.gather(*self._keeping, return_exceptions=True)

    @property
    def spent_usd(self) -> float:
        return self._client.spent_usd + sum(lane.spent_usd for lane in self.lanes.values())

    def unspent_usd(self) -> float:
        return self._client.unspent_usd()

    def gauges(self) -> list[ModelGauge]:
        return self._client.gauges()

    def lane_gauges(self) -> list[LaneGauge]:
        """Each lane now, in the pool's order."""
        return [lane.gauge() for lane in self.lanes.values()]

    def not_sent(self, call: Call) -> tuple[str, ...]:
        return self._client.not_sent(call)

    def stop(self) -> None:
        """As the client's; jobs stay with the provider and are read by the next session."""
        self._client.stop()
        for lane in self.lanes.values():
            lane.stop()

    def give_up(self) -> None:
        self._client.give_up()

    async def complete(
        self,
        call: Call,
        *,
        problem_id: str,
        rollout: int = 0,
        journal: CallJournal = _NO_JOURNAL,
        replay_failures: bool = False,
    ) -> Completion:
        """As `PoolClient.complete`."""
        place = problem_id, rollout
        wave = Wave(1, asyncio.get_running_loop().create_future())
        waiting = self._waiting(call, wave, 0, journal, place, replay_failures=replay_failures)
        if waiting is None:
            return await self._live(call, place, journal, replay_failures=replay_failures)
        [completion] = await self._waited(wave, [waiting])
        return completion

    async def complete_all(
        self,
        calls: Sequence[Call],
        *,
        problem_id: str,
        rollout: int = 0,
        journal: CallJournal = _NO_JOURNAL,
        replays_failure: Callable[[Call], bool] = lambda call: False,
    ) -> list[Completion]:
        """The same for a wave of calls, in their order, without a task for each that goes by batch."""
        place = problem_id, rollout
        wave = Wave(len(calls), asyncio.get_running_loop().create_future())
        waiting: list[Waiting] = []
        for index, call in enumerate(calls):
            replays = replays_failure(call)
            one = self._waiting(call, wave, index, journal, place, replay_failures=replays)
            if one is None:
                self._begin_live(wave, index, call, place, journal, replay_failures=replays)
            else:
                waiting.append(one)
        return await self._waited(wave, waiting)

    async def _waited(self, wave: Wave, waiting: Sequence[Waiting]) -> list[Completion]:
        for one in waiting:
            self.lanes[one.call.model].add(one)
        try:
            await wave.done
        except BaseException:
            for task in wave.tasks:
                task.cancel()
            raise
        return [completion for completion in wave.results if completion is not None]

    def _waiting(
        self,
        call: Call,
        wave: Wave,
        index: int,
        journal: CallJournal,
        place: tuple[str, int],
        *,
        replay_failures: bool,
    ) -> Waiting | None:
        """The call as its lane waits for it; None: it is the client's, which also has what the journal knows."""
        lane = self.lanes.get(call.model)
        if lane is None or not self._goes_by_batch(call, lane):
            return None
        key = call.journal_key(*place)
        stored = journal.find(key)
        known = None if stored is None else Completion.from_bytes(stored)
        if known is not None:
            is_asked = is_asked_again(known.error_type)
            if not is_asked and lane.holds(key):
                self._claimed(lane, key, known)
            if replay_failures or not is_asked:
                return None
        if not (lane.is_open() or lane.holds(key)):
            return None
        worst = lane.entry.card.worst_case(call.messages, call.max_output_tokens, call.json_schema)
        worst_usd = worst_cost_usd(lane.price, worst)
        if call.max_cost_usd is not None and worst_usd > call.max_cost_usd:
            return None  # the client says so, as a failure of the question
        attempts = () if known is None else tuple(paid_attempts(known))
        return Waiting(call, key, wave, index, journal, place, worst, worst_usd, self._clock.time(), attempts)

    # --- what became of a call

    def _told(self, lane: Lane, waiting: Waiting, outcome: Outcome) -> None:
        """Called by a lane, once for each time that a call was added to it."""
        if waiting.wave.done.done():
            lane.probed()  # it will not be asked
            return  # nobody waits any more: its row is read by the next session
        if outcome.next not in _AS_CLAIM:
            waiting.wave.settle(waiting.index, _unsent(waiting, outcome))
            return
        if not self._due:
            asyncio.get_running_loop().call_soon(self._flush)
        self._due.append((lane, waiting, outcome))
        self._n_unkept += 1

    def _flush(self) -> None:
        """What was told since, to the journals: many records at a time."""
        due, self._due = self._due, []
        by_journal: dict[int, list[_Due]] = {}
        for one in due:
            by_journal.setdefault(id(one[1].journal), []).append(one)
        for part in by_journal.values():
            task = asyncio.create_task(self._keep(part))
            self._keeping.add(task)
            task.add_done_callback(self._keeping.discard)

    async def _keep(self, due: "list[_Due]") -> None:
        """On disk first; then claimed of its job; then used, or asked again."""
        try:
            records = []
            for _, waiting, outcome in due:
                kept = outcome.completion or paid_so_far(waiting.call, waiting.attempts)
                if kept is not None:
                    record = kept.to_bytes(waiting.call.request_sha(), waiting.place[0])
                    records.append((waiting.key, record, kept.cost_usd))
            if records:
                await due[0][1].journal.commit_all(records)
            for lane, waiting, outcome in due:
                self._use(lane, waiting, outcome)
            self._store.flush()
        except BaseException as error:
            for _, waiting, _ in due:
                waiting.wave.fail(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._n_unkept -= len(due)
            self._has_kept.set()

    async def _ease(self) -> None:
        """Where the disk is slow, rows are read no faster than they are made durable."""
        await asyncio.sleep(0)
        while self._n_unkept > MOST_UNKEPT:
            self._has_kept.clear()
            await self._has_kept.wait()

    def _use(self, lane: Lane, waiting: Waiting, outcome: Outcome) -> None:
        claim = _AS_CLAIM[outcome.next]
        if outcome.job is not None:
            outcome.job.claim(waiting.key, claim, outcome.cost_usd, outcome.live_usd)
        completion = outcome.completion
        if completion is not None:
            lost_usd = waiting.journal.lost_usd(waiting.key)
            waiting.wave.settle(waiting.index, replace(completion, lost_usd=lost_usd) if lost_usd else completion)
        elif outcome.next == "again" and lane.is_open():
            waiting.queued_at = self._clock.time()
            lane.add(waiting)
        else:
            self._begin_live(
                waiting.wave,
                waiting.index,
                waiting.call,
                waiting.place,
                waiting.journal,
                replay_failures=False,
                then=lane.probed,
            )

    def _begin_live(
        self,
        wave: Wave,
        index: int,
        call: Call,
        place: tuple[str, int],
        journal: CallJournal,
        *,
        replay_failures: bool,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        async def ask() -> None:
            try:
                completion = await self._live(call, place, journal, replay_failures=replay_failures)
            except BaseException as error:
                wave.fail(error)
                if isinstance(error, asyncio.CancelledError):
                    raise
            else:
                wave.settle(index, completion)
            finally:
                then()

        wave.tasks.append(asyncio.create_task(ask()))

    async def _live(
        self, call: Call, place: tuple[str, int], journal: CallJournal, *, replay_failures: bool
    ) -> Completion:
        self._n_live += 1
        try:
            return await self._client.complete(
                call, problem_id=place[0], rollout=place[1], journal=journal, replay_failures=replay_failures
            )
        finally:
            self._n_live -= 1

    def _goes_by_batch(self, call: Call, lane: Lane) -> bool:
        if call.purpose == "program":
            return False
        if call.purpose in ROUTER_PURPOSES and not self._entries[call.model].routes:
            return False
        return not (lane.entry.bills.why_closed or lane.entry.habits.why_closed)

    def _claimed(self, lane: Lane, key: str, known: Completion) -> None:
        """The journal has what a job of an earlier session brought; the kill came before its line was claimed."""
        last = known.attempts[-1] if known.attempts else None
        if last is not None:
            lane.known(key, last.cost_usd, cost_usd(lane.entry.price, last.usage))
            self._store.flush()

    def _rescue_at(self, name: str, n_rows: int) -> float:
        """When so many calls must go live to be answered before the deadline: a tenth of the deadline before it, or as
        long as the entry's limits need for them and a cancelled job may take to end, at most half of it."""
        if self._deadline_s is None:
            return math.inf
        limits = self.lanes[name].entry.table
        per_minute = limits.max_requests_per_minute
        live_s = 60 * n_rows / per_minute if per_minute else 0.0
        need_s = max(0.1 * self._deadline_s, live_s + self._times.cancel_most_s)
        return self._deadline - min(need_s, 0.5 * self._deadline_s)


def _unsent(waiting: Waiting, outcome: Outcome) -> Completion:
    if outcome.next == "stopped":
        error_type, message = "stopped", "the run was stopped while the call waited for its batch job"
    else:
        error_type = "budget_exhausted"
        message = f"USD {waiting.worst_usd:.6f} that this call may cost by batch would pass a money cap"
    return Completion("", waiting.call.model, tuple(waiting.attempts), "", error_type=error_type, error_message=message)


_Due = tuple[Lane, Waiting, Outcome]
