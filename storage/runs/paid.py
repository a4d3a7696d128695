"""What a journal says was paid: its stored calls, and at the most they may have cost those that a kill left open."""

from r2.call import Completion
from storage.runs.journal import Journal


def paid_usd(journal: Journal) -> float:
    """USD over all sessions that wrote into the journal before this one."""
    stored_usd = sum(Completion.from_bytes(record).cost_usd for _, record in journal.records())
    return stored_usd + sum(call.usd for call in journal.lost_at_open)
