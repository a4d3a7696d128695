"""The lease of requests, tokens and money on the PostgreSQL that several hosts share: what `lease.py` is on one host.

The rules are the same (a sliding log in buckets, corrections, holds), written as functions of the database
(`r2/pool/coordination/schema.sql`), each one round trip. Time is the server's. Holders are known by nothing but their
deadline, which each exchange renews: what a holder that is gone held counts as spent from then on.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from r2.pool.coordination.database import Connection, Database
from r2.pool.limits.lease import Corrections, RateGrant, RateLimits, Wait

HOLD_S: Final = 60.0
"""How long a hold stands without being renewed."""


class Balance(NamedTuple):
    """After an exchange: whether what was wanted is held now, and what the caps leave beside all holds."""

    fits: bool
    room_usd: float


class RemoteLease:
    """The database's functions, called. What may not be done twice is tried once."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.holds_back = False
        """The server came up without the log of rates: one window is waited for."""
        self.said_held_back = False

    async def take(
        self,
        owner: str,
        limits: RateLimits,
        need: tuple[float, float],
        want: tuple[float, float],
        corrections: Corrections,
    ) -> RateGrant | Wait:
        """As `Lease.take`. CoordinationError where the server is away; then a grant may have been given and is lost,
        and `corrections` may have been applied."""
        infinite = float("inf")
        started = asyncio.get_running_loop().time()

        async def work(connection: Connection) -> Any:
            return await connection.fetchrow(
                "select * from r2_shared.take_rate($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
                owner,
                infinite if limits.requests is None else limits.requests,
                infinite if limits.tokens is None else limits.tokens,
                *need,
                *want,
                limits.bucket_us,
                limits.horizon_us,
                *_columns(corrections),
            )

        row = await self.database.once(work)
        self.holds_back = row["is_held_back"]
        if row["wait_us"] is not None:
            return Wait(row["wait_us"] / 1e6)
        return RateGrant(row["granted_start_us"], row["granted_requests"], row["granted_tokens"], started)

    async def correct(self, owner: str, corrections: Corrections) -> None:
        """As `Lease.correct`, tried once."""
        await self.database.once(
            lambda connection: connection.execute(
                "select r2_shared.correct_rates($1, $2, $3, $4)", owner, *_columns(corrections)
            )
        )

    async def open_account(self, name: str, cap_usd: float, spent_usd: float | None) -> None:
        """As `Lease.open_account`."""
        await self.database.run(
            lambda connection: connection.execute("select r2_shared.open_account($1, $2, $3)", name, cap_usd, spent_usd)
        )

    async def exchange(
        self, accounts: Sequence[str], holder: str, *, keep_usd: float, want_usd: float, totals_usd: Sequence[float]
    ) -> Balance:
        """As `Lease.exchange`; `totals_usd` is what the holder has spent on each account in all, so that an exchange
        whose answer was lost can be repeated."""
        row = await self.database.run(
            lambda connection: connection.fetchrow(
                "select * from r2_shared.exchange($1, $2, $3, $4, $5, $6)",
                list(accounts),
                holder,
                keep_usd,
                want_usd,
                list(totals_usd),
                HOLD_S,
            )
        )
        return Balance(row["fits"], row["room_usd"])

    async def balance(self, name: str) -> tuple[float, float, float]:
        """As `Lease.balance`."""
        row = await self.database.run(
            lambda connection: connection.fetchrow(
                "select cap_usd, spent_usd, (select coalesce(sum(usd), 0) from r2_shared.holds where account = name) "
                "from r2_shared.accounts where name = $1",
                name,
            )
        )
        if row is None:
            raise KeyError(f"{self.database.shown} has no account {name!r}")
        return row[0], row[1], row[2]


def remote_holder(purpose: str) -> str:
    """A name for a hold of this process: for people host and pid, and what no other process has."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(6)}:{purpose}"


def _columns(corrections: Corrections) -> tuple[list[int], list[float], list[float]]:
    return (
        list(corrections),
        [requests for requests, _ in corrections.values()],
        [tokens for _, tokens in corrections.values()],
    )
