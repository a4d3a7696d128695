"""An answer that was paid for before, as whoever asks for it again receives it: at today's price, and paid by nobody.

Only answers are used again, never failures. Pure.
"""

from collections.abc import Mapping
from dataclasses import replace

from r2.answering.programs import PYTHON
from r2.call import Attempt, Call, Completion
from r2.ledger import Price, cost_usd, worst_cost_usd


def reused(call: Call, stored: Completion, price: Price, run_id: str) -> Completion | None:
    """The stored answer to `call`, which `run_id` paid for; None where it is not one that can be used again.

    It must come from the very entry that is asked (not from one that stood in for it), and have the log-probabilities
    that are asked for. Of its attempts the answering one stays. It costs nothing; `saved_usd` is its price today.
    """
    if not stored.is_ok or stored.model != call.model or not stored.attempts:
        return None
    if call.top_logprobs and not stored.token_logprobs:
        return None
    answering = stored.attempts[-1]
    version = answering.price_version if _is_run(answering) else price.version
    free = replace(answering, attempt=0, cost_usd=0.0, price_version=version)
    return replace(
        stored,
        attempts=(free,),
        is_replayed=False,
        lost_usd=0.0,
        reused_from=stored.reused_from or run_id,
        saved_usd=usd_today(answering, price),
    )


def priced_anew(stored: Completion, prices: Mapping[str, Price]) -> Completion:
    """The same with its tokens at today's prices. Entries that are no longer in the pool keep the price they had."""
    stale = any(
        a.model in prices and not _is_run(a) and a.price_version != prices[a.model].version for a in stored.attempts
    )
    if not stale:
        return stored
    if stored.reused_from:
        [answering] = stored.attempts
        price = prices[answering.model]
        free = replace(answering, price_version=price.version)
        return replace(stored, attempts=(free,), saved_usd=usd_today(answering, price))
    return replace(stored, attempts=tuple(_repriced(attempt, prices.get(attempt.model)) for attempt in stored.attempts))


def charged(stored: Completion, payer: str, *, is_ours: bool) -> Completion:
    """For an evaluation, which charges a method what its calls cost, whoever paid: a reused answer at its full cost.

    `payer` is who paid for a stored answer; `is_ours` says that it is the evaluation that asks.
    """
    if stored.reused_from:
        [answering] = stored.attempts
        return replace(stored, attempts=(replace(answering, cost_usd=stored.saved_usd),), saved_usd=0.0)
    return stored if is_ours else replace(stored, reused_from=payer)


def usd_today(attempt: Attempt, price: Price) -> float:
    """What the attempt's tokens cost at this price; where nobody counted them, the most they can. The run of a program
    costs what its seconds cost."""
    if _is_run(attempt):
        return attempt.cost_usd
    return (worst_cost_usd if attempt.usage.source == "estimated" else cost_usd)(price, attempt.usage)


def _is_run(attempt: Attempt) -> bool:
    return attempt.response_model == PYTHON and not attempt.usage.total_tokens


def _repriced(attempt: Attempt, price: Price | None) -> Attempt:
    if price is None or attempt.price_version == price.version or _is_run(attempt):
        return attempt
    is_billed = attempt.cost_usd > 0 or attempt.error_type is None
    usd = usd_today(attempt, price) if is_billed else 0.0
    return replace(attempt, cost_usd=usd, price_version=price.version)
