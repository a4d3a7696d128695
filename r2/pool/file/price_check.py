"""The prices in a pool file against those of the installed price list: what `r2 pool prices` shows, and what a run
warns of. Only prices that were taken from the list are compared; what was written by hand is the user's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import tomlkit

from r2.atomic import write_atomically
from r2.errors import ConfigError
from r2.pool.file import catalogue
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.file.dated import ending
from r2.pool.file.entry_text import document_of
from r2.pool.file.published_prices import named_in
from r2.pool.file.tables import ModelTable, PriceTable
from r2.shipped.place import refuse_shipped


@dataclass(frozen=True, slots=True)
class PriceCheck:
    """One entry. `changes` are sentences, empty where the list says what the file says; None where there is nothing to
    compare with, and `why` says so. `now` is `price_usd_per_mtok` as the list has it."""

    entry: str
    price: PriceTable
    changes: tuple[str, ...] | None
    why: str = ""
    now: Mapping[str, Any] | None = None


def check_prices(pool: PoolConfig, today: date) -> list[PriceCheck]:
    """Every entry, in the file's order. ConfigError where the price list is not installed."""
    return [_checked(name, table, today) for name, table in pool.models.items()]


def dated_warnings(pool: PoolConfig, today: date) -> list[str]:
    """What to say before a run: models and prices that end soon, and prices that are others by now."""
    return [*ending(pool.models, today), *newer_prices(pool, today)]


def newer_prices(pool: PoolConfig, today: date) -> list[str]:
    """A warning for each entry whose price the list gives otherwise; nothing where the list is not installed."""
    listed = {name: table for name, table in pool.models.items() if named_in(table.price_usd_per_mtok.source)}
    try:
        checks = [_checked(name, table, today) for name, table in listed.items()]
    except ConfigError:
        return []
    return [
        f"{check.entry}: {'; '.join(check.changes)}. The run is billed at the file's price of {check.price.date}. "
        "`r2 pool prices --write` takes the new one, which makes another run."
        for check in checks
        if check.changes
    ]


def take_prices(path: Path, checks: list[PriceCheck]) -> int:
    """Writes the list's prices of the changed entries into the file; returns how many. Comments stay, and the file
    changes only if the whole of it is good."""
    refuse_shipped(path)
    changed = [check for check in checks if check.changes and check.now is not None]
    before = path.read_text("utf-8")
    document = document_of(path, before)
    models: Any = document["models"]
    for check in changed:
        table = models[check.entry]["price_usd_per_mtok"]
        for field in [field for field in table if field not in (check.now or {})]:
            del table[field]
        for field, value in (check.now or {}).items():
            table[field] = _inline(value)
    if changed:
        write_atomically(path, tomlkit.dumps(document).encode())
        try:
            load_pool(path)
        except ConfigError:
            write_atomically(path, before.encode())
            raise
    return len(changed)


def _inline(value: Any) -> Any:
    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        table.update(dict(value))
        return table
    if isinstance(value, list):
        array = tomlkit.array()
        array.extend([_inline(inner) for inner in value])
        return array
    return value


def _checked(name: str, table: ModelTable, today: date) -> PriceCheck:
    price = table.price_usd_per_mtok
    taken = named_in(price.source)
    if taken is None:
        return PriceCheck(name, price, None, "by hand, or measured")
    try:
        now, _ = catalogue.priced(catalogue.parse_name(taken[1]), today)
    except ConfigError as error:
        catalogue.price_date()  # ConfigError of its own where there is no list at all
        return PriceCheck(name, price, (str(error),))
    return PriceCheck(name, price, tuple(_changes(price, now)), now=now)


def _changes(price: PriceTable, now: Mapping[str, Any]) -> list[str]:
    """What differs, number by number; the day and the source alone are no change."""
    new = PriceTable.model_validate(now)
    found = []
    for field in ("input", "cached_input", "cache_write", "output", "until"):
        before, after = getattr(price, field), getattr(new, field)
        if before != after:
            found.append(f"{field} was {_said(before)} ({price.date}), is {_said(after)} ({new.date})")
    for field, what in (("long", "the price of long prompts"), ("batch", "the price of batches")):
        if getattr(price, field) != getattr(new, field):
            found.append(f"{what} was another ({price.date}) than it is ({new.date})")
    return found


def _said(value: float | str | None) -> str:
    return "not given" if value is None else f"{value:g}" if isinstance(value, (int, float)) else value
