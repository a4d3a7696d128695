"""Claims: which worker has which shard of a run. A worker is one process that has joined it.

A claim is a row of the shard: owner, a deadline that the owner renews, and a token that grows with each take-over. Time
is the server's. A claim whose deadline has passed is still its owner's until somebody takes it over; from then on every
statement that names the old token changes nothing (it is fenced). The manifest's entry stays the last word: a claim
keeps two machines from paying for one question, the manifest keeps them from storing it twice.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from r2.errors import ClaimLostError, ConfigError
from r2.pool.coordination.database import Connection, Database

CLAIM_S: Final = 60.0
"""How long a claim stands without being renewed: after that a machine counts as gone."""
RENEW_S: Final = 15.0
FINISH: Final = -1
"""Number of the shard that stands for the end of the run: compaction and the answers file, by one worker."""


@dataclass(slots=True, eq=False)
class Claim:
    """A shard that this worker has, under the token of its claim."""

    shard: int
    token: int
    is_lost: bool = False
    """Somebody else has it by now."""
    task: asyncio.Task[object] | None = None
    """Its answering: cancelled when the claim is lost."""


@dataclass(frozen=True, slots=True)
class Look:
    """A run as it is stored now, the shards that the asking worker has given up left out of `n_busy`."""

    n_open: int
    n_busy: int
    """Open shards that a living worker has."""
    workers: tuple[str, ...]
    """Living ones."""
    stopped_by: str | None
    is_there: bool = True
    """False: the run is finished, and its rows are gone."""


class Claims:
    """The claims of one worker on one run."""

    def __init__(self, database: Database, run: str) -> None:
        self.database = database
        self.run = run
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self.held: dict[int, Claim] = {}
        self.n_lost = 0
        """Shards that others have taken over from this worker."""
        self.stopped: Callable[[str], None] = lambda who: None
        """Told who has stopped the run."""

    async def enter(
        self, *, pool_path: str, has_day_cap: bool, code: str, n_shards: int, open_shards: Collection[int]
    ) -> None:
        """Joins the run. ConfigError where it was stopped, where others work on it with another version of the code,
        and where a cap of a day would be counted under another path."""

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute(
                    "insert into r2_shared.runs (run, pool_path) values ($1, $2) on conflict do nothing",
                    self.run,
                    pool_path,
                )
                run = await connection.fetchrow("select * from r2_shared.runs where run = $1 for update", self.run)
                if run["stopped_by"] is not None:
                    raise ConfigError(
                        f"the run was stopped by {run['stopped_by']} at {run['stopped_at']:%Y-%m-%d %H:%M} UTC. "
                        f"`r2 join {self.run.partition(':')[0]} --resume` lets machines join it again."
                    )
                others = await connection.fetch(
                    "select worker, code from r2_shared.workers where run = $1 and until > clock_timestamp()", self.run
                )
                if other := next((one for one in others if one["code"] != code), None):
                    raise ConfigError(
                        f"worker {_named(other['worker'])} works on this run with version {other['code']} of the code, "
                        f"and this one has {code}. Give all machines the same version; this one has done nothing."
                    )
                if others and has_day_cap and run["pool_path"] != pool_path:
                    raise ConfigError(
                        f"{pool_path}: the other machines have the pool file at {run['pool_path']}, and its caps of a "
                        "day are counted by its path. Mount it at the same path everywhere."
                    )
                await connection.execute(
                    "insert into r2_shared.workers values ($1, $2, $3, clock_timestamp(), "
                    "clock_timestamp() + make_interval(secs => $4)) "
                    "on conflict (run, worker) do update set until = excluded.until",
                    self.run,
                    self.worker,
                    code,
                    CLAIM_S,
                )
                await connection.execute(
                    "insert into r2_shared.shards (run, idx, done) select $1, idx, not (idx = any ($3)) "
                    "from generate_series(-1, $2 - 1) idx on conflict do nothing",
                    self.run,
                    n_shards,
                    [FINISH, *sorted(open_shards)],
                )

        await self.database.run(work)

    async def take(self, given_up: Collection[int] = ()) -> Claim | None:
        """The first open shard that nobody alive has, but for those `given_up`; None where there is none now."""
        row = await self.database.run(
            lambda connection: connection.fetchrow(
                """
                update r2_shared.shards set owner = $2, until = clock_timestamp() + make_interval(secs => $3),
                    token = token + 1
                where (run, idx) = (
                    select run, idx from r2_shared.shards where run = $1 and idx >= 0 and not done
                        and (until is null or until < clock_timestamp()) and not (idx = any ($4))
                    order by idx limit 1 for update skip locked)
                returning idx, token
                """,
                self.run,
                self.worker,
                CLAIM_S,
                [*given_up, *self.held],
            )
        )
        return None if row is None else self._hold(row)

    async def take_finish(self) -> Claim | None:
        """The end of the run, once no shard is open and unless somebody alive has it."""
        row = await self.database.run(
            lambda connection: connection.fetchrow(
                """
                update r2_shared.shards set owner = $2, until = clock_timestamp() + make_interval(secs => $3),
                    token = token + 1
                where run = $1 and idx = -1 and not done and (until is null or until < clock_timestamp())
                    and not exists (select 1 from r2_shared.shards other
                        where other.run = $1 and other.idx >= 0 and not other.done)
                returning idx, token
                """,
                self.run,
                self.worker,
                CLAIM_S,
            )
        )
        return None if row is None else self._hold(row)

    async def renew(self) -> str | None:
        """Renews every claim and this worker, and returns who has stopped the run, if somebody has. Claims that are
        somebody else's by now are lost: their answering is cancelled."""
        asked = list(self.held.values())

        async def work(connection: Connection) -> tuple[set[tuple[int, int]], str | None]:
            async with connection.transaction():
                rows = await connection.fetch(
                    "select idx, token from r2_shared.shards where run = $1 and owner = $2 and not done order by idx "
                    "for update",
                    self.run,
                    self.worker,
                )
                await connection.execute(
                    "update r2_shared.shards set until = clock_timestamp() + make_interval(secs => $3) "
                    "where run = $1 and owner = $2 and not done",
                    self.run,
                    self.worker,
                    CLAIM_S,
                )
                await connection.execute(
                    "update r2_shared.workers set until = clock_timestamp() + make_interval(secs => $3) "
                    "where run = $1 and worker = $2",
                    self.run,
                    self.worker,
                    CLAIM_S,
                )
                stopped = await connection.fetchval("select stopped_by from r2_shared.runs where run = $1", self.run)
            return {(row["idx"], row["token"]) for row in rows}, stopped

        found, stopped_by = await self.database.run(work)
        for claim in asked:
            if self.held.get(claim.shard) is claim and (claim.shard, claim.token) not in found:
                self.lose(claim)
        return stopped_by

    async def keep(self) -> None:
        """Renews until it is cancelled."""
        while True:
            await asyncio.sleep(RENEW_S)
            if (who := await self.renew()) is not None:
                self.stopped(who)

    async def check(self, claim: Claim) -> None:
        """Renews one claim, right before what must not be done by two. ClaimLostError if it is lost."""
        found = await self.database.run(
            lambda connection: connection.fetchval(
                "update r2_shared.shards set until = clock_timestamp() + make_interval(secs => $5) "
                "where run = $1 and idx = $2 and token = $3 and owner = $4 and not done returning idx",
                self.run,
                claim.shard,
                claim.token,
                self.worker,
                CLAIM_S,
            )
        )
        if found is None:
            self.lose(claim)
            raise lost(claim)

    async def close(self, claim: Claim, *, is_done: bool, settled_keys: Sequence[str] = ()) -> None:
        """Lets the shard go, `is_done` for good. The calls that it needs no longer go with it: all, or those of
        `settled_keys`."""

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                mine = await connection.fetchval(
                    "update r2_shared.shards set owner = null, until = null, done = $5 "
                    "where run = $1 and idx = $2 and token = $3 and owner = $4 returning idx",
                    self.run,
                    claim.shard,
                    claim.token,
                    self.worker,
                    is_done,
                )
                if mine is not None:
                    await connection.execute(
                        "delete from r2_shared.calls where run = $1 and shard = $2 and ($3 or key = any ($4))",
                        self.run,
                        claim.shard,
                        is_done,
                        list(settled_keys),
                    )

        await self.database.run(work)
        if self.held.get(claim.shard) is claim:
            del self.held[claim.shard]

    def lose(self, claim: Claim) -> None:
        """Notes that a claim is somebody else's, and ends its answering."""
        if not claim.is_lost:
            claim.is_lost = True
            self.n_lost += 1
            if self.held.get(claim.shard) is claim:
                del self.held[claim.shard]
            if claim.task is not None and claim.task is not asyncio.current_task():
                claim.task.cancel()

    async def leave(self) -> None:
        """This worker is gone from the run; what it still holds is free at once."""

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute(
                    "update r2_shared.shards set owner = null, until = null where run = $1 and owner = $2",
                    self.run,
                    self.worker,
                )
                await connection.execute(
                    "delete from r2_shared.workers where run = $1 and worker = $2", self.run, self.worker
                )

        await self.database.run(work)
        self.held.clear()

    async def forget_run(self) -> None:
        """The run is finished: none of its rows are needed."""
        await self.database.run(
            lambda connection: connection.execute("delete from r2_shared.runs where run = $1", self.run)
        )
        self.held.clear()

    async def look(self, given_up: Collection[int] = ()) -> Look:
        """The run as it is stored."""
        return await look(self.database, self.run, given_up)

    def claim_of(self, shard: int) -> Claim:
        """This worker's claim of a shard. ClaimLostError if it has none any more."""
        claim = self.held.get(shard)
        if claim is None:
            raise lost(Claim(shard, 0))
        return claim

    def _hold(self, row: dict[str, int]) -> Claim:
        claim = self.held[row["idx"]] = Claim(row["idx"], row["token"])
        return claim


