"""The pool client: one call in, one settled `Completion` out, whatever the providers do in between.

A call goes journal -> budget -> gate -> one POST -> ledger -> journal (`attempt.py` has the middle). Calls are sent
again here and nowhere else. What follows which failure stands in one table, `r2.errors.CALL_FAILURES`:

    retry "counted"      sent again to the same entry, up to 4 attempts, with full jitter between them (AWS,
                         "Exponential Backoff And Jitter")
    retry "uncounted"    sent again when the gate's pause is over, up to the call's deadline
    next_entry           then sent to the next solver of the entry's tier, then of the tiers above, cheapest first

A connection that ended at once, before any byte of an answer, is tried once more at once, free. So is a request of
which the endpoint refused a field by name, without that field (`habits.py`). Attempts are kept, with the model they
were sent to, their usage and their cost; of very many refusals some tens. No attempt is made, at any entry, that could
pass what the question or the run may cost.
"""

import asyncio
import math
import os
import random
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from r2.call import Attempt, Call, Completion
from r2.errors import failure, is_asked_again
from r2.pool.client.attempt import AttemptResult, Attempts, CallState
from r2.pool.client.dialects.dialect import RateLimits
from r2.pool.client.entries import Caps, Entry, OpenPool
from r2.pool.client.gauges import ModelGauge
from r2.pool.client.http import HttpSession
from r2.pool.client.ports import Address, CallJournal, NoJournal
from r2.pool.client.programs import Programs
from r2.pool.client.wire import answer_of, not_sent, request_body
from r2.pool.file.config import PoolConfig
from r2.pool.limits.aimd import Times
from r2.pool.limits.gate import GateGauge
from r2.pool.limits.host import HostLimits
from r2.pool.limits.ports import Limits

MAX_ATTEMPTS: Final = 4
"""Attempts per entry that count; refusals by rate and a stale connection do not."""

_NO_JOURNAL: Final = NoJournal()


def to_stderr(line: str) -> None:
    """Where a client says what an entry turned out to be like, unless told otherwise."""
    sys.stderr.write(f"r2: {line}\n")


