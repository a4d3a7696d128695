"""What the processes of one host may spend together: requests and tokens per minute, and money. One SQLite file.

Rates are a sliding log in buckets: every grant is added to the bucket of its moment, and a grant is given only if all
buckets that may still touch the window leave room for it. Counted are the window, a margin for the way to the server
and the whole of the oldest bucket, so that any window as the *server* sees it stays within the limit, at the price of 4
% of the rate. Tokens are granted by estimate and settled by usage in the bucket they were granted in.

Money is accounts with a cap. A process *holds* an amount on an account before it spends; cap >= spent + all holds,
always. What a dead process held counts as spent: nobody knows how much of it its calls in flight cost. A run that goes
on sets its own account by its journal, which knows more.

Each grant is one `BEGIN IMMEDIATE` transaction of about 40 us that blocks the caller's event loop, so callers take
slices ahead of need (`r2/pool/limits/shares.py`). Time is the host's monotonic clock, which all its processes share and
nobody sets; rows from before a reboot lie in its future and are dropped. WAL with `synchronous=NORMAL`: commits cost no
fsync, and a power cut loses the last commits but not the file.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from r2.errors import ConfigError
from r2.pool.limits.file_system import network_kind

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rates (owner TEXT, start_us INTEGER, requests REAL NOT NULL, tokens REAL NOT NULL,
    PRIMARY KEY (owner, start_us)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY, cap_usd REAL NOT NULL, spent_usd REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS holds (
    account TEXT, holder TEXT, usd REAL NOT NULL, PRIMARY KEY (account, holder)
) WITHOUT ROWID;
"""
_TOLERANCE_USD = 1e-12  # sums of floats; no price is this small


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Limits of one quota owner. `requests` and `tokens` are per `window_s`; None: no limit of this kind.

    `margin_s` is how much later than another a request may reach the server, measured from its grant (default window /
    30).
    """

    requests: float | None
    tokens: float | None
    window_s: float = 60.0
    margin_s: float | None = None

    @property
    def bucket_us(self) -> int:
        return max(1, round(self.window_s / 120 * 1e6))

    @property
    def horizon_us(self) -> int:
        margin_s = self.window_s / 30 if self.margin_s is None else self.margin_s
        return round((self.window_s + margin_s) * 1e6)


@dataclass(frozen=True, slots=True)
class RateGrant:
    """Permission to send `requests` with `tokens` in all, from the bucket `start_us`, at the monotonic second
    `granted_at`."""

    start_us: int
    requests: float
    tokens: float
    granted_at: float


@dataclass(frozen=True, slots=True)
class Wait:
    """No room now; ask again after `seconds` (sooner is allowed: others may give tokens back)."""

    seconds: float


Corrections = Mapping[int, tuple[float, float]]
"""Bucket -> (requests, tokens) to add to it, negative to give back."""


class Lease:
    """The open file. Not for use by several threads at once; any number of processes may open the same path."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if (kind := network_kind(path)) is not None:
            raise ConfigError(
                f"{path}: on a network file system ({kind}). Other hosts would take this one's processes for dead and "
                "their money for free. Set R2_STATE_DIR to a local folder; to share limits over hosts, set "
                "R2_COORDINATION_URL to a PostgreSQL (docs/many_machines.md)."
            )
        try:
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            with self._transaction():
                self._db.execute("DELETE FROM rates WHERE start_us > ?", (round(clock() * 1e6),))
                self._book_dead_holds()
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"{path}: limits and budgets shared by this host's processes cannot be opened ({error}). If no run is "
                "active, delete the file (budgets of today start again from zero), or set R2_STATE_DIR to a local "
                "folder."
            ) from error

    def close(self) -> None:
        self._db.close()

    def take(
        self,
        owner: str,
        limits: RateLimits,
        need: tuple[float, float],
        want: tuple[float, float],
        corrections: Corrections,
    ) -> RateGrant | Wait:
        """Applies `corrections`, then grants up to `want` (requests, tokens) and at least `need`, or says when to ask
        again.

        A need above the whole limit is met when the window is empty: the provider, not we, has to refuse such a call.
        """
        max_requests = float("inf") if limits.requests is None else limits.requests
        max_tokens = float("inf") if limits.tokens is None else limits.tokens
        need_requests, need_tokens = min(need[0], max_requests), min(need[1], max_tokens)
        with self._transaction():
            now = (
                self._clock()
            )  # under the lock: the grant's bucket must not lie before another's that was given meanwhile
            now_us = round(now * 1e6)
            self._correct(owner, corrections)
            oldest_us = now_us - limits.horizon_us - limits.bucket_us
            self._db.execute("DELETE FROM rates WHERE owner = ? AND start_us <= ?", (owner, oldest_us))
            used_requests, used_tokens = self._db.execute(
                "SELECT coalesce(sum(requests), 0), coalesce(sum(tokens), 0) FROM rates WHERE owner = ?", (owner,)
            ).fetchone()
            room_requests, room_tokens = max_requests - used_requests, max_tokens - used_tokens
            if room_requests < need_requests - 1e-9 or room_tokens < need_tokens - 1e-9:
                freed_us = self._freed_us(owner, need_requests - room_requests, need_tokens - room_tokens)
                return Wait(max(0.001, (freed_us + limits.bucket_us + limits.horizon_us - now_us) / 1e6))
            # Whole requests only: a fraction of one cannot be sent, and would stay in the window unused.
            requests = max(need_requests, float(int(min(want[0], room_requests))))
            tokens = max(need_tokens, min(want[1], room_tokens))
            start_us = now_us - now_us % limits.bucket_us
            self._db.execute(
                "INSERT INTO rates VALUES (?, ?, ?, ?) ON CONFLICT (owner, start_us) DO UPDATE "
                "SET requests = requests + excluded.requests, tokens = tokens + excluded.tokens",
                (owner, start_us, requests, tokens),
            )
        return RateGrant(start_us, requests, tokens, now)

    def correct(self, owner: str, corrections: Corrections) -> None:
        """Adds to buckets what grants turned out to use; buckets that have left the window stay gone."""
        with self._transaction():
            self._correct(owner, corrections)

    def open_account(self, name: str, cap_usd: float, *, spent_usd: float | None = None) -> None:
        """Makes the account, or gives it a new cap. `spent_usd` is what a run's journal says it has paid.

        That sets the balance where no other process holds money on the account, and else only raises it: the others
        have booked what is not in the journal yet.
        """
        with self._transaction():
            self._db.execute(
                "INSERT INTO accounts VALUES (?, ?, 0) ON CONFLICT (name) DO UPDATE SET cap_usd = excluded.cap_usd",
                (name, cap_usd),
            )
            if spent_usd is not None:
                self._book_dead_holds()
                self._db.execute(
                    "UPDATE accounts SET spent_usd = CASE WHEN EXISTS (SELECT 1 FROM holds WHERE account = name) "
                    "THEN max(spent_usd, ?1) ELSE ?1 END WHERE name = ?2",
                    (spent_usd, name),
                )

    def exchange(
        self, accounts: Sequence[str], holder: str, *, keep_usd: float, want_usd: float, spent_usd: float
    ) -> bool:
        """Books `spent_usd` on every account and sets `holder`'s hold on each: to `want_usd` if all caps allow, else to
        `keep_usd`.

        All or nothing over the accounts. `keep_usd` must be covered by the earlier hold less `spent_usd`. True if
        `want_usd`.
        """
        with self._transaction():
            if spent_usd:
                self._db.executemany(
                    "UPDATE accounts SET spent_usd = spent_usd + ? WHERE name = ?",
                    [(spent_usd, name) for name in accounts],
                )
            fits = self._fits(accounts, holder, want_usd)
            usd = want_usd if fits else keep_usd
            self._db.executemany(
                "INSERT INTO holds VALUES (?, ?, ?) ON CONFLICT (account, holder) DO UPDATE SET usd = excluded.usd",
                [(name, holder, usd) for name in accounts],
            )
        return fits

    def release(self, accounts: Sequence[str], holder: str) -> None:
        """Ends `holder`'s holds on these accounts; what it spent must have been booked before."""
        with self._transaction():
            self._db.executemany(
                "DELETE FROM holds WHERE account = ? AND holder = ?", [(name, holder) for name in accounts]
            )

    def balance(self, name: str) -> tuple[float, float, float]:
        """(cap, spent, held) in USD. Raises KeyError if there is no such account."""
        row = self._db.execute(
            "SELECT cap_usd, spent_usd, (SELECT coalesce(sum(usd), 0) FROM holds WHERE account = name) FROM accounts "
            "WHERE name = ?",
            (name,),
        ).fetchone()
        if row is None:
            raise KeyError(f"{self.path} has no account {name!r}")
        return row[0], row[1], row[2]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _correct(self, owner: str, corrections: Corrections) -> None:
        self._db.executemany(
            "UPDATE rates SET requests = max(0, requests + ?), tokens = max(0, tokens + ?) WHERE owner = ? AND "
            "start_us = ?",
            [(requests, tokens, owner, start_us) for start_us, (requests, tokens) in corrections.items()],
        )

    def _freed_us(self, owner: str, missing_requests: float, missing_tokens: float) -> int:
        """Start of the bucket with whose end enough is freed."""
        rows = self._db.execute(
            "SELECT start_us, requests, tokens FROM rates WHERE owner = ? ORDER BY start_us", (owner,)
        )
        freed_us = 0
        for start_us, requests, tokens in rows:
            freed_us = start_us
            missing_requests -= requests
            missing_tokens -= tokens
            if missing_requests <= 1e-9 and missing_tokens <= 1e-9:
                break
        return freed_us

    def _fits(self, accounts: Sequence[str], holder: str, want_usd: float) -> bool:
        for name in accounts:
            room_usd = self._db.execute(
                "SELECT cap_usd - spent_usd - (SELECT coalesce(sum(usd), 0) FROM holds WHERE account = name AND "
                "holder <> ?) "
                "FROM accounts WHERE name = ?",
                (holder, name),
            ).fetchone()[0]
            if want_usd > room_usd + _TOLERANCE_USD:
                return False
        return True

    def _book_dead_holds(self) -> None:
        """Turns the holds of processes that are gone into money spent."""
        holders = [row[0] for row in self._db.execute("SELECT DISTINCT holder FROM holds")]
        for holder in holders:
            if not _is_alive(holder):
                self._db.execute(
                    "UPDATE accounts SET spent_usd = spent_usd + (SELECT usd FROM holds WHERE account = name AND "
                    "holder = ?1) WHERE name IN (SELECT account FROM holds WHERE holder = ?1)",
                    (holder,),
                )
                self._db.execute("DELETE FROM holds WHERE holder = ?", (holder,))


def new_holder(purpose: str) -> str:
    """A name for a hold of this process: pid and its start time (pids are reused), and what tells its holds apart."""
    return f"{os.getpid()}:{_started(os.getpid())}:{purpose}"


def _is_alive(holder: str) -> bool:
    pid, started, _ = holder.split(":", 2)
    return _started(int(pid)) == started


def _started(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; None if there is no such process, "?" where the system does
    not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rsplit(")", 1)[1].split()[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "?"
