"""A text that a policy wrote, with what its tokens cost, as a completion."""

import time
from dataclasses import dataclass

from r2.call import Attempt, Call, Completion
from r2.ledger import Usage, cost_usd
from r2.roster import Roster


@dataclass(frozen=True, slots=True)
class SampledText:
    """A text that a policy wrote, with the tokens it took. `is_cut`: it ran into its limit."""

    text: str
    input_tokens: int
    output_tokens: int
    is_cut: bool = False


def completion_of(sampled: SampledText, call: Call, roster: Roster) -> Completion:
    """The sampled text as the completion of `call`, charged at the entry's price."""
    price, usage = roster[call.model].price, Usage(sampled.input_tokens, 0, sampled.output_tokens)
    reason = "length" if sampled.is_cut else "stop"
    attempt = Attempt(
        call.model,
        0,
        200,
        time.time(),
        usage=usage,
        cost_usd=cost_usd(price, usage),
        price_version=price.version,
        response_model=call.model,
        finish_reason=reason,
    )
    return Completion(sampled.text, call.model, (attempt,), reason)