class PoolClient:
    """The models of a pool, within their limits and budgets. One per process and run; used inside `async with`."""

    def __init__(
        self,
        pool: PoolConfig,
        addresses: Mapping[str, Address],
        *,
        state_dir: Path,
        limits: Limits | None = None,
        run_account: str | None = None,
        max_cost_usd: float | None = None,
        tags: Collection[str] = (),
        already_spent_usd: float = 0.0,
        environ: Mapping[str, str] = os.environ,
        times: Times | None = None,
        rate_window_s: float = 60.0,
        say: Callable[[str], None] = to_stderr,
        has_fallbacks: bool = True,
        stands_in: bool = True,
    ) -> None:
        """`addresses` has one entry per model that is not a recording. `limits` None: those of this host's processes
        that name the same `state_dir`.

        `max_cost_usd` caps the run over its sessions and processes: `run_account` names it in `limits`, and
        `already_spent_usd` is what its journals have paid. `tags` (NAME=VALUE): their caps of a day, in the pool file,
        hold for it. `times` and `rate_window_s` are shortened by tests.
        `say` gets a line where an entry turns out not to take what it is sent, or not to do what its table promises.
        Without `has_fallbacks` no entry answers for another; without `stands_in` none answers for one that is out.
        """
        self._pool = pool
        self._roster = pool.roster()
        self._addresses = addresses
        self._state_dir = state_dir
        self._limits = limits or HostLimits(state_dir)
        self._caps = Caps(run_account, max_cost_usd, already_spent_usd, tags)
        self._times = times
        self._rate_window_s = rate_window_s
        self._say = say
        self._has_fallbacks = has_fallbacks
        self._stands_in = stands_in
        self._exchange = HttpSession(environ)
        self._stopping = asyncio.Event()
        self._asking: set[asyncio.Task[object]] = set()
        self._is_giving_up = False
        self._open: OpenPool
        self._attempts: Attempts
        self._programs: Programs

    async def __aenter__(self) -> Self:
        """Raises PoolFileError for a missing address or recording, ConfigError if the shared state cannot be opened."""
        self._open = OpenPool(
            self._pool,
            self._addresses,
            self._state_dir,
            self._caps,
            self._limits,
            times=self._times,
            rate_window_s=self._rate_window_s,
            say=self._say,
        )
        try:
            await self._limits.begin()
        except BaseException:
            self._open.close()
            raise
        await self._exchange.__aenter__()
        self._attempts = Attempts(self._exchange, self._open.money)
        self._programs = Programs(self._open.money)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._programs.give_up()
        await self._exchange.__aexit__(*exc)
        await self._limits.end()
        self._open.close()

    @property
    def opened(self) -> OpenPool:
        """Entries and money: for what sends to the same models in another way (r2/pool/batch/)."""
        return self._open

    @property
    def shares_limits(self) -> bool:
        """Limits and budgets hold over several hosts."""
        return self._limits.is_remote

    @property
    def spent_usd(self) -> float:
        """Charged by this process."""
        return self._attempts.spent_usd + self._programs.spent_usd

    def unspent_usd(self) -> float:
        """What the caps of run and day still leave, reserves of calls on their way not taken off; inf without a cap."""
        return math.inf if self._open.money is None else self._open.money.unspent_usd()

    async def complete(
        self,
        call: Call,
        *,
        problem_id: str,
        rollout: int = 0,
        journal: CallJournal = _NO_JOURNAL,
        replay_failures: bool = False,
    ) -> Completion:
        """The settled outcome of a call: from the journal if it was paid for before, else from the model or a fallback.

        Durable in `journal` when returned, unless nothing was sent. A stored failure that says nothing about the call
        is asked again, unless `replay_failures`; its attempts that cost something stay in the outcome, so that no money
        is forgotten. Never raises for what a provider does; an error of the journal (a full disk) comes through,
        because continuing would lose paid answers.
        """
        recording = self._open.recordings.get(call.model)
        if recording is not None:
            return recording.find(call.request_sha()) or _not_recorded(call, recording.path)
        key = call.journal_key(problem_id, rollout)
        stored = journal.find(key)
        known = None if stored is None else Completion.from_bytes(stored)
        lost_usd = journal.lost_usd(key)
        if known is not None and (replay_failures or not is_asked_again(known.error_type)):
            return replace(known, lost_usd=lost_usd) if lost_usd else known
        if call.purpose == "program":
            return replace(await self._programs.run(call, key, journal, problem_id), lost_usd=lost_usd)
        is_ours = self._addresses[call.model].is_ours
        deadline_s = math.inf if is_ours else self._pool.models[call.model].deadline_s
        deadline = asyncio.get_running_loop().time() + deadline_s
        asked = CallState(call, key, journal, deadline)
        if known is not None or lost_usd:
            asked.attempts = paid_attempts(known)
            asked.n_attempts = len(asked.attempts)
            asked.earlier_usd = lost_usd + sum(attempt.cost_usd for attempt in asked.attempts)
        completion = await self._settled_or_given_up(asked)
        if completion is None:
            return _given_up(asked)  # what it may have cost is noted in the journal, as for a call a kill cut off
        if lost_usd:
            completion = replace(completion, lost_usd=lost_usd)
        if asked.is_begun or not is_asked_again(completion.error_type):
            await journal.commit(key, completion.to_bytes(call.request_sha(), problem_id), completion.cost_usd)
        return completion

    def gauges(self) -> list[ModelGauge]:
        """Each entry now, in the pool's order."""
        return [
            entry.tally.gauge(entry.gate.controller.limit, entry.gate.rate_limited)
            for entry in self._open.entries.values()
        ]

    def not_sent(self, call: Call) -> tuple[str, ...]:
        """What the row asked for and the entry that `call` names is not sent, by all that is known of it now."""
        if call.purpose == "program":
            return ()
        return not_sent_by(self._open.entries[call.model], call)

    def gate_gauge(self, model: str) -> GateGauge:
        """Slots, pause and breaker of the quota owner that `model` belongs to."""
        return self._open.entries[model].gate.gauge()

    def limits_seen(self, model: str) -> RateLimits:
        """The limits that the provider names in its replies, as far as this process has seen them."""
        entry = self._open.entries.get(model)
        return RateLimits() if entry is None else entry.limits.now

    def left_out(self, model: str) -> tuple[str, ...]:
        """Parameters that the entry turned out not to take, in this session or before; not those of its table."""
        entry = self._open.entries.get(model)
        return () if entry is None else entry.habits.learned

    def stop(self) -> None:
        """From now on calls that are not on the wire return the error `stopped`; those that are finish and are kept."""
        self._stopping.set()
        self._programs.stop()
        for entry in self._open.entries.values():
            entry.gate.stop()

    def give_up(self) -> None:
        """After `stop`: calls that are still on the wire are not waited for. They return the error `stopped`, and are
        asked again when the run goes on: what they cost is not known."""
        self._is_giving_up = True
        self._programs.give_up()
        for task in self._asking:
            task.cancel()

    async def _settled_or_given_up(self, asked: CallState) -> Completion | None:
        """None for a call that `give_up` broke off."""
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        self._asking.add(task)
        try:
            return await self._settle(asked)
        except asyncio.CancelledError:
            if not self._is_giving_up or task.uncancel():  # somebody else cancelled it, too
                raise
            return None
        finally:
            self._asking.discard(task)

    async def _settle(self, asked: CallState) -> Completion:
        """Through the entries, until one answers or the error is one that all of them would have."""
        last: AttemptResult | None = None
        for entry in self._route(asked.call):
            if last is not None and asyncio.get_running_loop().time() >= asked.deadline:
                break
            tried = await self._ask(entry, asked)
            if tried.reply is not None:
                reply = tried.reply
                if asked.call.top_logprobs or asked.call.json_schema is not None:
                    entry.promises.note(asked.call, reply)
                end = "length" if reply.is_cut else reply.finish_reason
                return Completion(
                    answer_of(reply.text, asked.call, entry.table, entry.endpoint.dialect),
                    entry.name,
                    tuple(asked.attempts),
                    end,
                    reply.token_logprobs,
                    not_sent=not_sent_by(entry, asked.call),
                )
            if last is None or tried.row.error_type != "question_budget":
                last = tried  # a dearer entry that the question cannot pay for is not why the call failed
            kind = failure(tried.row.error_type)
            if not kind.next_entry or (kind.is_outage and not self._stands_in):
                break
        assert last is not None, "the route begins with the entry that was asked for"
        if last.is_refusal:
            asked.keep(last.row)
        return _failure(asked, last.row)

    def _route(self, call: Call) -> Iterator[Entry]:
        """The entry that was asked for, then its fallbacks: solvers of its tier, then of those
        above, cheapest first; of those only the ones that can hold the call."""
        entries, model = self._open.entries, call.model
        yield entries[model]
        if not self._has_fallbacks:
            return
        is_reached = False
        for card in self._roster.solvers:  # in the order of tiers
            is_reached = is_reached or card.tier == self._roster[model].tier
            is_other = is_reached and card.name != model and card.name in entries
            if is_other and card.room(call.messages) >= call.max_output_tokens:
                yield entries[card.name]

    async def _ask(self, entry: Entry, asked: CallState) -> AttemptResult:
        """One entry until it answers or is spent; the last attempt. Attempts that were sent are noted in `asked`."""
        body = body_for(entry, asked.call)
        loop = asyncio.get_running_loop()
        n_counted, may_reconnect = 0, entry.tally.calls > 0
        while True:
            tried = await self._attempts.make(entry, asked, body, is_first=n_counted == 0)
            if tried.is_refusal:
                return tried
            asked.keep(tried.row)
            if tried.reply is not None:
                return tried
            if tried.is_refused_field and (changed := body_for(entry, asked.call)) != body:
                body = changed  # without the field that was refused, which cost nothing
                continue
            if failure(tried.row.error_type).retry == "uncounted":
                continue  # the gate lets it in again when the pause is over
            if tried.is_stale and may_reconnect:
                may_reconnect = False
                continue
            n_counted += 1
            if failure(tried.row.error_type).retry == "never" or n_counted == MAX_ATTEMPTS:
                return tried
            wait_s = random.uniform(0, min(60.0, 0.5 * 2**n_counted))
            if loop.time() + wait_s >= asked.deadline:
                return tried
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()


