"""A pool changed as pools change in practice: a model taken out, one put in with its profile alone. Text in, text out;
for measurements.

Used by benchmarks/bench_pool_change.py, which asks a trained router about pools it was not trained on. Comments and
order of the file stay.
"""

from collections.abc import Collection

import tomlkit
from tomlkit.exceptions import ParseError

from r2.errors import PoolFileError
from r2.settings import parsed_toml


def without(text: str, names: Collection[str]) -> str:
    """The pool file with these entries as no solvers any more: never allocated, still there for the router's own parts.

    PoolFileError for a name that the file does not have.
    """
    document = _parsed(text, "the pool file")
    models = document["models"]
    for name in names:
        if name not in models:
            raise PoolFileError(f"no model {name!r} to take out of the pool. Pool: {', '.join(models)}.")
        models[name]["solver"] = False
    return tomlkit.dumps(document)


def with_entries(text: str, added: str) -> str:
    """The pool file with the `[models.NAME]` tables of another text. PoolFileError for a name that is there already."""
    document, more = _parsed(text, "the pool file"), _parsed(added, "the added entries")
    for name, table in more["models"].items():
        if name in document["models"]:
            raise PoolFileError(f"the pool has a model {name!r} already. Give the added one another name.")
        document["models"][name] = table
    return tomlkit.dumps(document)


def _parsed(text: str, what: str) -> tomlkit.TOMLDocument:
    try:
        parsed_toml(text)
        document = tomlkit.parse(text)
    except (ValueError, ParseError) as error:
        raise PoolFileError(f"{what}: not valid TOML: {error}") from error
    if "models" not in document:
        raise PoolFileError(f"{what}: no [models.NAME] table.")
    return document
