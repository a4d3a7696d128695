"""Packages of others, as an installer leaves them: modules, and metadata with entry points."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tool:
    """A record of the least kind."""

    name: str


def install(site: Path, name: str, modules: Mapping[str, str], entry_points: Mapping[str, str]) -> Path:
    """Puts version 1.0 of a package into a folder of packages, and returns the folder. `modules` are file -> text,
    `entry_points` group -> its lines."""
    for file, text in modules.items():
        path = site / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    metadata = site / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "utf-8")
    groups = "".join(f"[{group}]\n{lines}\n" for group, lines in entry_points.items())
    (metadata / "entry_points.txt").write_text(groups, "utf-8")
    return site
