"""Counts of a run over all its sessions, and what earlier sessions settled.

What counts is what the lake has committed. Questions of a shard that is still open are shown beside it, and forgotten
if the shard has to be answered again: nothing is counted twice, however often a shard is tried.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from r2.answering.protocol import Outcome
from r2.errors import failure
from r2.records.tables import TrajectoryRow
from storage.lake.lake import Lake
from storage.runs.journal import LostCall
from storage.runs.plan import RunPlan


@dataclass(slots=True)
class Counts:
    """Settled questions of one unit of the lake, or of a shard on its way to one; kept with the unit as its note."""

    n_answered: int = 0
    n_failed: int = 0
    n_correct: int = 0
    n_judged: int = 0
    n_calls_lost: int = 0
    cost_usd: float = 0.0
    lost_cost_usd: float = 0.0
    """The most that the lost calls may have cost."""
    saved_usd: float = 0.0
    """What the calls would have cost that other runs had paid for."""

    @classmethod
    def of_note(cls, note: Mapping[str, Any]) -> "Counts":
        """From a unit's note. Units that settled nothing (a session's row) have an empty one."""
        return cls(**{name: note[name] for name in cls.__slots__ if name in note})

    def note(self) -> dict[str, Any]:
        return asdict(self)

    def add(self, row: TrajectoryRow) -> None:
        self.n_answered += row.status == "answered"
        self.n_failed += row.status != "answered"
        self.n_judged += row.is_correct is not None
        self.n_correct += row.is_correct is True
        self.cost_usd += row.cost_usd
        self.saved_usd += row.saved_usd or 0.0

    def note_lost(self, calls: Sequence[LostCall]) -> None:
        """These calls were lost in kills: what they may have cost is in no row."""
        self.n_calls_lost = len(calls)
        self.lost_cost_usd = sum(call.usd for call in calls)

    @property
    def n_settled(self) -> int:
        return self.n_answered + self.n_failed


@dataclass(slots=True)
class Progress:
    """Counts of a run, over all its sessions; read by whoever shows them. `settled` is what is committed."""

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
    """Calls begun by a session that was killed before their answer was durable, or whose answer a damaged journal lost:
    they may have been paid twice."""
    lost_cost_usd: float = 0.0
    """The most that those of settled problems may have cost."""
    settled_cost_usd: float = 0.0
    saved_usd: float = 0.0
    """What the calls of settled problems would have cost that other runs had paid for."""
    unsettled_cost_usd: float = 0.0
    """Paid beside what the settled problems' rows say: for problems that are not settled yet, whose calls wait in the
    journals, and for calls that were lost in kills, at the most they may have cost."""
    session_cost_usd: float = 0.0
    n_settled_before: int = 0
    """By earlier sessions."""
    n_settled_elsewhere: int = 0
    """By other machines, while this session went on."""
    dropped_cost_usd: float = 0.0
    """Paid for questions whose rows somebody else had stored first: ours were dropped."""
    n_bad_rows: int = 0
    """Of those that this session settled: rows of the input that no model was asked about."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """For whom the session spends."""
    started_at: float = field(default_factory=time.time)
    wall_s: float = 0.0
    """Of the session, once it is closed."""
    stop_reason: str | None = None
    """`budget` or `interrupted` once the run is ending early."""
    warnings: list[str] = field(default_factory=list)
    """What is to be said before the first call: what was found amiss, and what need not be paid again."""
    said: list[str] = field(default_factory=list)
    """What there was to say of batch lanes while the session went on."""
    _units: set[str] = field(default_factory=set)
    _open: dict[int, Counts] = field(default_factory=dict)

    @property
    def n_settled(self) -> int:
        return self.n_answered + self.n_failed

    @property
    def session_n_settled(self) -> int:
        """By this session."""
        return self.n_settled - self.n_settled_before - self.n_settled_elsewhere

    @property
    def is_cut_off(self) -> bool:
        """No model could be reached: every problem that this session worked on was deferred for that."""
        return bool(self.n_by_outage) and self.session_n_settled == self.n_bad_rows

    def note_deferred(self, outcome: Outcome) -> None:
        """Remembers why a problem was deferred, where an outage is the reason."""
        error_type = outcome.error_type or ""
        if failure(error_type).is_outage:
            self.n_by_outage[error_type] = self.n_by_outage.get(error_type, 0) + 1
            self.last_outage = outcome.error_message or error_type

    def settle(self, unit: str, counts: Counts, *, is_ours: bool = True) -> None:
        """Counts a unit that the lake has committed; a second time it changes nothing. `is_ours` False: another machine
        committed it."""
        if unit in self._units:
            return
        self._units.add(unit)
        if not is_ours:
            self.n_settled_elsewhere += counts.n_settled
        self.n_answered += counts.n_answered
        self.n_failed += counts.n_failed
        self.n_correct += counts.n_correct
        self.n_judged += counts.n_judged
        self.n_calls_lost += counts.n_calls_lost
        self.settled_cost_usd += counts.cost_usd
        self.saved_usd += counts.saved_usd
        self.lost_cost_usd += counts.lost_cost_usd

    def begin(self, shard: int) -> Counts:
        """What an attempt at a shard counts in while it goes on. An earlier attempt's counts are forgotten."""
        self._open[shard] = counts = Counts()
        return counts

    def end(self, shard: int) -> None:
        """The attempt is over: what it settled is committed, or is not settled."""
        self._open.pop(shard, None)

    def shown(self) -> Counts:
        """What is committed together with what the open shards have answered so far: for a display, never for
        accounts."""
        shown = Counts(
            self.n_answered,
            self.n_failed,
            self.n_correct,
            self.n_judged,
            self.n_calls_lost,
            self.settled_cost_usd,
            saved_usd=self.saved_usd,
        )
        for counts in self._open.values():
            shown.n_answered += counts.n_answered
            shown.n_failed += counts.n_failed
            shown.n_correct += counts.n_correct
            shown.n_judged += counts.n_judged
            shown.n_calls_lost += counts.n_calls_lost
            shown.cost_usd += counts.cost_usd
            shown.saved_usd += counts.saved_usd
        return shown


def settled_rows(plan: RunPlan) -> Counter[int]:
    """Settled rows of each shard, from the notes of the units that have one."""
    settled, lake = Counter[int](), Lake(plan.settings.lake)
    lake.store.look_again()
    for name, entry in lake.units(plan.run_id).items():
        shard = name.partition("-")[0]
        if shard.isdigit():
            settled[int(shard)] += Counts.of_note(entry.meta).n_settled
    return settled


def progress_so_far(plan: RunPlan) -> Progress:
    """What earlier sessions of the run settled, from the notes in the lake's manifest: no table is read."""
    progress = Progress(plan.n_requested, tags=plan.settings.tags)
    for unit, entry in Lake(plan.run_dir.parent.parent).units(plan.run_id).items():
        progress.settle(unit, Counts.of_note(entry.meta))
    progress.n_settled_before = progress.n_settled
    return progress
