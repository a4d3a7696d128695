"""The connection to the PostgreSQL that machines share: opened with its schema, and asked again when it was away.

`Database.run` is for work that may be done twice (the server may have done it and its answer was lost): it waits until
the server is back, and says so once. `Database.once` is for work that may not: it raises CoordinationError.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import asyncpg

from r2.errors import ConfigError, CoordinationError
from r2.pool.coordination.address import VARIABLE, shown

SCHEMA_VERSION: Final = 1
ANSWER_S: Final = 10.0
"""What an answer may take; a server that is away, or stopped in the middle, is asked again after that."""
OPEN_S: Final = 10.0
_PAUSES_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0)
_SCHEMA: Final = Path(__file__).with_name("schema.sql")
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # of a connection that the server ended while it was opened
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""What says that the server, or the way to it, is not there now."""
Connection = Any
"""asyncpg's, which gives no types."""
T = TypeVar("T")


class Database:
    """Connections of this event loop. Made by `open`, ended by `close`."""

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        self._url = url
        self._say = say
        self._pool: Any = None
        self._away_since: float | None = None
        self.shown = shown(url)

    @classmethod
    async def open(cls, url: str, say: Callable[[str], None] = lambda line: None) -> Self:
        """Connects and brings the schema to this version, once for all hosts. CoordinationError where the server cannot
        be reached, ConfigError where it refuses us or has the schema of a later version."""
        database = cls(url, say)
        try:
            database._pool = await asyncio.wait_for(
                asyncpg.create_pool(
                    url,
                    min_size=1,
                    max_size=6,
                    timeout=OPEN_S,
                    command_timeout=ANSWER_S,
                    reset=_as_it_is,
                    server_settings={"application_name": "r2"},
                ),
                2 * OPEN_S,
            )
            async with database._pool.acquire() as connection:
                await _migrate(connection, database.shown)
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            await database.close()
            raise ConfigError(f"${VARIABLE}: {database.shown} refuses us: {error}. Check user and database.") from None
        except asyncpg.InsufficientPrivilegeError as error:
            await database.close()
            raise ConfigError(
                f"${VARIABLE}: {database.shown}: {error}. The user must be able to create the schema r2_shared, once."
            ) from None
        except _AWAY as error:
            await database.close()
            raise CoordinationError(
                f"{database.shown} (${VARIABLE}) cannot be reached: {_words(error)}. Start it, or unset the "
                "variable to share limits on this host alone; nothing was paid."
            ) from None
        except BaseException:
            await database.close()
            raise
        return database

    async def close(self) -> None:
        """Ends the connections; one that hangs is cut."""
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), 2.0)
            except (TimeoutError, *_AWAY):
                self._pool.terminate()
            self._pool = None

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """What `work` returns, however long the server is away meanwhile. `work` may be done twice."""
        n_tried = 0
        while True:
            try:
                return await self.once(work)
            except CoordinationError:
                pause_s = _PAUSES_S[min(n_tried, len(_PAUSES_S) - 1)]
                n_tried += 1
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))

    async def once(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """The same, tried once: CoordinationError where the server is away. It may have done the work all the same."""
        try:
            async with asyncio.timeout(ANSWER_S), self._pool.acquire() as connection:
                found = await work(connection)
        except _AWAY as error:
            if self._away_since is None:
                self._away_since = time.monotonic()
                self._say(f"{self.shown} is away ({_words(error)}). Work that needs it waits until it is back.")
            raise CoordinationError(f"{self.shown} is away: {_words(error)}") from error
        if self._away_since is not None:
            self._say(f"{self.shown} is back after {time.monotonic() - self._away_since:.1f} s.")
            self._away_since = None
        return found


async def _as_it_is(connection: Connection) -> None:
    """Nothing is set on a connection that its next user must not find."""


async def _migrate(connection: Connection, where: str) -> None:
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(70820001)")
        if not await connection.fetchval("select to_regclass('r2_shared.version') is not null"):
            await connection.execute(_SCHEMA.read_text("utf-8"))
            await connection.execute("insert into r2_shared.version values ($1)", SCHEMA_VERSION)
        found = await connection.fetchval("select version from r2_shared.version")
    if found != SCHEMA_VERSION:
        raise ConfigError(
            f"{where}: its schema r2_shared has version {found}, and this program works with {SCHEMA_VERSION}. "
            "Give all machines the same version of the program, and each version a database of its own."
        )


def _words(error: BaseException) -> str:
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


async def looked_at(url: str) -> str:
    """Opens and closes it; what it is called. Raises as `Database.open`."""
    database = await Database.open(url)
    await database.close()
    return database.shown