def not_sent_by(entry: Entry, call: Call) -> tuple[str, ...]:
    """What the row asked for and the entry that answered could not be sent."""
    if not call.asked_for:
        return ()
    return not_sent(call, entry.table, entry.served_model, dialect=entry.endpoint.dialect, omitted=entry.habits.omitted)


def body_for(entry: Entry, call: Call, *, streams: bool | None = None) -> bytes:
    """The request as the entry takes it, by all that is known of it now; `streams` None: as its endpoint does."""
    endpoint, habits = entry.endpoint, entry.habits
    return request_body(
        call,
        entry.table,
        entry.served_model,
        dialect=endpoint.dialect,
        omitted=habits.omitted,
        limit_field=habits.limit_field or "",
        unasked_schemas=habits.unasked_schemas,
        cache_prefix=entry.marks.wants(call),
        streams=endpoint.streams if streams is None else streams,
    )


def paid_attempts(earlier: Completion | None) -> list[Attempt]:
    """Attempts of an earlier session that cost something, numbered anew."""
    paid = [] if earlier is None else [attempt for attempt in earlier.attempts if attempt.cost_usd > 0]
    return [replace(attempt, attempt=number) for number, attempt in enumerate(paid)]


def _not_recorded(call: Call, path: Path) -> Completion:
    message = f"{path} holds no answer to this {call.purpose} request. Record the run again with this version."
    row = Attempt(call.model, 0, 0, time.time(), error_type="not_recorded", error_message=message)
    return Completion("", call.model, (row,), "", error_type=row.error_type, error_message=message)


def _given_up(asked: CallState) -> Completion:
    message = "the run was stopped while the call was on its way"
    row = Attempt(asked.call.model, 0, 0, time.time(), error_type="stopped", error_message=message)
    return Completion("", asked.call.model, (), "", error_type=row.error_type, error_message=message)


def _failure(asked: CallState, last: Attempt) -> Completion:
    message = last.error_message
    if asked.n_attempts > len(asked.attempts):
        message = f"{message} ({asked.n_attempts} attempts, {len(asked.attempts)} of them kept)"
    return Completion(
        "", asked.call.model, tuple(asked.attempts), "", error_type=last.error_type, error_message=message
    )
