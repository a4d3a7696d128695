"""What the pool client meets at its edges: the journal that makes calls durable, and the address a model answers at.

`storage/runs/journal.py` implements `CallJournal`; `NoJournal` is for pings and tests.
`r2/pool/servers/endpoints.py` starts or finds the servers and gives one `Address` per pool entry.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Address:
    """Where one pool entry answers: `base_url` ends before `/chat/completions`, `served_model` is the body's `model`.

    `streams`: the server sends its answer in pieces when asked to, a token each. `is_ours`: we started it, it serves
    nobody else, and whoever waits for it waits for work of ours. `backlog`: somebody watches the server's queue.
    `reads_by_slot`: each of its slots reads the same instructions for itself (r2/pool/client/instructions.py).
    """

    base_url: str
    served_model: str
    streams: bool = False
    is_ours: bool = False
    backlog: "Backlog | None" = None
    reads_by_slot: bool = False


class Backlog(Protocol):
    """What a server of ours has not begun (r2/pool/servers/vllm_watch.py)."""

    def follow(self, hold: Callable[[bool], None]) -> None:
        """Calls `hold(True)` when nothing more should be sent for now, `hold(False)` when it may be sent again."""


class CallJournal(Protocol):
    """Makes completions durable before they are used, and answers calls that an earlier session already paid for."""

    def find(self, key: str) -> bytes | None:
        """The stored completion (`Completion.to_bytes`) of this `Call.journal_key`, or None."""

    def lost_usd(self, key: str) -> float:
        """The most that killed sessions may have paid for this call and never stored."""

    def begin(self, key: str, worst_usd: float) -> Awaitable[None] | None:
        """Notes that the call is about to be sent, and the most that it may cost: what a kill leaves open is counted as
        paid. Noted on return (no fsync, but written), or once what is returned has been awaited; not before may the
        call be sent."""

    def hold(self, key: str, worst_usd: float) -> Awaitable[None] | None:
        """The same for a call of this session that is about to be sent again: the most that it may cost in all."""

    async def commit(self, key: str, record: bytes, usd: float = 0.0) -> None:
        """Returns once the record is on disk (fsync, batched over concurrent callers). `usd` is what was paid for it:
        it counts as spent even where the record is lost."""

    async def commit_all(self, records: Sequence[tuple[str, bytes, float]]) -> None:
        """The same for many at once: (key, record, usd)."""


class NoJournal:
    """Keeps nothing."""

    def find(self, key: str) -> bytes | None:
        return None

    def lost_usd(self, key: str) -> float:
        return 0.0

    def begin(self, key: str, worst_usd: float) -> None:
        return None

    def hold(self, key: str, worst_usd: float) -> None:
        return None

    async def commit(self, key: str, record: bytes, usd: float = 0.0) -> None:
        return None

    async def commit_all(self, records: Sequence[tuple[str, bytes, float]]) -> None:
        return None
