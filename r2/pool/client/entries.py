"""The pool opened for calling: each entry with its endpoint and gate, and what they share: limits, budgets, recordings.

Entries of one quota owner share a gate. The shared state is opened only by pools that have a limit or a budget.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson

from r2.errors import PoolFileError
from r2.ledger import Price
from r2.pool.client.caching import PrefixMarks
from r2.pool.client.dialects import dialect_of
from r2.pool.client.gauges import Tally
from r2.pool.client.habits import HabitFile, Habits, key_of
from r2.pool.client.http import Endpoint
from r2.pool.client.instructions import InstructionTurns
from r2.pool.client.limits_seen import SeenLimits
from r2.pool.client.pace import Pace
from r2.pool.client.ports import Address
from r2.pool.client.promises import Promises
from r2.pool.client.tokens import TokenRatio
from r2.pool.client.trust import Bills, Key
from r2.pool.file.config import PoolConfig, endpoint_kind
from r2.pool.file.recording import Recording
from r2.pool.file.tables import ModelTable
from r2.pool.limits.aimd import Times
from r2.pool.limits.gate import Gate
from r2.pool.limits.lease import RateLimits
from r2.pool.limits.ports import Limits, Money
from r2.roster import ModelCard


@dataclass(frozen=True, slots=True)
class Entry:
    """A pool entry, ready to be called."""

    name: str
    table: ModelTable
    card: ModelCard
    price: Price
    price_version: str
    served_model: str
    endpoint: Endpoint
    gate: Gate
    ratio: TokenRatio
    tally: Tally
    bills: Bills
    key: Key
    pace: Pace
    habits: Habits
    marks: PrefixMarks
    limits: SeenLimits
    promises: Promises
    turns: InstructionTurns | None


@dataclass(frozen=True, slots=True)
class Caps:
    """The run's cap in USD: `account` names the run to all its processes, `spent_usd` is what its
    journals have paid. `tags` are those whose caps of a day hold for it."""

    account: str | None = None
    cap_usd: float | None = None
    spent_usd: float = 0.0
    tags: Collection[str] = ()


class OpenPool:
    """Entries and recordings by name, and the money if anything caps the spend. `close` gives back what is held."""

    def __init__(
        self,
        pool: PoolConfig,
        addresses: Mapping[str, Address],
        state_dir: Path,
        caps: Caps,
        limits: Limits,
        *,
        times: Times | None,
        rate_window_s: float,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`say` gets the lines about what entries turn out to be like. `limits` are closed with the pool.

        Raises PoolFileError for a missing address or recording, ConfigError if the shared state cannot be opened.
        """
        self.entries: dict[str, Entry] = {}
        self.recordings: dict[str, Recording] = {}
        self.money: Money | None = None
        self._pool = pool
        self._state_dir = state_dir
        self._times = times
        self._rate_window_s = rate_window_s
        self._say = say
        self._limits = limits
        self._run_accounts = (
            () if caps.cap_usd is None else (caps.account or f"process:{os.getpid()}:{time.time_ns()}",)
        )
        self._day, self._day_accounts = "", tuple[str, ...]()
        self._caps_per_day_usd = _caps_per_day_usd(pool, caps.tags)
        self._closing = ExitStack()
        self._closing.callback(limits.close)
        try:
            self._open_entries(addresses)
            self._open_money(caps)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._closing.close()

    def _open_entries(self, addresses: Mapping[str, Address]) -> None:
        gates: dict[str, Gate] = {}
        keys: dict[tuple[str | None, str], Key] = {}
        turns: dict[str, InstructionTurns] = {}
        roster = self._pool.roster()
        recordings: dict[Path, Recording] = {}
        habit_file = HabitFile(self._state_dir)
        kept = habit_file.read()
        for name, table in self._pool.models.items():
            if endpoint_kind(table.endpoint) == "recording":
                path = self._pool.path.parent / table.endpoint.partition(":")[2]
                if path not in recordings:
                    recordings[path] = Recording.open(path)
                self.recordings[name] = recordings[path]
                continue
            if name not in addresses:
                raise PoolFileError(
                    f"{self._pool.path}: model {name!r} has no address. Open the pool's endpoints first "
                    "(open_endpoints)."
                )
            try:
                orjson.dumps(table.extra_body)
            except TypeError as error:
                raise PoolFileError(
                    f"{self._pool.path}: models.{name}.extra_body cannot be sent as JSON: {error}. Change that value."
                ) from error
            owner, _ = self._pool.limits_of(name)
            if owner not in gates:
                gates[owner] = self._open_gate(name)
            if (backlog := addresses[name].backlog) is not None:
                backlog.follow(partial(gates[owner].hold, addresses[name].base_url))
            key_env, base_url = table.api_key_env, addresses[name].base_url
            endpoint = Endpoint.at(
                base_url,
                key_env,
                table.timeout_s,
                served_model=addresses[name].served_model,
                dialect=dialect_of(table.endpoint, table.dialect),
                streams=addresses[name].streams,
                keeps_connections=not addresses[name].reads_by_slot,
            )
            habit_key = key_of(str(endpoint.url), addresses[name].served_model, table.reasoning_effort)
            is_kept = not addresses[name].is_ours  # ours have another address each time
            self.entries[name] = Entry(
                name,
                table,
                roster[name],
                self._pool.price(name),
                self._pool.price(name).version,
                addresses[name].served_model,
                endpoint,
                gates[owner],
                TokenRatio(),
                Tally(name, time.monotonic),
                Bills(),
                keys.setdefault((key_env, base_url), Key()),
                Pace(),
                Habits(
                    name,
                    table,
                    model=addresses[name].served_model,
                    url=str(endpoint.url),
                    dialect=endpoint.dialect.name,
                    kept=kept.get(habit_key) if is_kept else None,
                    keep=partial(habit_file.add, habit_key) if is_kept else lambda kept: None,
                    say=self._say,
                    pool_path=self._pool.path,
                ),
                PrefixMarks(table, self._pool.price(name), endpoint.dialect),
                SeenLimits(endpoint.dialect, gates[owner], is_shared=table.quota is not None),
                Promises(name, table, self._say, self._pool.path),
                turns.setdefault(base_url, InstructionTurns()) if addresses[name].reads_by_slot else None,
            )

    def _open_gate(self, name: str) -> Gate:
        owner, limits = self._pool.limits_of(name)
        requests, tokens = limits.max_requests_per_minute, limits.max_tokens_per_minute
        rates = None
        if requests is not None or tokens is not None:
            # The window must have room for one whole request.
            window_s = self._rate_window_s if requests is None else max(self._rate_window_s, 60 / requests)
            in_window = [None if limit is None else limit * window_s / 60 for limit in (requests, tokens)]
            rates = self._limits.rates(owner, RateLimits(in_window[0], in_window[1], window_s))
            self._closing.callback(rates.close)
        return Gate(owner, limits, rates, times=self._times)

    def _open_money(self, caps: Caps) -> None:
        known_caps_usd = [*([] if caps.cap_usd is None else [caps.cap_usd]), *self._caps_per_day_usd.values()]
        if not known_caps_usd:
            return
        for account in self._run_accounts:
            self._limits.open_account(account, known_caps_usd[0], spent_usd=caps.spent_usd)
        self.money = self._limits.money(self._accounts, min(known_caps_usd))
        self._closing.callback(self.money.close)

    def _accounts(self) -> tuple[str, ...]:
        """The accounts that every dollar counts on now: the run's, and the pool file's of this UTC day."""
        if self._caps_per_day_usd and (today := self._limits.today()) != self._day:
            named = {f"{kind}:{today}:{whose}": usd for (kind, whose), usd in self._caps_per_day_usd.items()}
            for account, cap_usd in named.items():
                self._limits.open_account(account, cap_usd)
            self._day, self._day_accounts = today, tuple(named)
        return (*self._run_accounts, *self._day_accounts)


def _caps_per_day_usd(pool: PoolConfig, tags: Collection[str]) -> dict[tuple[str, str], float]:
    """(kind, whose) of an account -> its cap of a UTC day: the pool file's, and those of the tags that it names."""
    budget, path = pool.tables.budget, pool.path.resolve()
    caps = {} if budget.max_usd_per_day is None else {("day", str(path)): budget.max_usd_per_day}
    by_tag = budget.max_usd_per_day_by_tag
    return caps | {("tag", f"{tag}:{path}"): by_tag[tag] for tag in tags if tag in by_tag}
