"""Which version of the code this process runs: machines that work on one run must run the same."""

import hashlib
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("r2", "storage", "tasks", "flows")
_KINDS = (".py", ".sql")


def code_version() -> str:
    """The release, and a digest of every file of the four packages that is code."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in _KINDS:
                digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{version('r2-reasoner')} {digest.hexdigest()[:12]}"
