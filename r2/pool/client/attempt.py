"""One attempt at a call: money set aside, the gate passed, one POST, and everything settled whatever happened.

Charged is what was or may have been billed (`billing.py`). Answers cost what the provider counted; an answer without a
count, a 200 that cannot be read, a call that timed out, was cut inside its answer or was cancelled on its way costs the
worst case, because nobody will say what it cost. Refusals, 5xx, errors under a 200 and connections that ended at once
before an answer began cost nothing.
"""

import asyncio
import time
from dataclasses import dataclass, field

from r2.call import Attempt, Call
from r2.errors import failure
from r2.ledger import Usage, cost_usd, is_surely_longer, worst_cost_usd
from r2.pool.client.billing import NOTHING, Charge, charge, worst_charge
from r2.pool.client.body import KEPT_BYTES, most_bytes
from r2.pool.client.entries import Entry
from r2.pool.client.http import HttpReply, HttpSession
from r2.pool.client.instructions import Instructions
from r2.pool.client.ports import CallJournal
from r2.pool.client.refusals import Refusal
from r2.pool.client.wire import BadBody, ParsedReply, parse_body
from r2.pool.limits.gate import GateClosedError, Slot, Verdict
from r2.pool.limits.ports import Money
from r2.telemetry.spans import attempt_span

KEPT_ATTEMPTS = 32
"""Attempts of one call that are kept as rows. Of more, the refusals in the middle are counted and not kept."""

_OF_FORM = (400, 404, 405, 410, 422)
"""Statuses by which a server refuses the form of a request."""

_CENT_DUST = 1e-12  # of sums of floats; no price is this small


