"""One attempt at a call: money set aside, the gate passed, one POST, and everything settled whatever happened.

Charged is what was or may have been billed. Answers cost what the provider counted, or an estimate (marked so) where it
counted nothing; a 200 that cannot be read costs an estimate of what arrived; a call that timed out, was cut inside its
answer or was cancelled on its way costs the worst case, because nobody will say what it cost. Refusals, 5xx and
connections that ended before an answer began cost nothing.
"""

import asyncio
import time
from dataclasses import dataclass

from r2.call import Attempt, Call
from r2.errors import failure
from r2.ledger import Usage, cost_usd, worst_case_usage
from r2.pool.client.entries import Entry
from r2.pool.client.http import HttpReply, HttpSession
from r2.pool.client.ports import CallJournal
from r2.pool.client.tokens import estimated_usage
from r2.pool.client.wire import BadBody, ParsedReply, parse_body
from r2.pool.limits.gate import GateClosedError, Slot, Verdict
from r2.pool.limits.shares import MoneyShare


@dataclass(slots=True)
class CallState:
    """A call on its way through its attempts, those that earlier sessions paid for included.

    `deadline` is in the event loop's seconds. `is_begun`: this session has noted in the journal that it sends the call.
    """

    call: Call
    key: str
    journal: CallJournal
    deadline: float
    attempts: list[Attempt]
    is_begun: bool = False


@dataclass(slots=True)
class AttemptResult:
    """What came of an attempt: its row, and the reply if it succeeded.

    `is_refusal`: it was not sent, and asking this entry again is no use. `is_stale`: see `HttpReply`.
    """

    row: Attempt
    reply: ParsedReply | None = None
    is_refusal: bool = False
    is_stale: bool = False


@dataclass(slots=True)
class _Way:
    """What an attempt has taken and must give back, and how, as known so far: read when it ends in whichever way."""

    worst: Usage
    worst_usd: float
    is_first: bool
    queued_at: float
    is_reserved: bool = False
    slot: Slot | None = None
    verdict: Verdict = "abandoned"
    charge_usd: float = 0.0
    used_tokens: float | None = None
    retry_after_s: float | None = None
    why: str = ""


