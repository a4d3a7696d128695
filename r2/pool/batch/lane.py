"""One entry's lane: its waiting calls gathered into jobs, the jobs sent, followed and read.

A job is cut when the provider's limits are reached, when nothing else of the run can advance, or after half a minute.
In order, for each: lines and intent on disk, money set aside line by line, sent, the provider's id on disk, polled,
read. Rows are handed to the calls that wait for them (`r2/pool/batch/lanes.py` makes them durable); lines that did not
run are asked again, three times at most, then live. What cannot be sent here is asked live: the lane is closed where
the provider takes no job, and near the deadline.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable
from statistics import median
from typing import Any

from r2.ledger import Price, cost_usd, worst_cost_usd
from r2.pool.batch.carrying import TURN, Carrier
from r2.pool.batch.jobs import ID_DIGITS, Clock, LaneGauge, LaneTimes, OpenJob, Outcome, Waiting
from r2.pool.batch.ports import JobEnd, JobStore, LinesWriter, StoredJob
from r2.pool.batch.protocol import BatchJob, BatchLine, BatchProvider, BatchRow
from r2.pool.batch.reading import Next, ReadRow, lost, not_run, read_row
from r2.pool.client.client import body_for
from r2.pool.client.entries import Entry
from r2.pool.client.wire import ParsedReply, parse_body
from r2.pool.limits.ports import Money

MOST_TRIES = 3
"""Jobs that a call is in; then it is asked live."""
MOST_REFUSED = 8
"""Jobs that a provider refuses before it has answered one, and its lane is closed."""


class Lane:
    """`price` is the entry's batch price. `others_under_way` says how many calls of the run are on their way live;
    `rescue_at` is the monotonic time at which a job of so many rows must be given up for the deadline; `say` gets a
    line where something is not as usual, `told` what became of each call."""

    def __init__(
        self,
        entry: Entry,
        price: Price,
        provider: BatchProvider,
        store: JobStore,
        run_id: str,
        *,
        money: Money | None,
        times: LaneTimes,
        clock: Clock,
        others_under_way: Callable[[], int],
        rescue_at: Callable[[int], float],
        say: Callable[[str], None],
        told: "Callable[[Lane, Waiting, Outcome], None]",
        ease: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self.entry = entry
        self.price = price
        self.provider = provider
        self.why_closed = ""
        self.spent_usd = 0.0
        self.jobs: list[OpenJob] = []
        """Open ones."""
        self.n_arrived = 0
        self._store = store
        self._run_id = run_id
        self._money = money
        self._times = times
        self._clock = clock
        self._others_under_way = others_under_way
        self.rescue_at = rescue_at
        self._say = say
        self._told = told
        self.ease = ease
        self._carrier = Carrier(self, provider, store, times, clock)
        self._queue: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._recovered: dict[str, OpenJob] = {}
        self._probe: asyncio.Event | None = None
        self._n_probes = 0
        self._is_proven = entry.habits.has_answered or store.was_answered(entry.name)
        self._most_rows = provider.limits.max_rows
        self._most_tokens = float("inf")  # of the provider's queue, as its refusals taught
        self._not_before = 0.0
        self._queue_pause_s = times.queue_first_s
        self._n_refused = 0
        self._took_s: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopped = False
        self._broken: BaseException | None = None

    # --- from the calls' side

    def open(self, left: Iterable[tuple[StoredJob, Collection[BatchLine]]]) -> None:
        """Takes up the jobs that earlier sessions left, and begins to gather."""
        for stored, lines in left:
            job = OpenJob.stored(stored, lines, self._store)
            self.jobs.append(job)
            if stored.end is not None:
                job.end = stored.end
            for key in job.slots:
                self._recovered[key] = job
            if self._money is not None:  # as much as there is: what a killed session held may count as spent already
                worst_usd = job.facts.worst_usd
                job.block_usd = next((usd for usd in (worst_usd, 0.0) if self._money.reserve_now(usd)), None)
            self.entry.tally.in_flight += len(job.slots)
            self._start(self._carrier.resume(job))
        self._start(self._gather())

    def is_open(self) -> bool:
        """Whether new calls are taken."""
        return not self.why_closed and not self._is_stopped

    def holds(self, key: str) -> bool:
        """Whether a job of an earlier session has this call: then its row is waited for, whatever the lane is like."""
        return key in self._recovered

    def add(self, waiting: Waiting) -> None:
        """A call waits from now on, until `told` is called for it."""
        if self._broken is not None:
            waiting.wave.fail(self._broken)
            return
        waiting.is_told = False
        self.n_arrived += 1
        job = self._recovered.pop(waiting.key, None)
        if job is None:
            self._queue.append(waiting)
            self._arrived.set()
            return
        row = job.slots.get(waiting.key)
        job.slots[waiting.key] = waiting
        if isinstance(row, BatchRow):
            self.deliver(job, waiting, row)
        elif job.is_over:
            self._without_row(job, waiting)
        if self._is_stopped:
            self._tell(waiting, Outcome("stopped"))

    def known(self, key: str, cost: float, live: float) -> None:
        """The journal has the answer of a call that a job of an earlier session has: it is claimed."""
        job = self._recovered.pop(key)
        job.slots.pop(key, None)
        job.before.add(key)
        self.entry.tally.in_flight -= 1
        job.claim(key, "answered", cost, live)
        self._settle_block(job)

    def probed(self) -> None:
        """A call that was sent ahead, live, has ended."""
        if self._probe is not None:
            self._probe.set()

    def stop(self) -> None:
        """Calls are not waited for any more. Jobs stay with the provider, and the next session reads them."""
        self._is_stopped = True
        stopped = [*self._queue, *(slot for job in self.jobs for slot in job.slots.values())]
        self._queue.clear()
        for waiting in stopped:
            if isinstance(waiting, Waiting):
                self._tell(waiting, Outcome("stopped"))
        if self._probe is not None:
            self._probe.set()

    async def close(self) -> None:
        """Ends the lane's tasks. Rows that nobody asked for are counted as paid and unused."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in self.jobs:
            if job.is_over and not self._is_stopped:
                self._count_unused(job)
            self._settle_block(job, is_closing=True)

    def gauge(self) -> LaneGauge:
        now = self._clock.time()
        n_in_jobs = sum(len(job.slots) for job in self.jobs if not job.is_over)
        return LaneGauge(
            self.entry.name,
            len(self._queue),
            n_in_jobs,
            sum(not job.is_over for job in self.jobs),
            sum(job.n_provider_done or 0 for job in self.jobs if not job.is_over),
            max((now - job.sent_at for job in self.jobs if not job.is_over), default=0.0),
            self.why_closed,
        )

    # --- gathering

    async def _gather(self) -> None:
        while True:
            await self._arrived.wait()
            await self._quiet()
            self._arrived.clear()
            if not self._may_send():
                self._all_live()
            elif not self._is_proven:
                await self._send_ahead()
                self._arrived.set()
            else:
                await self._cut()
                if self._queue:
                    self._arrived.set()

    async def _quiet(self) -> None:
        """Until no further call can be expected soon, or a job is full."""
        began = self._clock.monotonic()
        while True:
            n_before = self.n_arrived
            await self._clock.sleep(self._times.gather_s)
            if len(self._queue) >= self.provider.limits.max_rows:
                return
            if self.n_arrived == n_before and self._others_under_way() == 0:
                return
            if self._clock.monotonic() - began >= self._times.gather_most_s:
                return

    def _may_send(self) -> bool:
        """Whether a job that is sent now can be back in time."""
        if not self.is_open():
            return False
        usual_s = median(self._took_s) if self._took_s else 0.0
        if self._clock.monotonic() + usual_s < self.rescue_at(len(self._queue)):
            return True
        self.close_for(f"a further job would not be back before the deadline (they took {usual_s:.0f} s)")
        return False

    def close_for(self, why: str) -> None:
        """From now on calls of this entry are asked live."""
        if not self.why_closed:
            self.why_closed = why
            self._say(f"{self.entry.name}: batch lane closed, its calls go live: {why}")

    def _all_live(self) -> None:
        waiting = list(self._queue)
        self._queue.clear()
        for one in waiting:
            self._tell(one, Outcome("live"))

    async def _send_ahead(self) -> None:
        """One call live: a job whose form is refused would be refused row by row, thousands of times."""
        if not self._queue:
            return
        self._n_probes += 1
        if self._n_probes > MOST_TRIES:
            self.close_for(f"{MOST_TRIES} calls that were sent ahead of the first job had no answer")
            self._all_live()
            return
        self._probe = asyncio.Event()
        self._tell(self._queue.popleft(), Outcome("live"))
        await self._probe.wait()
        self._probe = None
        self._is_proven = self.entry.habits.has_answered

    async def _cut(self) -> None:
        """What waits, as jobs within the limits, each on its way as soon as it is written."""
        while self._queue and self._may_send():
            wait_s = self._not_before - self._clock.monotonic()
            if wait_s > 0:
                await self._next_room(wait_s)
                continue
            job = await self._written()
            if job is not None:
                self.jobs.append(job)
                self._start(self._carrier.carry(job))
            elif self._queue:
                await self._next_room(self._times.queue_first_s)

    def _token_room(self) -> float:
        """Prompt tokens that the provider's queue has room for, as far as we know."""
        limit = min(self._most_tokens, self.provider.limits.max_queued_tokens or float("inf"))
        return limit - sum(job.facts.n_tokens for job in self.jobs if not job.is_over)

    async def _next_room(self, most_s: float) -> None:
        """Until a job is over, or `most_s`: other runs may share the queue, and the money."""
        self._room.clear()
        sleeper = asyncio.ensure_future(self._clock.sleep(most_s))
        room = asyncio.ensure_future(self._room.wait())
        try:
            await asyncio.wait({sleeper, room}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            room.cancel()

    async def _written(self) -> OpenJob | None:
        """The next job, its lines on disk; None where no line could be taken now."""
        limits, job_id, room = self.provider.limits, secrets.token_hex(16), self._token_room()
        is_alone = all(job.is_over for job in self.jobs)
        writer = self._store.writer(job_id)
        slots: dict[str, Waiting | BatchRow | None] = {}
        n_bytes, n_tokens, worst_usd = limits.job_overhead_bytes, 0, 0.0
        n_body = 0
        try:
            while self._queue and len(slots) < self._most_rows and not self._is_stopped:
                waiting = self._queue[0]
                body = body_for(self.entry, waiting.call, streams=False)
                tokens = self.entry.ratio.upper(len(body))
                size = len(body) + limits.line_overhead_bytes
                is_too_large = limits.job_overhead_bytes + size > limits.max_bytes
                if is_too_large or tokens > (limits.max_queued_tokens or tokens):
                    self._queue.popleft()
                    self._tell(waiting, Outcome("live"))  # no job can have it
                    continue
                is_full = n_bytes + size > limits.max_bytes or waiting.key in slots
                if is_full or (n_tokens + tokens > room and (slots or not is_alone)):
                    break
                if self._money is not None and not self._money.reserve_now(waiting.worst_usd):
                    if slots or self._is_money_out():
                        break
                    self._queue.popleft()
                    self._tell(waiting, Outcome("budget"))
                    continue
                self._queue.popleft()
                slots[waiting.key] = waiting
                waiting.n_tries += 1
                writer.add(job_id[:ID_DIGITS] + waiting.key, body)
                n_bytes, n_tokens, worst_usd = n_bytes + size, n_tokens + tokens, worst_usd + waiting.worst_usd
                n_body += len(body)
                if len(slots) % TURN == 0:
                    await asyncio.sleep(0)
        except BaseException:
            writer.drop()
            raise
        if not slots:
            writer.drop()
            return None
        return self._intended(job_id, slots, writer, (n_body, n_tokens, worst_usd))

    def _is_money_out(self) -> bool:
        """Whether money is set aside that may come back: for jobs, or for calls on their way."""
        return any(not job.is_over for job in self.jobs) or self._others_under_way() > 0

    def _intended(
        self,
        job_id: str,
        slots: dict[str, Waiting | BatchRow | None],
        writer: LinesWriter,
        sizes: tuple[int, int, float],
    ) -> OpenJob:
        lines = writer.finish()
        facts = BatchJob(job_id, self._run_id, self.entry.name, len(slots), *sizes, self._clock.time())
        self._store.intend(facts)
        job = OpenJob(facts, lines, self._store, slots)
        job.n_unclaimed = len(slots)
        job.sent_at, job.sent_monotonic = facts.created_at, self._clock.monotonic()
        self.entry.tally.in_flight += len(slots)
        return job

    # --- what comes of a job

    def took(self, seconds: float) -> None:
        """A job has ended by itself: the provider takes jobs of this size, and needs so long."""
        self._took_s.append(seconds)
        self._queue_pause_s, self._most_rows = self._times.queue_first_s, self.provider.limits.max_rows
        self._most_tokens *= 2

    def deliver(self, job: OpenJob, waiting: Waiting, row: BatchRow) -> None:
        now = self._clock.time()
        read = read_row(
            self.entry,
            self.price,
            waiting.call,
            waiting.worst,
            waiting.worst_usd,
            row,
            waiting.attempts,
            sent_at=job.sent_at,
            queue_s=max(0.0, job.sent_at - waiting.queued_at),
            latency_s=max(0.0, now - job.sent_at),
        )
        self._answered(job, waiting, read)

    def _answered(self, job: OpenJob, waiting: Waiting, read: ReadRow) -> None:
        del job.slots[waiting.key]
        self._recovered.pop(waiting.key, None)
        cost = read.attempt.cost_usd
        self._pay(job, waiting.worst_usd, cost)
        waiting.attempts = (*waiting.attempts, read.attempt)
        if read.next == "answered":
            self.entry.tally.answered(read.attempt.latency_s)
            self._is_proven = True
        else:
            self.entry.tally.errors += 1
        following = read.next
        if following == "again" and (waiting.n_tries >= MOST_TRIES or not self.is_open()):
            following = "live"
        self._tell(waiting, Outcome(following, read.completion, job, cost, read.live_usd))

    def _pay(self, job: OpenJob, worst_usd: float, cost: float) -> None:
        self.spent_usd += cost
        self.entry.tally.cost_usd += cost
        self.entry.tally.in_flight -= 1
        if self._money is None:
            return
        if not job.is_recovered:
            self._money.settle(worst_usd, cost)
        else:
            job.block_spent_usd += cost
            self._settle_block(job)

    def _settle_block(self, job: OpenJob, *, is_closing: bool = False) -> None:
        """Books what the lines of an earlier session's job cost, once every one of them has been asked for."""
        is_due = is_closing or (job.is_over and not job.slots)
        if self._money is not None and job.block_usd is not None and is_due:
            self._money.settle(job.block_usd, job.block_spent_usd)
            job.block_usd = None

    def over(self, job: OpenJob, end: JobEnd, *, is_lost: bool = False) -> None:
        """The job is over: lines without a row are asked again. `is_lost`: they may have run, and are charged the most
        that they may have cost."""
        job.end, job.is_over = end, True
        without = [slot for key, slot in job.slots.items() if key not in job.done]
        end.n_absent = len(without) if is_lost else 0
        self._store.over(job.facts.id, end)
        if end.n_twice or end.n_foreign or end.n_absent:
            self._say(
                f"{self.entry.name}: job {job.facts.id[:8]} of {job.facts.n_rows} calls had {end.n_twice} rows twice, "
                f"{end.n_foreign} that are not its own, and {end.n_absent} without a row, which are asked again"
                + (f" ({end.why})" if end.why else "")
            )
        self._settle_block(job)
        for slot in without:
            if isinstance(slot, Waiting):
                self._without_row(job, slot)
        self._room.set()
        job.settle_if_done()
        self.jobs = [one for one in self.jobs if not one.is_settled]

    def _without_row(self, job: OpenJob, waiting: Waiting) -> None:
        why = job.end.why or f"the batch job ended as {job.end.state} without a row for this call"
        about = (self.entry, self.price, waiting.attempts, why, job.sent_at)
        attempt = lost(*about, waiting.worst) if job.end.n_absent else not_run(*about)
        live_usd = worst_cost_usd(self.entry.price, waiting.worst) if attempt.cost_usd else 0.0
        following: Next = "live" if job.end.state in ("refused", "abandoned") else "again"
        self._answered(job, waiting, ReadRow(following, attempt, live_usd))

    def refused(self, job: OpenJob, why: str, line: int | None) -> None:
        """A job refused whole. The line that is blamed goes live, where it gets its own refusal; without one the job is
        halved until it shows: nothing of it ran, and nothing is billed."""
        self._n_refused += 1
        self._say(f"{self.entry.name}: job {job.facts.id[:8]} of {job.facts.n_rows} calls is refused: {why}")
        if self._n_refused >= MOST_REFUSED and not self._took_s:
            self.close_for(f"{self._n_refused} jobs were refused, and none was answered: {why}")
        keys = list(job.slots)
        blamed = {keys[line - 1]} if line is not None and 0 < line <= len(keys) else set()
        if len(keys) == 1:
            blamed = set(keys)
        if blamed:
            self._most_rows = self.provider.limits.max_rows
        else:
            self._most_rows = max(1, len(keys) // 2)
        self._give_back(job, why, blamed)

    def queue_full(self, job: OpenJob, why: str) -> None:
        """More waits at the provider than it takes: what we have there is the limit, as far as we can tell. Where we
        have nothing, another run may share the queue: a smaller job is tried, after a pause that grows."""
        there = sum(one.facts.n_tokens for one in self.jobs if not one.is_over and one is not job)
        self._most_tokens = there or job.facts.n_tokens // 2
        if not there:
            self._not_before = self._clock.monotonic() + self._queue_pause_s
            self._queue_pause_s = min(self._queue_pause_s * 1.5, self._times.queue_most_s)
        self._say(f"{self.entry.name}: job {job.facts.id[:8]} waits for room in the provider's queue: {why}")
        self._give_back(job, why, set())

    def _give_back(self, job: OpenJob, why: str, blamed: set[str]) -> None:
        """The lines of a job that did not run, to where they came from: nothing was paid, and it was no try. Those that
        are blamed go live."""
        job.is_over = True
        job.end.state, job.end.why, job.end.ended_at = "failed", why, self._clock.time()
        self._store.over(job.facts.id, job.end)
        slots, job.slots = job.slots, {}
        for key, slot in slots.items():
            if not isinstance(slot, Waiting):
                job.slots[key] = slot
                continue
            slot.n_tries -= 1
            self._pay(job, slot.worst_usd, 0.0)
            is_live = key in blamed or not self.is_open()
            self._tell(slot, Outcome("live" if is_live else "again", None, job))
        self._room.set()

    def _count_unused(self, job: OpenJob) -> None:
        """Rows that were paid and that nobody asks for, at what they say they cost."""
        for key, slot in list(job.slots.items()):
            if isinstance(slot, Waiting):
                continue
            cost = live = job.facts.worst_usd / job.facts.n_rows if job.end.n_absent else 0.0
            if isinstance(slot, BatchRow):
                cost, live = self._cost_of(slot)
            self.spent_usd += cost
            del job.slots[key]
            job.claim(key, "unused", cost, live)

    def _cost_of(self, row: BatchRow) -> tuple[float, float]:
        """(batch, live) USD of a row by its own count; nothing where it has none."""
        parsed = parse_body(row.body, row.status) if 200 <= row.status < 300 else None
        if not isinstance(parsed, ParsedReply) or parsed.usage is None:
            return 0.0, 0.0
        return cost_usd(self.price, parsed.usage), cost_usd(self.entry.price, parsed.usage)

    # --- common

    def _tell(self, waiting: Waiting, outcome: Outcome) -> None:
        if not waiting.is_told:
            waiting.is_told = True
            self._told(self, waiting, outcome)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """A task of the lane that breaks (a full disk, a bug) breaks every call that waits."""
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        self._broken = error
        waiting = [*self._queue, *(slot for job in self.jobs for slot in job.slots.values())]
        for one in waiting:
            if isinstance(one, Waiting):
                one.wave.fail(error)
