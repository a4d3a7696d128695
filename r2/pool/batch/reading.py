"""A row of a job's results as the attempt that it was: what it cost at batch price, and what follows from it.

The bodies are those of live replies, so they are read, charged and judged as live ones are (r2/pool/client/attempt.py).
What differs: nobody waits at a gate, a line that did not run costs nothing, and what would be sent again live is asked
again in the next job.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from r2.call import Attempt, Call, Completion
from r2.errors import failure
from r2.ledger import Price, Usage, cost_usd, worst_cost_usd
from r2.pool.batch.protocol import BatchRow
from r2.pool.client.billing import NOTHING, charge, worst_charge
from r2.pool.client.body import KEPT_BYTES
from r2.pool.client.client import body_for, not_sent_by
from r2.pool.client.entries import Entry
from r2.pool.client.refusals import Refusal, refusal
from r2.pool.client.wire import BadBody, ParsedReply, answer_of, parse_body

Next = Literal["answered", "failed", "again", "live"]
"""What follows: the completion stands, as an answer or as a failure; asked again in another job; asked live."""

_OF_FORM: Final = (400, 404, 405, 410, 422)
NOT_RUN: Final = "not_run"


@dataclass(slots=True)
class ReadRow:
    """`completion` is there where it stands (`answered`, `failed`); its attempts are all that the call has. `live_usd`
    is what the same reply would have cost at the live price."""

    next: Next
    attempt: Attempt
    live_usd: float
    completion: Completion | None = None


def read_row(
    entry: Entry,
    price: Price,
    call: Call,
    worst: Usage,
    worst_usd: float,
    row: BatchRow,
    earlier: Sequence[Attempt],
    *,
    sent_at: float,
    queue_s: float,
    latency_s: float,
) -> ReadRow:
    """What `row` says of `call`. `price` is the batch price, `worst` the bound of what was asked, at `worst_usd`;
    `earlier` are the attempts before it."""
    if row.status == 0:
        message = f"the batch job did not run this line: {row.error or 'no reason given'}"
        return ReadRow("again", _attempt(entry, price, earlier, sent_at, queue_s, latency_s, NOT_RUN, message), 0.0)
    parsed: ParsedReply | BadBody | Refusal | None = refusal(row.status, row.body, {})
    if parsed is None:
        parsed = parse_body(row.body, row.status)
    if isinstance(parsed, BadBody):
        parsed = Refusal("bad_body", f"HTTP {row.status}: {parsed.reason}", row.status, usage=parsed.usage)
    if isinstance(parsed, ParsedReply):
        bill = charge(price, worst, parsed.usage, has_text=bool(parsed.text))
        error_type = parsed.error_type
        message = f"the generation ended with finish_reason {parsed.finish_reason!r}, which leaves no answer"
    else:
        if parsed.usage is not None:
            bill = charge(price, worst, parsed.usage, has_text=False)
        else:
            bill = worst_charge(price, worst) if parsed.error_type == "bad_body" else NOTHING
        error_type, message = parsed.error_type, parsed.message
    if bill is not NOTHING:
        entry.bills.saw(entry.name, bill, worst_usd)
    live_usd = worst_cost_usd(entry.price, worst) if bill.usage is worst else cost_usd(entry.price, bill.usage)
    reply = parsed if isinstance(parsed, ParsedReply) else None
    attempt = Attempt(
        model=entry.name,
        attempt=len(earlier),
        status=row.status,
        started_at=sent_at,
        latency_s=latency_s,
        queue_s=queue_s,
        usage=bill.usage,
        cost_usd=bill.usd,
        price_version=price.version,
        response_model=reply.response_model if reply is not None else "",
        response_id=reply.response_id if reply is not None else "",
        finish_reason=reply.finish_reason if reply is not None else "",
        error_type=error_type,
        error_message=None if error_type is None else message,
        raw_body=row.body if reply is not None else row.body[:KEPT_BYTES],
        thinking=reply.thinking if reply is not None else "",
    )
    if not isinstance(parsed, ParsedReply):
        return _after_refusal(entry, call, row, parsed, attempt, earlier, live_usd)
    entry.key.answered()
    entry.habits.answered(b"", parsed.response_model)
    if error_type is not None:
        return ReadRow("failed", attempt, live_usd, _failed(call, (*earlier, attempt)))
    end = "length" if parsed.is_cut else parsed.finish_reason
    text = answer_of(parsed.text, call, entry.table, entry.endpoint.dialect)
    missing = not_sent_by(entry, call)
    attempts = (*earlier, attempt)
    completion = Completion(text, entry.name, attempts, end, parsed.token_logprobs, not_sent=missing)
    return ReadRow("answered", attempt, live_usd, completion)


def _after_refusal(
    entry: Entry,
    call: Call,
    row: BatchRow,
    said: Refusal,
    attempt: Attempt,
    earlier: Sequence[Attempt],
    live_usd: float,
) -> ReadRow:
    """A refused field is left out from now on, as live; what may help is asked again, what closes an entry is asked
    live, where the entry is closed and another one answers."""
    if said.error_type == "bad_request" and said.status in _OF_FORM:
        sent = body_for(entry, call, streams=False)
        about = (said.status, row.body, sent)
        if entry.habits.learns(*about, said.message) or entry.habits.refuses_schema(
            *about, call.json_schema, said.message
        ):
            return ReadRow("again", attempt, live_usd)
        if not call.asked_for and entry.habits.refused(row.body, sent, said.message):
            return ReadRow("live", attempt, live_usd)
    kind = failure(said.error_type)
    if kind.retry != "never":
        return ReadRow("again", attempt, live_usd)
    if kind.is_outage:
        return ReadRow("live", attempt, live_usd)
    return ReadRow("failed", attempt, live_usd, _failed(call, (*earlier, attempt)))


def lost(entry: Entry, price: Price, earlier: Sequence[Attempt], why: str, sent_at: float, worst: Usage) -> Attempt:
    """The attempt of a line that may have run and whose result nobody has: at the most that it may have cost."""
    bill = worst_charge(price, worst)
    return _attempt(entry, price, earlier, sent_at, 0.0, 0.0, NOT_RUN, why, bill.usage, bill.usd)


def not_run(entry: Entry, price: Price, earlier: Sequence[Attempt], why: str, sent_at: float) -> Attempt:
    """The attempt of a line that did not run: at no cost."""
    return _attempt(entry, price, earlier, sent_at, 0.0, 0.0, NOT_RUN, why)


def _attempt(
    entry: Entry,
    price: Price,
    earlier: Sequence[Attempt],
    sent_at: float,
    queue_s: float,
    latency_s: float,
    error_type: str,
    message: str,
    usage: Usage | None = None,
    usd: float = 0.0,
) -> Attempt:
    return Attempt(
        model=entry.name,
        attempt=len(earlier),
        status=0,
        started_at=sent_at,
        latency_s=latency_s,
        queue_s=queue_s,
        usage=usage or Usage(),
        cost_usd=usd,
        price_version=price.version,
        error_type=error_type,
        error_message=message,
    )


def _failed(call: Call, attempts: tuple[Attempt, ...]) -> Completion:
    last = attempts[-1]
    return Completion("", call.model, attempts, "", error_type=last.error_type, error_message=last.error_message)


def paid_so_far(call: Call, attempts: Sequence[Attempt]) -> Completion | None:
    """What a call has cost so far without an answer, as a failure that is asked again; None where it cost nothing."""
    return _failed(call, tuple(attempts)) if any(one.cost_usd for one in attempts) else None