class Attempts:
    """Makes attempts, and knows what they have cost this process so far."""

    def __init__(self, exchange: HttpSession, money: MoneyShare | None) -> None:
        self.spent_usd = 0.0
        self._exchange = exchange
        self._money = money

    async def make(self, entry: Entry, asked: CallState, body: bytes, *, is_first: bool) -> AttemptResult:
        """Sends `body` to `entry` once. `is_first`: nothing that counts was sent to this entry for this call before."""
        worst = worst_case_usage(asked.call.messages, asked.call.max_output_tokens)
        way = _Way(worst, cost_usd(entry.price, worst), is_first, time.monotonic())
        try:
            return await self._go(entry, asked, body, way)
        finally:
            self._settle(entry, way)

    async def _go(self, entry: Entry, asked: CallState, body: bytes, way: _Way) -> AttemptResult:
        call = asked.call
        try:
            if self._money is not None:
                way.is_reserved = self._money.reserve_now(way.worst_usd) or await self._money.reserve(
                    way.worst_usd, asked.deadline
                )
                if not way.is_reserved:
                    caps = ", ".join(self._money.accounts)
                    message = f"USD {way.worst_usd:.6f} that this call may cost would pass the cap of {caps}"
                    return refused(entry, asked, "budget_exhausted", message, way.queued_at)
            tokens = entry.ratio.upper(len(body)) + call.max_output_tokens
            way.slot = entry.gate.enter_now(tokens) or await entry.gate.enter(tokens, asked.deadline)
        except GateClosedError as closed:
            return refused(entry, asked, closed.reason, str(closed), way.queued_at)
        except TimeoutError:
            message = f"no turn at {entry.gate.owner} before the call's deadline; raise deadline_s or the limits"
            return refused(entry, asked, "rate_limited", message, way.queued_at)
        entry.tally.in_flight += 1
        way.charge_usd = way.worst_usd  # what it is if it ends without a word from here on
        sent_at, started_at = time.monotonic(), time.time()
        if not asked.is_begun:
            asked.is_begun = True
            asked.journal.begin(asked.key, way.worst_usd)
        left_s = max(0.001, asked.deadline - asyncio.get_running_loop().time())
        reply = await self._exchange.post(entry.endpoint, body, left_s)
        latency_s = time.monotonic() - sent_at
        parsed = parse_body(reply.body) if reply.error_type is None else None
        error_type, error_message = reply.error_type, reply.error_message
        if isinstance(parsed, BadBody):
            error_type, error_message = "bad_body", f"HTTP {reply.status}: {parsed.reason}"
        usage = _usage(entry, call, body, reply, parsed, way)
        charge_usd = cost_usd(entry.price, usage)
        way.charge_usd = charge_usd
        way.verdict = "answered" if error_type is None else failure(error_type).sign or "failed"
        way.retry_after_s, way.why = reply.retry_after_s, error_message or ""
        answer = parsed if isinstance(parsed, ParsedReply) else None
        if answer is not None:
            entry.tally.answered(latency_s)
        elif error_type != "rate_limited":
            entry.tally.errors += 1
        row = Attempt(
            model=entry.name,
            attempt=len(asked.attempts),
            status=reply.status,
            started_at=started_at,
            latency_s=latency_s,
            queue_s=sent_at - way.queued_at,
            usage=usage,
            cost_usd=charge_usd,
            price_version=entry.price_version,
            response_model=answer.response_model if answer is not None else "",
            response_id=answer.response_id if answer is not None else "",
            finish_reason=answer.finish_reason if answer is not None else "",
            error_type=error_type,
            error_message=error_message,
            retry_after_s=reply.retry_after_s,
            raw_body=reply.body,
        )
        return AttemptResult(row, answer, is_stale=reply.is_stale)

    def _settle(self, entry: Entry, way: _Way) -> None:
        self.spent_usd += way.charge_usd
        entry.tally.cost_usd += way.charge_usd
        if way.is_reserved and self._money is not None:
            self._money.settle(way.worst_usd, way.charge_usd)
        if way.slot is not None:
            entry.tally.in_flight -= 1
            entry.gate.leave(
                way.slot,
                way.verdict,
                used_tokens=way.used_tokens,
                retry_after_s=way.retry_after_s,
                first_attempt=way.is_first,
                why=way.why,
            )


def refused(entry: Entry, asked: CallState, error_type: str, message: str, queued_at: float) -> AttemptResult:
    """An attempt that was not sent."""
    row = Attempt(
        model=entry.name,
        attempt=len(asked.attempts),
        status=0,
        started_at=time.time(),
        queue_s=time.monotonic() - queued_at,
        price_version=entry.price_version,
        error_type=error_type,
        error_message=message,
    )
    return AttemptResult(row, is_refusal=True)


def _usage(
    entry: Entry, call: Call, body: bytes, reply: HttpReply, parsed: ParsedReply | BadBody | None, way: _Way
) -> Usage:
    """What to charge; also tells the gate what was used and the ratio what was learned."""
    was_begun = 200 <= reply.status < 300
    if isinstance(parsed, ParsedReply):
        if parsed.usage is not None:
            entry.ratio.learn(len(body), parsed.usage.input_tokens)
            usage = parsed.usage
        else:
            usage = estimated_usage(entry.ratio, len(body), len(parsed.text.encode()), call.max_output_tokens)
    elif isinstance(parsed, BadBody):
        usage = estimated_usage(entry.ratio, len(body), len(reply.body), call.max_output_tokens)
    elif reply.was_sent and (was_begun or (reply.status == 0 and reply.error_type == "timeout")):
        return way.worst  # and the gate keeps its reserve
    else:
        usage = Usage()
    way.used_tokens = usage.total_tokens
    return usage
