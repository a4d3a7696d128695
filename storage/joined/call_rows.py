"""The calls of claimed shards as rows of PostgreSQL: durable before an answer is used, and there for whoever takes a
shard over.

What all shards of this worker have to store goes in groups: while one statement is on its way, the next gathers. Each
is fenced: it stores nothing for a claim that is somebody else's by now. With the server away everybody waits, and no
call is sent, for a call is noted here before it is.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from r2.call import Completion
from r2.pool.coordination.database import Connection, Database
from storage.joined.claims import Claim, Claims, lost
from storage.runs.journal import Journal, LostCall

_STORE = """
with mine as (
    select idx, token from r2_shared.shards where run = $1 and owner = $2 and not done
        and (idx, token) in (select * from unnest($3::int[], $4::bigint[])) order by idx for share
), stored as (
    insert into r2_shared.calls (run, shard, key, token, open_usd, body)
        select $1, w.shard, w.key, w.token, w.open_usd, w.body
        from unnest($5::int[], $6::text[], $7::bigint[], $8::float8[], $9::bytea[])
            as w (shard, key, token, open_usd, body)
            join mine on mine.idx = w.shard and mine.token = w.token
    on conflict (run, shard, key, token) do update
        set open_usd = excluded.open_usd, body = coalesce(excluded.body, r2_shared.calls.body)
)
select idx from mine
"""
MOST_ROWS = 2000
"""In one statement."""


class _Row(NamedTuple):
    open_usd: float | None
    body: bytes | None


@dataclass(slots=True)
class _Group:
    """What the next statement stores. A call's later word replaces its earlier one."""

    rows: dict[tuple[int, str, int], _Row] = field(default_factory=dict)
    claims: dict[int, Claim] = field(default_factory=dict)
    waiting: list[tuple[asyncio.Future[None], Claim]] = field(default_factory=list)


