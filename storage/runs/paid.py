"""What a journal says was paid: its stored calls, and at the most they may have cost those that a kill left open."""

from pathlib import Path

from r2.call import Completion
from storage.runs.journal import Journal


def paid_usd(journal: Journal) -> float:
    """USD over all sessions that wrote into the journal before this one."""
    stored_usd = sum(Completion.from_bytes(record).cost_usd for _, record in journal.records())
    return stored_usd + sum(call.usd for call in journal.lost_at_open)


def paid_beside_usd(path: Path) -> float:
    """The same of the journals that the other processes of a run write beside `path`: `calls-rank1.journal` and so
    on."""
    paid = 0.0
    for other in sorted(path.parent.glob(f"{path.stem.partition('-rank')[0]}*{path.suffix}")):
        if other.name != path.name:
            with Journal.glance(other) as journal:
                paid += paid_usd(journal)
    return paid