@dataclass(slots=True)
class CallState:
    """A call on its way through its attempts, those that earlier sessions paid for included.

    `deadline` is in the event loop's seconds. `earlier_usd` is what earlier sessions paid or may have paid for it,
    `charged_usd` what this one has. `n_attempts` counts those that are not kept as well. `is_begun`: this session has
    noted in the journal that it sends the call.
    """

    call: Call
    key: str
    journal: CallJournal
    deadline: float
    attempts: list[Attempt] = field(default_factory=list)
    earlier_usd: float = 0.0
    charged_usd: float = 0.0
    n_attempts: int = 0
    is_begun: bool = False

    def keep(self, row: Attempt) -> None:
        """Adds an attempt; beyond `KEPT_ATTEMPTS` one that cost nothing goes, from the middle."""
        self.attempts.append(row)
        self.n_attempts += 1
        attempt_span(row, self.call)
        if len(self.attempts) > KEPT_ATTEMPTS:
            for index in range(KEPT_ATTEMPTS // 2, len(self.attempts) - 1):
                if self.attempts[index].cost_usd == 0:
                    del self.attempts[index]
                    return

    def may_cost(self, usd: float) -> bool:
        """Whether a further attempt of at most `usd` stays within what the call may cost."""
        cap_usd = self.call.max_cost_usd
        return cap_usd is None or self.earlier_usd + self.charged_usd + usd <= cap_usd + _CENT_DUST


@dataclass(slots=True)
class AttemptResult:
    """What came of an attempt: its row, and the reply if it left an answer.

    `is_refusal`: it was not sent, and asking this entry again is no use. `is_stale`: see `HttpReply`.
    `is_refused_field`: a field was refused by name, and the entry's requests no longer have it.
    """

    row: Attempt
    reply: ParsedReply | None = None
    is_refusal: bool = False
    is_stale: bool = False
    is_refused_field: bool = False


@dataclass(slots=True)
class _Way:
    """What an attempt has taken and must give back, and how, as known so far: read when it ends in whichever way."""

    worst: Usage
    worst_usd: float
    is_first: bool
    queued_at: float
    instructions: Instructions | None = None
    has_turn: bool = False
    is_reserved: bool = False
    slot: Slot | None = None
    is_counted: bool = False
    verdict: Verdict = "abandoned"
    charge_usd: float = 0.0
    used_tokens: float | None = None
    retry_after_s: float | None = None
    why: str = ""


class Attempts:
    """Makes attempts, and knows what they have cost this process so far."""

    def __init__(self, exchange: HttpSession, money: Money | None) -> None:
        self.spent_usd = 0.0
        self._exchange = exchange
        self._money = money

    async def make(self, entry: Entry, asked: CallState, body: bytes, *, is_first: bool) -> AttemptResult:
        """Sends `body` to `entry` once. `is_first`: nothing that counts was sent to this entry for this call before."""
        call = asked.call
        worst = entry.card.worst_case(call.messages, call.max_output_tokens, call.json_schema)
        way = _Way(worst, worst_cost_usd(entry.price, worst), is_first, time.monotonic())
        try:
            return await self._enter(entry, asked, body, way) or await self._send(entry, asked, body, way)
        finally:
            self._settle(entry, asked, way)

    async def _enter(self, entry: Entry, asked: CallState, body: bytes, way: _Way) -> AttemptResult | None:
        """Takes what the attempt needs, in order: the question's money, the turn of its instructions, the entry's
        trust, the run's money, a slot."""
        call = asked.call
        if not asked.may_cost(way.worst_usd):
            spent_usd = asked.earlier_usd + asked.charged_usd
            message = (
                f"USD {way.worst_usd:.6f} that a call to {entry.name} may cost, beside {spent_usd:.6f} spent on it, "
                f"would pass {call.max_cost_usd:.6f}, what is left of the question's cap; raise "
                "--max-cost-per-question-usd"
            )
            return refused(entry, asked, "question_budget", message, way.queued_at)
        is_capped = self._money is not None or call.max_cost_usd is not None
        try:
            if entry.turns is not None:
                way.instructions = await entry.turns.enter(call, asked.deadline)
            if is_capped and not entry.bills.is_proven:
                await self._take_turn(entry, asked, way)
            if is_capped and entry.bills.why_closed:
                return refused(entry, asked, "overbilled", entry.bills.why_closed, way.queued_at)
            if entry.habits.why_closed:
                return refused(entry, asked, entry.habits.closed_as, entry.habits.why_closed, way.queued_at)
            if self._money is not None:
                way.is_reserved = self._money.reserve_now(way.worst_usd) or await self._money.reserve(
                    way.worst_usd, asked.deadline
                )
                if not way.is_reserved:
                    caps = ", ".join(self._money.accounts)
                    message = f"USD {way.worst_usd:.6f} that this call may cost would pass the cap of {caps}"
                    return refused(entry, asked, "budget_exhausted", message, way.queued_at)
            tokens = entry.ratio.upper(len(body)) + way.worst.output_tokens
            way.slot = entry.gate.enter_now(tokens) or await entry.gate.enter(tokens, asked.deadline)
        except GateClosedError as closed:
            return refused(entry, asked, closed.reason, str(closed), way.queued_at)
        except TimeoutError:
            message = f"no turn at {entry.gate.owner} before the call's deadline; raise deadline_s or the limits"
            return refused(entry, asked, "rate_limited", message, way.queued_at)
        if is_capped and entry.bills.why_closed:  # once more: it may have been closed while this call waited
            way.used_tokens = 0.0
            return refused(entry, asked, "overbilled", entry.bills.why_closed, way.queued_at)
        entry.tally.in_flight += 1
        way.is_counted = True
        return None

    async def _take_turn(self, entry: Entry, asked: CallState, way: _Way) -> None:
        """Waits until no other call is on its way to an entry whose bills are not proven."""
        async with asyncio.timeout_at(asked.deadline):
            await entry.bills.turn.acquire()
        if entry.bills.is_proven or entry.bills.why_closed:
            entry.bills.turn.release()
        else:
            way.has_turn = True

    async def _send(self, entry: Entry, asked: CallState, body: bytes, way: _Way) -> AttemptResult:
        call = asked.call
        if asked.is_begun:
            noted = asked.journal.hold(asked.key, asked.charged_usd + way.worst_usd)
        else:
            noted = asked.journal.begin(asked.key, way.worst_usd)
            asked.is_begun = True
        if noted is not None:
            await noted
        way.charge_usd = way.worst_usd  # what it is if it ends without a word from here on
        sent_at, started_at = time.monotonic(), time.time()
        left_s = max(0.001, asked.deadline - asyncio.get_running_loop().time())
        longest = most_bytes(way.worst.output_tokens, call.top_logprobs)
        expected_tokens = min(way.worst.input_tokens, entry.ratio.upper(len(body)))
        limit_s = entry.pace.limit_s(entry.endpoint.timeout_s, expected_tokens, way.worst.output_tokens)
        reply = await self._exchange.post(entry.endpoint, body, limit_s, longest, left_s)
        latency_s = time.monotonic() - sent_at
        parsed = reply.refusal if reply.refusal is not None else parse_body(reply.body, reply.status)
        if isinstance(parsed, BadBody):
            parsed = Refusal("bad_body", f"HTTP {reply.status}: {parsed.reason}", reply.status, usage=parsed.usage)
        if isinstance(parsed, Refusal) and parsed.error_type == "timeout":
            n_tokens = way.worst.output_tokens if reply.computed_tokens is None else reply.computed_tokens
            entry.pace.learn(expected_tokens, n_tokens, latency_s)
        cost = _charge(entry, body, way, reply, parsed)
        way.charge_usd = cost.usd
        way.used_tokens = None if cost.usage is way.worst else cost.usage.total_tokens
        if isinstance(parsed, ParsedReply):
            entry.key.answered()
            entry.habits.answered(body, parsed.response_model)
            if parsed.usage is not None:
                entry.ratio.learn(len(body), parsed.usage.input_tokens)
                entry.pace.learn(parsed.usage.input_tokens, parsed.usage.output_tokens, latency_s)
            entry.bills.saw(entry.name, cost, way.worst_usd)
            if reply.headers is not None:
                entry.limits.note(reply.headers)
        elif parsed.usage is not None:
            entry.bills.saw(entry.name, cost, way.worst_usd)
        error_type, error_message = _error(entry, parsed, way)
        is_refused_field = False
        if error_type == "bad_request" and isinstance(parsed, Refusal) and parsed.status in _OF_FORM:
            said = (parsed.status, reply.body, body)
            is_refused_field = entry.habits.learns(*said, parsed.message) or entry.habits.refuses_schema(
                *said, call.json_schema, parsed.message
            )
            is_rows_own = bool(call.asked_for)  # then it may be the row's fault, and says nothing of the entry
            if not (is_refused_field or is_rows_own) and entry.habits.refused(reply.body, body, parsed.message):
                error_type, error_message = entry.habits.closed_as, entry.habits.why_closed
        if error_type is None and isinstance(parsed, ParsedReply) and _is_cut_prompt(entry, call, parsed.usage):
            assert parsed.usage is not None
            error_type, error_message = "context_length", _cut_prompt(parsed.usage.input_tokens)
        if error_type is None:
            entry.tally.answered(latency_s)
        elif error_type != "rate_limited" and not is_refused_field:
            entry.tally.errors += 1
        answer = parsed if isinstance(parsed, ParsedReply) else None
        row = Attempt(
            model=entry.name,
            attempt=asked.n_attempts,
            status=reply.status,
            started_at=started_at,
            latency_s=latency_s,
            queue_s=sent_at - way.queued_at,
            usage=cost.usage,
            cost_usd=cost.usd,
            price_version=entry.price_version,
            response_model=answer.response_model if answer is not None else "",
            response_id=answer.response_id if answer is not None else "",
            finish_reason=answer.finish_reason if answer is not None else "",
            error_type=error_type,
            error_message=error_message,
            retry_after_s=way.retry_after_s,
            raw_body=reply.body if answer is not None else reply.body[:KEPT_BYTES],
            thinking=answer.thinking if answer is not None else "",
        )
        return AttemptResult(
            row,
            answer if error_type is None else None,
            is_stale=reply.is_stale,
            is_refused_field=is_refused_field,
        )

    def _settle(self, entry: Entry, asked: CallState, way: _Way) -> None:
        self.spent_usd += way.charge_usd
        asked.charged_usd += way.charge_usd
        entry.tally.cost_usd += way.charge_usd
        if way.instructions is not None and entry.turns is not None:
            entry.turns.leave(way.instructions, way.used_tokens if way.verdict == "answered" and way.used_tokens else 0)
        if way.has_turn:
            entry.bills.turn.release()
        if way.is_reserved and self._money is not None:
            self._money.settle(way.worst_usd, way.charge_usd)
        if way.slot is not None:
            entry.tally.in_flight -= way.is_counted
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
        attempt=asked.n_attempts,
        status=0,
        started_at=time.time(),
        queue_s=time.monotonic() - queued_at,
        price_version=entry.price_version,
        error_type=error_type,
        error_message=message,
    )
    return AttemptResult(row, is_refusal=True)


