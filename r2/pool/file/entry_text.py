"""Entries of a pool file as text, and put into a file without touching what else it says."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import ParseError

from r2.errors import PoolFileError
from r2.settings import parsed_toml

_WIDTH: Final = 120
LIST_KEYS: Final = ("models", "catalogue")
"""Top-level keys that may hold a list of models of the catalogue. TOML allows no list and tables under one name, so
beside `[models.NAME]` tables the list is called `catalogue`."""


def document_of(path: Path, text: str) -> tomlkit.TOMLDocument:
    """The file as a document that keeps comments and order. PoolFileError for what is no TOML, or too deep."""
    try:
        parsed_toml(text)  # within bounds; the other parser, which keeps comments, has none
        return tomlkit.parse(text)
    except (ValueError, ParseError) as error:
        raise PoolFileError(f"{path}: not valid TOML: {error}") from error


def list_key(document: Mapping[str, Any]) -> str | None:
    """The key under which the file lists models of the catalogue; None where it has no list."""
    return next((key for key in LIST_KEYS if isinstance(document.get(key), list)), None)


def entry_text(name: str, entry: Mapping[str, Any]) -> str:
    """`[models."NAME"]` with its lines; a price that does not fit on a line is a table of its own."""
    header = f"models.{_key(name)}"
    lines, price = [f"[{header}]"], entry.get("price_usd_per_mtok")
    for key, value in entry.items():
        if key != "price_usd_per_mtok":
            lines.append(f"{key} = {value_text(value)}")
    if isinstance(price, Mapping):
        line = f"price_usd_per_mtok = {value_text(price)}"
        if len(line) <= _WIDTH:
            lines.append(line)
        else:
            lines += ["", f"[{header}.price_usd_per_mtok]"]
            lines += [f"{key} = {value_text(value)}" for key, value in price.items()]
    return "\n".join(lines) + "\n"


def value_text(value: Any) -> str:
    """A value as TOML writes it on one line; a list of tables on a line each."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # TOML's basic strings take JSON's escapes
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {value_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(value_text(inner) for inner in value) + "]"
    return repr(value)


def with_table(text: str, name: str, document: Mapping[str, Any]) -> str:
    """The file with a `[models.NAME]` table for a model that it only lists, so that a line can be put there."""
    if list_key(document) == "models":
        text = re.sub(r"^(\s*)models(\s*=\s*\[)", r"\1catalogue\2", text, count=1, flags=re.MULTILINE)
    elif name in document.get("models", {}):
        return text
    return f"{text.rstrip()}\n\n[models.{_key(name)}]\n"


def _key(name: str) -> str:
    is_bare = name.replace("-", "").replace("_", "").isalnum() and name.isascii()
    return name if is_bare else json.dumps(name, ensure_ascii=False)


def with_entries(text: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The file with these entries behind all else."""
    parts = [text.rstrip("\n") + "\n" if text.strip() else "", *(entry_text(n, entry) for n, entry in entries.items())]
    return "\n".join(part for part in parts if part)
