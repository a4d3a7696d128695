"""Prints what the package needs, a requirement a line, with one extra: for a layer of the image of its own.

python deploy/needed.py otel
"""

import sys
import tomllib
from pathlib import Path


def needed(pyproject: Path, extras: str) -> list[str]:
    """Requirements of the package, then those of the extras; "" for none. KeyError for an unknown one."""
    project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
    named = [extra for extra in extras.split(",") if extra]
    return [*project["dependencies"], *(one for extra in named for one in project["optional-dependencies"][extra])]


if __name__ == "__main__":
    print(*needed(Path(__file__).parent.parent / "pyproject.toml", sys.argv[1]), sep="\n")
