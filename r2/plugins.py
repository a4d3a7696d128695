"""Methods and benchmarks of other installed packages, found by their entry points.

A package announces one in its metadata, here for its pyproject.toml:

    [project.entry-points."r2.methods"]
    half_price = "my_package.half_price:METHOD"

The name of the entry point is the name of the method (or benchmark), and its object is the record (`Method` of
r2/methods/record.py, `Benchmark` of r2/problems/record.py). From then on it is known wherever the built-in ones are.
Names are read without importing the package; records are imported at the first use. A package that cannot be used stops
the command with its name: a method that is silently missing would be worse.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, TypeVar

from r2.errors import ConfigError

METHODS = "r2.methods"
BENCHMARKS = "r2.benchmarks"
"""The entry point groups that are read."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Named(Protocol):
    """A record: what it is called decides everything else."""

    @property
    def name(self) -> str: ...


Record = TypeVar("Record", bound=Named)


def plugin_names(group: str) -> list[str]:
    """Names that other packages announce in a group, sorted; nothing is imported and nothing is checked."""
    return sorted({point.name for point in entry_points(group=group)})


def with_plugins(
    group: str, kind: type[Record], built_in: Iterable[Record], reserved: Collection[str] = ()
) -> Mapping[str, Record]:
    """Name -> record: the built-in ones in their order, then the others by name.

    `reserved` are names with another meaning where records are chosen by name. ConfigError, with the package, for one
    that cannot be imported, is no `kind`, has another name than its entry point, or a name that is taken.
    """
    known = {record.name: record for record in built_in}
    owners: dict[str, str] = dict.fromkeys([*known, *reserved], "r2 itself")
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, _package(point))):
        if not _NAME.fullmatch(point.name):
            raise _refused(point, "its name must be lower-case letters, digits and _, and begin with a letter")
        if point.name in owners:
            raise _refused(point, f"the name is taken by {owners[point.name]}")
        known[point.name] = _loaded(point, kind)
        owners[point.name] = _package(point)
    return known


def _loaded(point: EntryPoint, kind: type[Record]) -> Record:
    try:
        record = point.load()
    except Exception as error:  # whatever another package's module raises, the person has to know whose it is
        raise _refused(point, f"it cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(record, kind):
        raise _refused(point, f"expected a {kind.__module__}.{kind.__name__}, got {type(record).__name__}")
    if record.name != point.name:
        raise _refused(point, f"the record's name is {record.name!r}; the two must be the same")
    return record


def _package(point: EntryPoint) -> str:
    return f"the package {point.dist.name} {point.dist.version}" if point.dist else "a package without a name"


def _refused(point: EntryPoint, reason: str) -> ConfigError:
    return ConfigError(
        f"{point.name} = {point.value!r} in group {point.group} of {_package(point)} cannot be used: {reason}. "
        "Mend that package, or uninstall it."
    )
