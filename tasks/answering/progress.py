"""Counts of a run over all its sessions, and what earlier sessions settled."""

import time
from dataclasses import dataclass, field

from r2.answering.protocol import Outcome
from r2.errors import failure
from storage.lake.lake import Lake
from storage.runs.plan import RunPlan


@dataclass(slots=True)
class Progress:
    """Counts of a run, over all its sessions; read by whoever shows them."""

    n_requested: int
    n_answered: int = 0
    n_failed: int = 0
    n_deferred: int = 0
    n_by_outage: dict[str, int] = field(default_factory=dict)
    """Error type -> problems that this session deferred because a model could not be reached or used."""
    last_outage: str = ""
    """The newest of these errors, in words."""
    n_correct: int = 0
    n_judged: int = 0
    n_calls_lost: int = 0
    """Calls begun by a session that was killed before their answer was durable: they may have been paid twice."""
    settled_cost_usd: float = 0.0
    unsettled_cost_usd: float = 0.0
    """Paid for problems that are not settled yet; their calls wait in the journals."""
    session_cost_usd: float = 0.0
    session_n_settled: int = 0
    started_at: float = field(default_factory=time.time)
    wall_s: float = 0.0
    """Of the session, once it is closed."""
    stop_reason: str | None = None
    """`budget` or `interrupted` once the run is ending early."""

    @property
    def n_settled(self) -> int:
        return self.n_answered + self.n_failed

    @property
    def is_cut_off(self) -> bool:
        """No model could be reached: every problem that this session worked on was deferred for that."""
        return bool(self.n_by_outage) and self.session_n_settled == 0

    def note_deferred(self, outcome: Outcome) -> None:
        """Remembers why a problem was deferred, where an outage is the reason."""
        error_type = outcome.error_type or ""
        if failure(error_type).is_outage:
            self.n_by_outage[error_type] = self.n_by_outage.get(error_type, 0) + 1
            self.last_outage = outcome.error_message or error_type


def progress_so_far(plan: RunPlan) -> Progress:
    """What earlier sessions of the run settled, from the notes in the lake's manifest: no table is read."""
    progress = Progress(plan.n_requested)
    for entry in Lake(plan.settings.lake).units(plan.run_id).values():
        progress.n_answered += entry.meta.get("n_answered", 0)
        progress.n_failed += entry.meta.get("n_failed", 0)
        progress.n_correct += entry.meta.get("n_correct", 0)
        progress.n_judged += entry.meta.get("n_judged", 0)
        progress.n_calls_lost += entry.meta.get("n_calls_lost", 0)
        progress.settled_cost_usd += entry.meta.get("cost_usd", 0.0)
    return progress
