"""What is kept of what a model is sent, and where: entries say it (`regions`, `retention`), and a run can require it.

An entry that does not say so is not asked: nobody knows. What an entry says is its owner's word, from the contract with
the provider; nothing here can check it. A recording asks nobody, and so fits always.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from r2.errors import ConfigError
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.file.tables import ModelTable
from r2.settings import AnswerSettings, Required, required_of

_ROLES: Final = ("decomposer", "allocator", "second_decomposer", "finalizer")


def pool_of(settings: AnswerSettings) -> PoolConfig:
    """The pool of a run: its pool file, with the entries alone that the run may ask.

    PoolFileError for a file that cannot be used. ConfigError, with what each entry says, where nobody is left who
    answers, or where an entry that the router needs may not be asked.
    """
    pool = load_pool(settings.pool)
    if not settings.require:
        return pool
    required = required_of(settings.require)
    refused = {name: why for name, table in pool.models.items() if (why := _why_not(table, required))}
    if not refused:
        return pool
    where = f"{pool.path}: --require {settings.require}"
    said = "; ".join(f"{', '.join(names)}: {why}" for why, names in _by_reason(refused).items())
    if all(name in refused for name, table in pool.models.items() if table.solver):
        raise ConfigError(
            f"{where}: no entry is left that answers ({said}). Write into the tables of those that do it what their "
            'provider promises, as regions = ["eu"] and retention = "none".'
        )
    for role in _ROLES:
        name = getattr(settings.reasoning, role) or getattr(pool.router, role)
        if name in refused:
            raise ConfigError(
                f"{where}: {name}, the {role.replace('_', ' ')}, may not be asked: it {refused[name]}. Name another "
                f"with --{role.replace('_', '-')}: {', '.join(each for each in pool.models if each not in refused)}."
            )
    return pool.only([name for name in pool.models if name not in refused])


def _by_reason(refused: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, why in refused.items():
        found.setdefault(why, []).append(name)
    return found


def left_out(pool: PoolConfig, allowed: PoolConfig) -> list[str]:
    """Entries that the run may not ask."""
    return [name for name in pool.models if name not in allowed.models]


@dataclass(frozen=True, slots=True)
class _Word:
    says: str
    is_enough: bool


def _why_not(table: ModelTable, required: Required) -> str:
    """What an entry says that is not enough; "" where it may be asked."""
    if table.endpoint.startswith("recording:"):
        return ""
    return " and ".join(word.says for word in _words(table, required) if not word.is_enough)


def _words(table: ModelTable, required: Required) -> Iterator[_Word]:
    if required.regions:
        says = f"says regions {', '.join(table.regions)}" if table.regions else "says no regions"
        yield _Word(says, bool(table.regions) and set(table.regions) <= required.regions)
    if required.retention_days is not None:
        says = "says no retention" if table.retention is None else f"says retention {table.retention}"
        yield _Word(says, table.retention is not None and days_of(table.retention) <= required.retention_days)


def days_of(retention: str) -> int:
    """Days that a `retention` of a pool file is; 0 for "none"."""
    return 0 if retention == "none" else int(re.sub("d$", "", retention))