class CallRows:
    """Stores for all claimed shards of a worker. Used inside `async with`."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._next = _Group()
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)

    def store(self, claim: Claim, rows: Sequence[tuple[str, float | None, bytes | None]]) -> Awaitable[None]:
        """(key, what it may cost while it is open, record). Done once it is durable; ClaimLostError if the claim is
        lost by then."""
        if claim.is_lost:
            raise lost(claim)
        if self._writer.done():
            self._writer.result()  # a bug in here, raised to whoever pays
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for key, open_usd, body in rows:
            place = (claim.shard, key, claim.token)
            before = self._next.rows.get(place)
            kept = before.body if body is None and before is not None else body
            self._next.rows[place] = _Row(open_usd, kept)
        self._next.claims[claim.shard] = claim
        self._next.waiting.append((stored, claim))
        self._wake.set()
        return stored

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            group, self._next = self._next, _Group()
            try:
                mine = await self._stored(group)
            except BaseException as error:
                for stored, _ in group.waiting:
                    if not stored.done():
                        stored.set_exception(error) if isinstance(error, Exception) else stored.cancel()
                raise
            for claim in group.claims.values():
                if claim.shard not in mine:
                    self._claims.lose(claim)
            for stored, claim in group.waiting:
                if stored.done():
                    continue
                if claim.is_lost:
                    stored.set_exception(lost(claim))
                else:
                    stored.set_result(None)

    async def _stored(self, group: _Group) -> set[int]:
        """Shards whose claims are still ours."""
        mine = set(group.claims)
        places = list(group.rows)
        claims = list(group.claims.values())
        for start in range(0, len(places), MOST_ROWS):
            part = places[start : start + MOST_ROWS]
            rows = [group.rows[place] for place in part]

            async def work(connection: Connection, part: Any = part, rows: Any = rows) -> list[Any]:
                found: list[Any] = await connection.fetch(
                    _STORE,
                    self._claims.run,
                    self._claims.worker,
                    [claim.shard for claim in claims],
                    [claim.token for claim in claims],
                    [shard for shard, _, _ in part],
                    [key for _, key, _ in part],
                    [token for _, _, token in part],
                    [row.open_usd for row in rows],
                    [row.body for row in rows],
                )
                return found

            mine &= {row["idx"] for row in await self._claims.database.run(work)}
        return mine


class JoinedJournal:
    """Implements `r2.pool.client.ports.CallJournal` for one claimed shard."""

    def __init__(self, rows: CallRows, claim: Claim) -> None:
        self._rows = rows
        self._claim = claim
        self._bodies: dict[str, bytes] = {}
        self._lost_usd: dict[str, float] = {}
        self.lost_at_open: list[LostCall] = []
        """As `Journal.lost_at_open`: calls that earlier claims began and never stored."""

    @classmethod
    async def open(cls, database: Database, run: str, rows: CallRows, claim: Claim) -> Self:
        """With everything that earlier claims have paid for."""
        journal = cls(rows, claim)
        found = await database.run(
            lambda connection: connection.fetch(
                "select key, token, open_usd, body from r2_shared.calls where run = $1 and shard = $2 order by token",
                run,
                claim.shard,
            )
        )
        for row in found:
            key = row["key"]
            if row["body"] is not None:
                journal._bodies[key] = row["body"]
            if row["open_usd"] is not None and row["token"] < claim.token:
                journal.lost_at_open.append(LostCall(key, row["open_usd"], b""))
                journal._lost_usd[key] = journal._lost_usd.get(key, 0.0) + row["open_usd"]
        return journal

    def find(self, key: str) -> bytes | None:
        return self._bodies.get(key)

    def lost_usd(self, key: str) -> float:
        return self._lost_usd.get(key, 0.0)

    def begin(self, key: str, worst_usd: float) -> Awaitable[None]:
        return self._rows.store(self._claim, [(key, worst_usd, None)])

    def hold(self, key: str, worst_usd: float) -> Awaitable[None]:
        return self._rows.store(self._claim, [(key, worst_usd, None)])

    async def commit(self, key: str, record: bytes, usd: float = 0.0) -> None:
        await self.commit_all([(key, record, usd)])

    async def commit_all(self, records: Sequence[tuple[str, bytes, float]]) -> None:
        await self._rows.store(self._claim, [(key, None, record) for key, record, _ in records])
        self._bodies.update({key: record for key, record, _ in records})


async def paid_usd(database: Database, run: str) -> float:
    """What the calls of a run's open shards have cost: those stored, and at the most those that were begun by workers
    that are gone. What living ones have on its way is in their holds."""
    found = await database.run(
        lambda connection: connection.fetch(
            """
            select c.body, case when s.until > clock_timestamp() and s.token = c.token then null else c.open_usd end
                as lost_usd
            from r2_shared.calls c left join r2_shared.shards s on s.run = c.run and s.idx = c.shard where c.run = $1
            """,
            run,
        )
    )
    paid = 0.0
    for row in found:
        paid += row["lost_usd"] or 0.0
        if row["body"] is not None:
            paid += Completion.from_bytes(row["body"]).cost_usd
    return paid


async def adopt(database: Database, run: str, shard: int, journal: Journal) -> None:
    """What a session that had joined nothing paid for in a shard: from its journal on disk into rows. Done twice, it is
    there once."""
    rows: list[tuple[str, int, float | None, bytes | None]]
    rows = [(key, 0, None, record) for key, record in journal.records()]
    rows += [(call.key, -1 - number, call.usd, None) for number, call in enumerate(journal.lost_at_open)]
    await database.run(
        lambda connection: connection.execute(
            "insert into r2_shared.runs (run, pool_path) values ($1, '') on conflict do nothing", run
        )
    )
    await database.run(
        lambda connection: connection.executemany(
            "insert into r2_shared.calls (run, shard, key, token, open_usd, body) values ($1, $2, $3, $4, $5, $6) "
            "on conflict do nothing",
            [(run, shard, key, token, usd, body) for key, token, usd, body in rows],
        )
    )
