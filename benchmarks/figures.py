"""What a benchmark measured: figures with a value for each round, the bars they are held to, and how they are shown and
kept.

A part is what one module of this folder measures. The parts lie in one JSON file, each with its date, commit, machine
and versions, so that one of them can be measured again alone; the table is made of the file.
"""

import importlib.metadata
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OURS = ("aiohttp", "uvloop", "orjson", "prefect", "pyarrow", "duckdb", "pandas", "polars", "numpy")
"""Packages whose versions stand beside every part."""
HEAD = ("part", "measured", "who", "median", "least to most", "n", "bar")


@dataclass(frozen=True, slots=True)
class Bar:
    """What the median is held to: at least `bound`, or at most."""

    bound: float
    is_floor: bool

    def met(self, value: float) -> bool:
        return value >= self.bound if self.is_floor else value <= self.bound


def memory_mb() -> tuple[float, float]:
    """(now, the most so far) of this process, in MB. Linux: `getrusage` would count the process that started it too."""
    status = Path("/proc/self/status").read_text("ascii", "replace")
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", status, re.M))
    return int(found["VmRSS"]) / 1024, int(found["VmHWM"]) / 1024


def forget_peak() -> None:
    """From here on the most that `memory_mb` tells is counted anew."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")


def at_least(bound: float) -> Bar:
    return Bar(bound, is_floor=True)


def at_most(bound: float) -> Bar:
    return Bar(bound, is_floor=False)


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity of one program, a value for each round."""

    what: str
    who: str
    unit: str
    values: tuple[float, ...]
    bar: Bar | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def is_missed(self) -> bool:
        return self.bar is not None and not self.bar.met(self.median)

    def cells(self) -> tuple[str, ...]:
        spread = f"{short(min(self.values))} to {short(max(self.values))}" if len(self.values) > 1 else ""
        bar = ""
        if self.bar is not None:
            bar = (
                f"{'≥' if self.bar.is_floor else '≤'} {short(self.bar.bound)}: {'missed' if self.is_missed else 'met'}"
            )
        return self.what, self.who, f"{short(self.median)} {self.unit}", spread, str(len(self.values)), bar


@dataclass(slots=True)
class Part:
    """The figures of one module, with the command that makes them; `skipped`: who was not measured, and why."""

    name: str
    command: str
    figures: list[Figure] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    """Date, commit and machine: see `facts_now`; `other_cores`: see `OtherWork`."""

    def add(self, what: str, who: str, unit: str, values: float | Iterable[float], bar: Bar | None = None) -> None:
        each = (values,) if isinstance(values, int | float) else tuple(values)
        self.figures.append(Figure(what, who, unit, each, bar))

    def add_ratio(self, what: str, who: str, over: str, bar: Bar | None = None) -> None:
        """A figure of `who` over that of `over`, round by round: they took turns, so that a slow minute is in both."""
        mine, theirs = self.found(what, who), self.found(what, over)
        pairs = zip(mine.values, theirs.values, strict=True)
        self.add(what, f"{who} / {over}", "x", (one / other for one, other in pairs), bar)

    def found(self, what: str, who: str) -> Figure:
        return next(figure for figure in self.figures if (figure.what, figure.who) == (what, who))

    def skip(self, who: str, why: str) -> None:
        self.skipped.append(f"{who}: {why}")


Measure = Callable[[Part, Any], None]


class OtherWork:
    """How much of the machine other processes use, from when this is made: cores, on average."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.perf_counter(), _busy_s(), _own_s()

    def cores(self) -> float:
        wall_s = time.perf_counter() - self._began
        return max(0.0, (_busy_s() - self._busy - (_own_s() - self._own)) / wall_s)


def facts_now() -> dict[str, Any]:
    """Where and of what a part is measured."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit.stdout.strip() or "unknown",
        "machine": f"{os.cpu_count()} x {_processor()}, {_memory_gb():.0f} GB, {platform.platform()}",
        "python": platform.python_version(),
    }


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed here."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def with_rounds(old: Part, new: Part) -> Part:
    """The rounds of both, where a figure is in both; else the newer one's."""
    before = {(figure.what, figure.who): figure.values for figure in old.figures}
    figures = [
        Figure(one.what, one.who, one.unit, before.get((one.what, one.who), ()) + one.values, one.bar)
        for one in new.figures
    ]
    return Part(new.name, new.command, figures, new.skipped, new.versions, new.facts)


def kept(path: Path) -> dict[str, Part]:
    """The parts of a file, by name; none where there is no file."""
    if not path.exists():
        return {}
    parts = {}
    for name, stored in json.loads(path.read_text("utf-8"))["parts"].items():
        figures = [
            Figure(
                one["what"],
                one["who"],
                one["unit"],
                tuple(one["values"]),
                None if one["bar"] is None else Bar(**one["bar"]),
            )
            for one in stored.pop("figures")
        ]
        parts[name] = Part(**{**stored, "figures": figures})
    return parts


def keep(path: Path, parts: Mapping[str, Part]) -> None:
    """Writes the file; medians are in it for who reads nothing else."""
    document: dict[str, Any] = {"parts": {name: asdict(part) for name, part in parts.items()}}
    for name, part in parts.items():
        for stored, figure in zip(document["parts"][name]["figures"], part.figures, strict=True):
            stored["median"] = figure.median
    for part in document["parts"].values():
        for stored in part["figures"]:
            stored.update(values=[round(value, 6) for value in stored["values"]], median=round(stored["median"], 6))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def table(parts: Iterable[Part]) -> str:
    """One Markdown table of all parts, and below it when, where and how each was measured, and who is not in it."""
    rows: list[Sequence[str]] = [HEAD]
    notes = []
    for part in parts:
        rows += [(part.name, *figure.cells()) for figure in part.figures]
        facts = part.facts
        notes.append(
            f"- {part.name}: {facts['date']}, commit {facts['commit']}, {facts['other_cores']:.2g} cores busy with "
            f"other work. Command: `{part.command}`"
        )
        notes += [f"- {part.name}: not measured: {why}" for why in part.skipped]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([*lines, "", *notes])


def short(value: float) -> str:
    """Three digits that count, more where the number is whole and large."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def say(line: str) -> None:
    """How far a benchmark is, on standard error."""
    print(line, file=sys.stderr, flush=True)


def _busy_s() -> float:
    """Seconds that all cores have been busy; 0 where the system does not say."""
    try:
        first = Path("/proc/stat").read_text("ascii").splitlines()[0]
    except OSError:
        return 0.0
    user, nice, system, _idle, _waiting, *interrupts = (int(ticks) for ticks in first.split()[1:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    """Of this process and the children that have ended."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
