"""What `r2 doctor` looks at: each check says what it found, and of what is wrong how it is mended.

Everything is read and nothing is written or started, but for one child in the sandbox. Nothing is asked over the
network, but for what is configured: Prefect's API, and the PostgreSQL that machines share. It loads neither Prefect,
Arrow nor DuckDB, so it is quick.
"""

import asyncio
import os
import re
import shutil
import sqlite3
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from flows.support.environment import CHOSEN_BY_USER, DEFAULTS
from r2.errors import ConfigError, R2Error
from r2.pool.client.state import state_dir
from r2.pool.coordination.address import VARIABLE, coordination_url
from r2.pool.limits.file_system import MOUNTS, NETWORK, file_system, nearest_folder
from storage.lake.left_locks import left_locks

PACKAGE = "r2-reasoner"
LEAST_FREE_BYTES = 1 << 30
MOST_SKEW_S = 60.0
"""Seconds that a clock may differ. Prefect's schedules, the days of prices and the caps of a day go by it."""
SERVER_S = 1.0
"""What the configured Prefect API is given to answer."""
_TELEMETRY = ("DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED", "RAY_USAGE_STATS_ENABLED")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `fix` is what mends it, "" where nothing is wrong."""

    check: str
    what: str
    fix: str = ""

    @property
    def is_well(self) -> bool:
        return not self.fix


def examined(lake: Path, pool: str | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Every check in turn."""
    yield from pins()
    yield from disk("lake", lake, "another folder with --lake")
    yield from disk("state", state_dir(), "another folder with R2_STATE_DIR")
    yield from limits_file(state_dir(), MOUNTS)
    yield from machines(environ)
    yield from prefect(environ)
    writes_programs = False
    if pool is not None:
        from r2.pool.file.config import load_pool  # takes half of the time

        try:
            loaded = load_pool(pool)
        except ConfigError as error:
            yield Finding("keys", f"{pool}: {error}", f"correct the file; then r2 pool check --pool {pool}")
        else:
            writes_programs = any(model.prompt_mode == "program" for model in loaded.models.values())
            yield from keys(pool, {name: model.api_key_env for name, model in loaded.models.items()}, environ)
    yield from sandbox(is_needed=writes_programs)
    yield from telemetry(environ)
    yield from locks(lake)
    yield from clock(lake, time.time())


def pins(
    wanted: list[str] | None = None, installed: Callable[[str], str] = version, package: str = PACKAGE
) -> Iterator[Finding]:
    """What is installed against what pyproject.toml asks for. A package of an extra may be missing, but not be another
    version."""
    try:
        wanted = (requires(package) or []) if wanted is None else wanted
        own = installed(package)
    except PackageNotFoundError:
        yield Finding(
            "versions", f"{package} is not installed here", "pip install --no-deps --editable . in its folder"
        )
        return
    wrong: list[str] = []
    n_there = 0
    for line in wanted:
        try:
            need = Requirement(line)
        except InvalidRequirement:
            continue
        is_extra = "extra" in str(need.marker or "")
        if need.marker is not None and not is_extra and not need.marker.evaluate():
            continue
        try:
            found = installed(need.name)
        except PackageNotFoundError:
            if not is_extra:
                wrong.append(f"{need.name} is missing (needs {need.specifier})")
            continue
        n_there += 1
        if not need.specifier.contains(found, prereleases=True):
            wrong.append(f"{need.name} {found} (needs {need.specifier})")
    if wrong:
        yield Finding(
            "versions",
            "; ".join(dict.fromkeys(wrong)),
            "pip install -c requirements.txt --editable . in this checkout, or make env",
        )
    else:
        yield Finding("versions", f"{package} {own}, {n_there} packages as pyproject.toml asks for them")


def disk(check: str, folder: Path, another: str, least: int = LEAST_FREE_BYTES) -> Iterator[Finding]:
    """Room and the right to write, at the folder or where it would be made."""
    there = nearest_folder(folder)
    free = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding(check, f"{there}: cannot be written by this user", f"give the user the right, or name {another}")
    elif free < least:
        fix = f"make room (r2 lake vacuum deletes replaced files), or name {another}"
        yield Finding(check, f"{folder}: {_gib(free)} free, less than {_gib(least)}", fix)
    else:
        yield Finding(check, f"{folder}: {_gib(free)} free")


def limits_file(folder: Path, mounts: Path) -> Iterator[Finding]:
    """Limits and budgets of this host's processes: on a disk of this host, and readable."""
    kind = file_system(folder, mounts)
    if NETWORK.fullmatch(kind):
        yield Finding(
            "limits",
            f"{folder} is on a network file system ({kind}), where the locks of SQLite do not hold between hosts",
            "set R2_STATE_DIR to a folder on a disk of this host",
        )
        return
    path = folder / "lease.sqlite3"
    if not path.exists():
        yield Finding("limits", f"{path}: not there yet; the first run makes it")
        return
    try:
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=1.0)
        try:
            [(n_accounts,)] = db.execute("select count(*) from accounts").fetchall()
        finally:
            db.close()
        yield Finding("limits", f"{path}: {n_accounts} budgets, on {kind or 'a file system'} of this host")
    except sqlite3.Error as error:
        fix = "if no run is active, delete the file: budgets of today start again from zero"
        yield Finding("limits", f"{path}: cannot be read ({error})", fix)


