"""A pool file that names models by list: `models = ["openai/gpt-6-luna", "anthropic/claude-haiku-5-5"]`.

Each name becomes an entry of the catalogue (r2/pool/file/catalogue.py), with its price, context, limits and what it
takes. Beside `[models.NAME]` tables the list is called `catalogue`; a table with the name of a listed model overrides
it line by line, numbers of its price included. Without a [router] table one is chosen. What the list stood for on the
day is written out: that text is the pool's from then on, stored with each run and part of its identity, so that a later
price list makes another run and no other bill of this one.
"""

import tomllib
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import tomlkit

from r2.errors import ConfigError, PoolFileError
from r2.pool.file import catalogue
from r2.pool.file.entry_text import document_of, list_key, with_entries
from r2.pool.file.router_choice import router_text


def written_out(path: Path, text: str, document: Mapping[str, Any], today: date) -> str | None:
    """The file with a table in the place of each listed model; None where it lists none. PoolFileError, with the file
    and the name, for a name that the catalogue cannot stand for."""
    key = list_key(document)
    if key is None:
        return None
    names = document[key]
    tables = document.get("models", {}) if key != "models" else {}
    if not names or not all(isinstance(name, str) for name in names) or not isinstance(tables, Mapping):
        raise PoolFileError(
            f'{path}: {key}: expected a list of names such as {key} = ["openai/gpt-6-luna", '
            '"anthropic/claude-haiku-5-5"].'
        )
    if double := next((name for name in names if names.count(name) > 1), None):
        raise PoolFileError(f"{path}: {key}: {double!r} is listed twice. An entry is told from another by its name.")
    entries = {name: _entry(path, key, name, tables.get(name, {}), today) for name in names}
    kept = document_of(path, text)
    del kept[key]
    for name in names:
        if name in tables:
            del kept["models"][name]
    whole = with_entries(tomlkit.dumps(kept), entries)
    if "router" not in document:
        every = tomllib.loads(whole)["models"]
        whole = whole + "\n" + router_text({name: table for name, table in every.items() if isinstance(table, Mapping)})
    return whole


def _entry(path: Path, key: str, name: str, over: Mapping[str, Any], today: date) -> dict[str, Any]:
    price = over.get("price_usd_per_mtok", {})
    is_whole = isinstance(price, Mapping) and {"input", "output"} <= set(price)
    try:
        entry = catalogue.entry_of(name, today, price=price if is_whole else None)
    except ConfigError as error:
        raise PoolFileError(f"{path}: {key}: {error}") from None
    if isinstance(price, Mapping) and price and not is_whole:
        published = entry["price_usd_per_mtok"]
        by_hand = ", ".join(number for number in price if number not in ("date", "source"))
        source = {"source": f"{published['source']}; by hand: {by_hand}"} if by_hand else {}
        price = {**published, **source, **price}
    return {**entry, **over, **({"price_usd_per_mtok": price} if price else {})}
