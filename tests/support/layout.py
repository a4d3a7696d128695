"""The picture of the imports: which module imports which, and which of these imports the order of the packages forbids.

A package stands on a floor and may import from lower floors only. Used by tests/test_layout.py.
"""

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

LAYERS = ("r2", "storage", "tasks", "flows")
"""Lowest first: a layer may import the layers before it."""

FLOORS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "r2": (
        ("r2",),
        ("r2.shipped", "r2.telemetry"),
        ("r2.problems", "r2.policies"),
        ("r2.answering",),
        ("r2.pool", "r2.records", "r2.labelling"),
        ("r2.methods",),
        ("r2.evaluation",),
        ("r2.training",),
    ),
    "r2.pool": (
        ("r2.pool.file", "r2.pool.coordination"),
        ("r2.pool.limits", "r2.pool.simulated"),
        ("r2.pool.client",),
        ("r2.pool.servers", "r2.pool.batch"),
        ("r2.pool",),
    ),
    "r2.pool.client": (("r2.pool.client.dialects",), ("r2.pool.client",)),
    "r2.evaluation": (("r2.evaluation",), ("r2.evaluation.recorded",)),
    "r2.training": (
        ("r2.training.scorer", "r2.training.table_allocator"),
        ("r2.training",),
        ("r2.training.sft",),
        ("r2.training.grpo",),
        ("r2.training.refresh",),
    ),
    "storage": (
        ("storage",),
        ("storage.lake", "storage.sources"),
        ("storage.sql",),
        ("storage.runs",),
        ("storage.evaluations", "storage.joined"),
        ("storage.report", "storage.forgetting"),
    ),
    "tasks": (("tasks",), ("tasks.answering",), ("tasks.labelling", "tasks.evaluation", "tasks.training")),
    "flows": (("flows.support",), ("flows",), ("flows.cli",)),
}
"""House -> its packages by floor, lowest first; packages of one floor do not import one another. A house stands for its
loose modules on the floor where its own name is."""


class Import(NamedTuple):
    """One module that imports another, both with their full names."""

    importer: str
    imported: str


class Picture(NamedTuple):
    """The modules of a checkout (packages among them, as their `__init__`) and what they import of each other."""

    packages: frozenset[str]
    modules: frozenset[str]
    imports: frozenset[Import]

    def package_of(self, module: str) -> str:
        return module if module in self.packages else module.rpartition(".")[0]


def read_picture(root: Path) -> Picture:
    """Every import statement of the four layers, those inside functions and under TYPE_CHECKING too."""
    paths = {_name(path.relative_to(root)): path for layer in LAYERS for path in sorted((root / layer).rglob("*.py"))}
    packages = frozenset(name for name, path in paths.items() if path.name == "__init__.py")
    found: set[Import] = set()
    for name, path in paths.items():
        package = name if name in packages else name.rpartition(".")[0]
        for asked in _asked(path.read_text("utf-8"), package):
            known = next((part for part in _shortened(asked) if part in paths), None)
            if known is not None and known != name:
                found.add(Import(name, known))
    return Picture(packages, frozenset(paths), frozenset(found))


def package_names(root: Path) -> list[str]:
    """The packages of the four layers, without a look into a file."""
    return sorted(_name(path.relative_to(root)) for layer in LAYERS for path in (root / layer).rglob("__init__.py"))


def forbidden(picture: Picture, imports: Iterable[Import]) -> list[str]:
    """What is wrong with these imports, a sentence each; none if every one points to a lower floor. Each is judged by
    itself, whatever the others are."""
    wrong = []
    for one in sorted(imports):
        a, b = picture.package_of(one.importer), picture.package_of(one.imported)
        reason = None if a == b else _wrong(a, b)
        if reason is not None:
            wrong.append(f"{one.importer} imports {one.imported}: {reason}")
    return wrong


def two_way_pairs(picture: Picture, imports: Iterable[Import]) -> list[tuple[str, str]]:
    """Packages that import each other, each pair once."""
    edges = package_edges(picture, imports)
    return sorted((a, b) for a, b in edges if a < b and (b, a) in edges)


def package_edges(picture: Picture, imports: Iterable[Import]) -> set[tuple[str, str]]:
    """(package, package it imports from), for different packages."""
    edges = {(picture.package_of(one.importer), picture.package_of(one.imported)) for one in imports}
    return {(a, b) for a, b in edges if a != b}


@cache
def _wrong(a: str, b: str) -> str | None:
    layer_a, layer_b = a.partition(".")[0], b.partition(".")[0]
    if layer_a != layer_b:
        return None if LAYERS.index(layer_b) < LAYERS.index(layer_a) else f"{layer_a}/ is below {layer_b}/"
    rooms_a, rooms_b = _rooms(a), _rooms(b)
    if unplaced := [name for name, rooms in ((a, rooms_a), (b, rooms_b)) if not rooms]:
        return f"package {unplaced[0]} has no floor; give it one in tests/support/layout.py"
    for (house, floor_a, room_a), (_, floor_b, room_b) in zip(rooms_a, rooms_b, strict=False):
        if room_a != room_b and floor_b < floor_a:
            return None
        if room_a != room_b:
            return f"in {house} {room_b} (floor {floor_b}) is not below {room_a} (floor {floor_a})"
    return f"package {a} or {b} has no floor of its own; give it one in tests/support/layout.py"


def _rooms(package: str) -> list[tuple[str, int, str]]:
    """(house, floor, room) from the layer inward: `r2.pool.client` is the room r2.pool of r2, and r2.pool.client of
    r2.pool. Empty for a package that has no floor."""
    rooms = []
    for house in [part for part in reversed(list(_shortened(package))) if part in FLOORS]:
        for floor, names in enumerate(FLOORS[house]):
            rooms += [(house, floor, name) for name in names if _is_in(package, name, house)]
    placed = bool(rooms) and (rooms[-1][2] == package)
    return rooms if placed else []


def _is_in(package: str, room: str, house: str) -> bool:
    """A house's own name as a room holds its loose modules alone, other rooms all that lies in them."""
    return package == room or (room != house and package.startswith(f"{room}."))


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _asked(source: str, package: str) -> tuple[str, ...]:
    """Full names of what is imported; of `from a import b` it is `a.b`, which may be a module or a name in `a`. A copy
    of a checkout is read as fast as it differs from one that was read before."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (above, node.module) if part)
            names += [f"{origin}.{alias.name}" for alias in node.names]
    return tuple(names)


def _shortened(name: str) -> Iterable[str]:
    """`a.b.c`, `a.b`, `a`."""
    while name:
        yield name
        name = name.rpartition(".")[0]
