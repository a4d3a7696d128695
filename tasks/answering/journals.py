"""Where a session keeps the calls of its shards: files on this machine's disk, or, in a run that machines have joined,
rows of PostgreSQL."""

from collections.abc import AsyncIterator, Set
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from r2.pool.client.ports import CallJournal
from storage.joined.call_rows import CallRows, JoinedJournal
from storage.joined.claims import Claims
from storage.runs.journal import Journal, LostCall, drop_settled
from storage.runs.journal_mark import remove_journal
from storage.runs.plan import RunPlan
from tasks.blocking import opened, to_end


class ShardJournal(CallJournal, Protocol):
    """The calls of one shard."""

    lost_at_open: list[LostCall]
    """Calls that earlier sessions began and never stored."""


class Journals(Protocol):
    """The journals of a run's shards."""

    def opened(self, shard: int) -> AbstractAsyncContextManager[ShardJournal]:
        """The shard's, with what earlier sessions paid for."""

    async def may_commit(self, shard: int) -> dict[str, Any]:
        """Right before the shard's unit is committed: what its note says of whose it is. ClaimLostError where it is not
        ours any more."""

    async def close(self, shard: int, settled_keys: Set[str] | None) -> None:
        """Drops the calls that the shard no longer needs; None: it is complete."""


class LocalJournals:
    """A file for each shard, in the run's folder."""

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan

    def opened(self, shard: int) -> AbstractAsyncContextManager[Journal]:
        return opened(Journal.open, self._plan.journal_file(shard))

    async def may_commit(self, shard: int) -> dict[str, Any]:
        return {}

    async def close(self, shard: int, settled_keys: Set[str] | None) -> None:
        await to_end(_close, self._plan.journal_file(shard), settled_keys)


class JoinedJournals:
    """Rows for each claimed shard."""

    def __init__(self, claims: Claims, rows: CallRows) -> None:
        self._claims = claims
        self._rows = rows

    @asynccontextmanager
    async def opened(self, shard: int) -> AsyncIterator[JoinedJournal]:
        claims = self._claims
        yield await JoinedJournal.open(claims.database, claims.run, self._rows, claims.claim_of(shard))

    async def may_commit(self, shard: int) -> dict[str, Any]:
        claim = self._claims.claim_of(shard)
        await self._claims.check(claim)
        return {"claim": claim.token, "worker": self._claims.worker}

    async def close(self, shard: int, settled_keys: Set[str] | None) -> None:
        claim = self._claims.claim_of(shard)
        keys = () if settled_keys is None else sorted(settled_keys)
        await self._claims.close(claim, is_done=settled_keys is None, settled_keys=keys)


def _close(path: Path, settled_keys: Set[str] | None) -> None:
    if settled_keys is None:
        remove_journal(path)
    else:
        drop_settled(path, settled_keys)
