"""The mark of a run that machines have joined: `<run>/joined.json`, from the first join until the run is finished.

What its open shards have paid for is in PostgreSQL and not in files, so a session that does not join would pay for it
again: it is refused. The mark also holds the run's name there: two lakes may have runs of one id.
"""

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

import orjson

from r2.atomic import create_atomically
from r2.errors import ConfigError, LakeError
from storage.lake.address import is_in_bucket


@dataclass(frozen=True, slots=True)
class JoinedMark:
    """`key` names the run in the database; `where` says for people which database that is."""

    key: str
    where: str


def read_mark(run_dir: Path) -> JoinedMark | None:
    """None for a run that nobody has joined. LakeError for a file that is no mark."""
    path = _path(run_dir)
    try:
        stored = orjson.loads(path.read_bytes())
        return JoinedMark(str(stored["key"]), str(stored["where"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise LakeError(f"{path}: no mark of a joined run ({error!r}). Restore it from a backup.") from error


def new_mark(run_id: str, lake: str, where: str) -> JoinedMark:
    """A mark for a run that has none. In a folder that machines share its name is drawn, and they read it there; in a
    bucket, of which each machine has a copy, it follows from the bucket's address."""
    bucket = hashlib.sha256(lake.rstrip("/").encode()).hexdigest()[:8]
    last = bucket if is_in_bucket(lake) else secrets.token_hex(4)
    return JoinedMark(f"{run_id}:{last}", where)


def set_mark(run_dir: Path, mark: JoinedMark) -> JoinedMark:
    """The run's mark: the one that is there, or this one."""
    create_atomically(_path(run_dir), orjson.dumps({"key": mark.key, "where": mark.where}))
    found = read_mark(run_dir)
    assert found is not None, "made above"
    return found


def remove_mark(run_dir: Path) -> None:
    """The run is finished: nothing of it is in the database any more."""
    _path(run_dir).unlink(missing_ok=True)


def refuse_joined(run_dir: Path, run_id: str) -> None:
    """ConfigError for a session that would work on a joined run alone."""
    if (mark := read_mark(run_dir)) is not None:
        raise ConfigError(
            f"run {run_id} is joined by machines, and what its open shards have paid for is in the {mark.where}. Go on "
            f"with --join, or `r2 join {run_id}`."
        )


def _path(run_dir: Path) -> Path:
    return run_dir / "joined.json"