def machines(environ: Mapping[str, str]) -> Iterator[Finding]:
    """The PostgreSQL that machines share, where one is named."""
    try:
        url = coordination_url(environ)
    except ConfigError as error:
        yield Finding("machines", str(error), f"export {VARIABLE}=postgresql://..., or unset it")
        return
    if url is None:
        return
    # Here and not above: on one host nobody need wait for the driver.
    from r2.pool.coordination.database import looked_at

    try:
        yield Finding("machines", f"{asyncio.run(looked_at(url))} answers: limits hold over all hosts that name it")
    except R2Error as error:
        yield Finding("machines", str(error), f"start it, correct {VARIABLE}, or unset it")


def prefect(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the API that is configured answers, and whether its clock is ours."""
    url, place = configured_api(environ)
    if not url:
        yield Finding("prefect", "no API configured: each run starts one of its own, and ends it")
        return
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=SERVER_S) as reply:
            dated = reply.headers.get("Date")
    except urllib.error.HTTPError as error:
        dated = error.headers.get("Date")  # it answers; what it refuses, the flow's own calls will tell
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        fix = f"start it (prefect server start), or unset PREFECT_API_URL in {place}: then each run starts its own"
        yield Finding("prefect", f"{_without_login(url)} ({place}) cannot be reached: {reason}", fix)
        return
    yield Finding("prefect", f"{_without_login(url)} ({place}) answers")
    if dated is not None:
        apart = time.time() - parsedate_to_datetime(dated).timestamp()
        if abs(apart) > MOST_SKEW_S:
            what = f"{abs(apart):.0f} s {'after' if apart > 0 else 'before'} the clock of Prefect's server"
            yield Finding("clock", what, "set both by NTP (timedatectl set-ntp true)")


def configured_api(environ: Mapping[str, str]) -> tuple[str, str]:
    """(address, where it is configured): the environment, else the active profile of Prefect. "" for none."""
    if url := environ.get("PREFECT_API_URL", ""):
        return url, "the environment"
    home = Path(environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    path = Path(environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    try:
        profiles = tomllib.loads(path.read_text("utf-8"))
        name = environ.get("PREFECT_PROFILE") or profiles.get("active", "")
        return str(profiles["profiles"][name].get("PREFECT_API_URL", "")), f"profile {name} in {path}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", ""


def keys(pool: str, variables: Mapping[str, str | None], environ: Mapping[str, str]) -> Iterator[Finding]:
    """Entry -> the variable that holds its key. Said are names, never what is in them."""
    named: dict[str, list[str]] = {}
    for entry, variable in variables.items():
        if variable is not None:
            named.setdefault(variable, []).append(entry)
    unset = {name: entries for name, entries in named.items() if not environ.get(name, "").strip()}
    for name, entries in unset.items():
        yield Finding("keys", f"${name} is not set (used by {', '.join(entries)})", f"export {name}=..., with the key")
    if not unset:
        yield Finding("keys", f"{pool}: {len(named)} named, all set" if named else f"{pool}: names no key")


def sandbox(is_needed: bool) -> Iterator[Finding]:
    """Whether code of models can be run here. `is_needed`: an entry of the pool writes programs."""
    from r2.problems.sandbox import run_program

    try:
        ran = run_program("print(6 * 7)")
    except ConfigError as error:
        fix = "pip install pyseccomp, and your system's libseccomp2; or ask entries without prompt_mode = program"
        what = "no libseccomp: Python puzzles (p3) and entries that write programs cannot be used"
        yield Finding("sandbox", f"{what} ({error})" if is_needed else what, fix if is_needed else "")
        return
    if (ran.printed or "").strip() == "42":
        yield Finding("sandbox", "a program ran in it")
    else:
        fix = "allow seccomp filters for this user (in a container: --security-opt), or use another machine"
        yield Finding("sandbox", f"a program did not run: {ran.error_message or ran.error_type}", fix)


def telemetry(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether Prefect or Ray would tell their makers that they are used."""
    on = [name for name in _TELEMETRY if environ.get(name, DEFAULTS[name]) != DEFAULTS[name]]
    if on:
        said = " ".join(f"{name}={DEFAULTS[name]}" for name in on)
        what = f"on: {', '.join(on)} {'is' if len(on) == 1 else 'are'} set otherwise in the environment"
        yield Finding("telemetry", what, f"unset {' '.join(on)}, or export {said}")
    else:
        who = "by your environment" if not CHOSEN_BY_USER.isdisjoint(_TELEMETRY) else "as this program sets it"
        yield Finding("telemetry", f"off, {who}")


def locks(lake: Path) -> Iterator[Finding]:
    """Runs whose process died."""
    left = left_locks(lake)
    for run_id, pid in left.items():
        fix = "give the command of that run again: it goes on where it was, and the lock goes with its end"
        yield Finding("locks", f"run {run_id} was cut off: process {pid} is gone, its lock is left", fix)
    if not left:
        yield Finding("locks", f"{lake}: no lock of a process that is gone")


def clock(lake: Path, now: float) -> Iterator[Finding]:
    """A clock that runs behind what is stored already."""
    built = Path(__file__).stat().st_mtime
    stored = max((entry.stat().st_mtime for entry in _folders(lake / "_manifest")), default=0.0)
    fix = "set it by NTP (timedatectl set-ntp true)"
    if now < max(built, stored) - MOST_SKEW_S:
        of = "this program" if built > stored else f"the newest commit in {lake}"
        yield Finding("clock", f"{max(built, stored) - now:.0f} s before the time of {of}", fix)
    else:
        yield Finding("clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)))


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return [entry for entry in os.scandir(folder) if entry.is_dir()]
    except OSError:
        return []


def _without_login(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / (1 << 30):.1f} GiB"
