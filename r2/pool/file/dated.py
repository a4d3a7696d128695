"""What ends on a day: a model that its provider no longer serves (`retires`), and a price that no longer holds
(`until`). A run stops before its first call where one of its entries is past such a day, and says so a month before."""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Final, Protocol

from r2.pool.file import catalogue

SOON_DAYS: Final = 30


class DatedPrice(Protocol):
    """The price of an entry, as far as it is dated."""

    @property
    def until(self) -> str | None: ...


class Dated(Protocol):
    """An entry of a pool file, as far as it is dated."""

    @property
    def endpoint(self) -> str: ...
    @property
    def dialect(self) -> str | None: ...
    @property
    def served_model(self) -> str: ...
    @property
    def retires(self) -> str | None: ...
    @property
    def price_usd_per_mtok(self) -> DatedPrice: ...


def ended(models: Mapping[str, Dated], today: date) -> list[str]:
    """What is over, a sentence or two for each entry, with what to do. Replayed entries ask nobody and pay nothing."""
    return [
        f"{name}: {what} on {day}, and today is {today}. {_next_move(name, table, is_price=is_price)}"
        for name, table, what, day, is_price in _days(models)
        if (day < today if is_price else day <= today)
    ]


def ending(models: Mapping[str, Dated], today: date) -> list[str]:
    """What will be over within `SOON_DAYS`, in the same form."""
    return [
        f"{name}: {what.replace('ended', 'ends')} on {day}. {_next_move(name, table, is_price=is_price)}"
        for name, table, what, day, is_price in _days(models)
        if not (day < today if is_price else day <= today) and (day - today).days <= SOON_DAYS
    ]


def _days(models: Mapping[str, Dated]) -> Iterator[tuple[str, Dated, str, date, bool]]:
    for name, table in models.items():
        if table.endpoint.startswith("recording:"):
            continue
        if table.retires is not None:
            yield name, table, "the provider ended this model", date.fromisoformat(table.retires), False
        if table.price_usd_per_mtok.until is not None:
            yield name, table, "its price ended", date.fromisoformat(table.price_usd_per_mtok.until), True


def _next_move(name: str, table: Dated, *, is_price: bool) -> str:
    if is_price:
        return "Its last day is in the pool file: `r2 pool prices --write` puts today's price in, or write it by hand."
    after = successor(table)
    return f"Its successor is {after}: `r2 pool add` it, and take {name} out." if after else f"Take {name} out."


def successor(table: Dated) -> str | None:
    """The model that follows this one, where the catalogue knows it."""
    provider = table.dialect or ""
    if provider not in catalogue.providers():
        return None
    after = catalogue.facts_of(provider, table.served_model).successor
    return f"{provider}/{after}" if after else None
