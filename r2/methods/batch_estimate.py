"""What the calls of a dry run would cost by batch, and how many jobs a question needs one after the other. Ours.

The depth is an upper estimate: every call of a question that goes by batch waits for the one before it, though those of
one wave share a job.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from r2.call import ROUTER_PURPOSES
from r2.ledger import Usage, cost_usd
from r2.methods.estimate import CallEstimate
from r2.pool.batch.choosing import BatchChoice


@dataclass(frozen=True, slots=True)
class BatchEstimate:
    """`usd` with the batch lanes and `live_usd` without, of all calls; `n_calls` of them go by batch."""

    usd: float
    live_usd: float
    n_calls: int
    depth: int


def batch_estimate(calls: Iterable[CallEstimate], chosen: Mapping[str, BatchChoice], n_questions: int) -> BatchEstimate:
    """Of so many questions together."""
    usd = live_usd = 0.0
    n_calls = 0
    for call in calls:
        live_usd += call.cost_usd
        choice = chosen.get(call.model)
        if choice is None or (call.purpose in ROUTER_PURPOSES and not choice.routes):
            usd += call.cost_usd
            continue
        n_calls += call.n_calls
        usd += cost_usd(choice.price, Usage(call.input_tokens, 0, call.output_tokens))
    depth = math.ceil(n_calls / n_questions) if n_questions else 0
    return BatchEstimate(usd, live_usd, n_calls, max(1, depth))
