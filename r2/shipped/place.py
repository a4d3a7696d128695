"""Where the shipped files lie, and when they are meant.

`pools/local.toml` means the file of the working folder where there is one: a user's own file wins. Else it means the
shipped file of that name. In a wheel the shipped files lie in this package, in a checkout at its top.
"""

import shlex
from pathlib import Path

from r2.errors import ConfigError

KINDS = ("pools", "policies", "configs")


def shipped_root() -> Path:
    """The folder that holds the three folders of `KINDS`."""
    here = Path(__file__).parent
    return here if (here / KINDS[0]).is_dir() else here.parent.parent


def found(path: Path) -> Path:
    """What a path means: itself where it is there, or where nothing of that name is shipped; else the shipped file."""
    is_ours = not path.is_absolute() and path.parts[:1] and path.parts[0] in KINDS and ".." not in path.parts
    if not is_ours or path.exists():
        return path
    shipped = shipped_root() / path
    return shipped if shipped.exists() else path


def refuse_shipped(path: Path) -> None:
    """ConfigError, with the command that copies it, where a file is to be changed that is not the user's own."""
    shipped = found(path)
    if shipped != path:
        copy = f"mkdir -p {shlex.quote(str(path.parent))} && cp {shlex.quote(str(shipped))} {shlex.quote(str(path))}"
        raise ConfigError(
            f"{path}: this is the file that comes with the program, and it is not changed. Copy it, then change the "
            f"copy: {copy}"
        )