def _is_cut_prompt(entry: Entry, call: Call, usage: Usage | None) -> bool:
    """Whether the server answered the end of the prompt alone. Ollama cuts what is longer than its context without a
    word, and counts what is left."""
    cuts = entry.endpoint.dialect.name == "ollama"
    return cuts and usage is not None and is_surely_longer(call.messages, usage.input_tokens)


def _cut_prompt(n_tokens: int) -> str:
    return (
        f"the server counted {n_tokens} tokens of a prompt that surely has more: it cut the prompt to its context and "
        "answered the rest. Start it with a longer context (OLLAMA_CONTEXT_LENGTH, or num_ctx of the model), and say "
        "it in the pool file: context_tokens"
    )


def _charge(entry: Entry, body: bytes, way: _Way, reply: HttpReply, parsed: ParsedReply | Refusal) -> Charge:
    if isinstance(parsed, ParsedReply):
        return charge(entry.price, way.worst, parsed.usage, has_text=bool(parsed.text))
    if reply.computed_tokens is not None:  # closing the connection ended the computing: the prompt, and so many tokens
        n_output = min(reply.computed_tokens, way.worst.output_tokens)
        n_input = min(entry.ratio.upper(len(body)), way.worst.input_tokens)
        usage = Usage(n_input, 0, n_output, "estimated")
        return Charge(usage, cost_usd(entry.price, usage))
    if parsed.usage is not None:
        return charge(entry.price, way.worst, parsed.usage, has_text=False)
    if reply.billing == "nothing" or (reply.billing == "usage" and parsed.error_type != "bad_body"):
        return NOTHING
    return worst_charge(entry.price, way.worst)


def _error(entry: Entry, parsed: ParsedReply | Refusal, way: _Way) -> tuple[str | None, str | None]:
    """The attempt's error and its words, None for an answer; also tells the gate how the call went."""
    if isinstance(parsed, ParsedReply):
        error_type = parsed.error_type
        if error_type is None:
            way.verdict = "answered"
            return None, None
        way.verdict = failure(error_type).sign or "failed"
        return error_type, f"the generation ended with finish_reason {parsed.finish_reason!r}, which leaves no answer"
    error_type = parsed.error_type
    way.verdict = failure(error_type).sign or "failed"
    way.retry_after_s, way.why = parsed.retry_after_s, parsed.message
    if error_type == "unknown_model":
        if entry.habits.has_answered and not parsed.names_the_model:
            way.verdict = "failed"
            return "server_error", f"{parsed.message} (this address has answered other calls)"
        return error_type, entry.habits.does_not_know(parsed.message)
    if error_type == "auth" and not entry.key.is_bad(blamed=parsed.blames_the_key):
        way.verdict = "understood"
        if parsed.status == 403:
            return (
                "moderated",
                f"{parsed.message} (this key has answered other calls: taken as a refusal of this input)",
            )
    return error_type, parsed.message