async def look(database: Database, run: str, given_up: Collection[int] = ()) -> Look:
    """A run as it is stored now."""

    async def work(connection: Connection) -> Look:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            row = await connection.fetchrow("select stopped_by from r2_shared.runs where run = $1", run)
            if row is None:
                return Look(0, 0, (), None, is_there=False)
            n_open, n_busy = await connection.fetchrow(
                "select count(*), count(*) filter (where until > clock_timestamp() and not (idx = any ($2))) "
                "from r2_shared.shards where run = $1 and idx >= 0 and not done",
                run,
                list(given_up),
            )
            workers = await connection.fetch(
                "select worker from r2_shared.workers where run = $1 and until > clock_timestamp() order by worker", run
            )
            return Look(n_open, n_busy, tuple(one["worker"] for one in workers), row["stopped_by"])

    return await database.run(work)


async def stop_run(database: Database, run: str, who: str | None) -> bool:
    """Stops the run on all machines (None: lets machines join it again). False where it is not there."""
    found = await database.run(
        lambda connection: connection.fetchval(
            "update r2_shared.runs set stopped_by = $2, stopped_at = case when $2::text is null then null else "
            "clock_timestamp() end where run = $1 returning run",
            run,
            who,
        )
    )
    return found is not None


def lost(claim: Claim) -> ClaimLostError:
    """What to raise for it."""
    return ClaimLostError(
        f"shard {claim.shard} was taken over by another machine: this one had not renewed its claim for {CLAIM_S:g} s. "
        "What it has of the shard is dropped; what it paid for is the other's to use."
    )


def _named(worker: str) -> str:
    host, pid, _ = worker.rsplit(":", 2)
    return f"{host} (pid {pid})"
