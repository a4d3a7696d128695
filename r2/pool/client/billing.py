"""What an attempt is charged: the bill, where it can be true; the worst case, where nobody will say. Pure.

A server's count is a counterparty's number. It is believed within the bound of what was asked; beyond it, it is stored
as it came, marked `doubtful`, and charged, because it may be what is on the invoice. A count that says too little to be
true is stored so as well, and the worst case is charged.
"""

from dataclasses import dataclass, replace

from r2.ledger import Price, Usage, cost_usd, worst_cost_usd


@dataclass(slots=True)  # not frozen: one is made per attempt
class Charge:
    """What one attempt costs. `usage` is as stored; `usd` is the price of it, or of the worst case where that is
    safer."""

    usage: Usage
    usd: float


NOTHING = Charge(Usage(), 0.0)


def worst_charge(price: Price, worst: Usage) -> Charge:
    """Of a call that may have been billed, without a bill to look at."""
    return Charge(worst, worst_cost_usd(price, worst))


def charge(price: Price, worst: Usage, reported: Usage | None, *, has_text: bool) -> Charge:
    """Of a reply. `worst` bounds what was asked for; `reported` is None where the provider counted nothing that can be
    read."""
    if reported is None:
        return worst_charge(price, worst)
    if reported.input_tokens == 0 or (has_text and reported.output_tokens == 0):
        usd = max(worst_cost_usd(price, worst), cost_usd(price, reported))
        return Charge(replace(reported, source="doubtful"), usd)
    if reported.input_tokens > worst.input_tokens or reported.output_tokens > worst.output_tokens:
        return Charge(replace(reported, source="doubtful"), cost_usd(price, reported))
    return Charge(reported, cost_usd(price, reported))
