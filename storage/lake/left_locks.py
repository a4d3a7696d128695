"""Locks of runs whose process is gone. They hold nobody back, since the kernel lets go of a lock with its process; they
tell which runs were cut off. Reads only, and loads neither Arrow nor DuckDB."""

from pathlib import Path

import orjson


def left_locks(root: Path, proc: Path = Path("/proc")) -> dict[str, int]:
    """Run -> pid of the process that held its lock when it died. A lock that says nothing of its holder is left out."""
    found: dict[str, int] = {}
    for path in sorted((root / "_locks").glob("*.lock")):
        try:
            holder = orjson.loads(path.read_bytes())
            pid = int(holder["pid"])
            if not _is_alive(pid, str(holder.get("boot_id", "")), int(holder.get("started_ticks", -1)), proc):
                found[path.name.removesuffix(".lock")] = pid
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def _is_alive(pid: int, boot_id: str, started_ticks: int, proc: Path) -> bool:
    """By the pid, and by what tells its process from a later one of the same number, where that is known."""
    if boot_id and boot_id != (proc / "sys/kernel/random/boot_id").read_text("ascii").strip():
        return False
    try:
        started = int((proc / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19])
    except FileNotFoundError:
        return False
    return started_ticks in (-1, started)
