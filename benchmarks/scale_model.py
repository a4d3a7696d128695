"""What a day of very many questions needs, worked out from unit costs: the tables of docs/scale.md.

`unit_costs.py` measures the unit costs; a test holds the page against this module. Nothing here is measured.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import ceil
from pathlib import Path
from typing import NamedTuple

QUESTIONS_A_DAY = 100_000_000
DAY_S = 86_400
SHARD_ROWS = 10_000
"""Questions of a shard: `--shard-size`; 500 unless said otherwise."""
RUN_ROWS = 5_000_000
"""Questions of a run: one file of questions."""
BUSY = 0.6
"""Share of a core that a joining process may use over the day: the rest is for its busy hours."""
OWNERS = 5
"""Quotas (a provider's key) that a pool has, each with limits of its own."""
CALL_S = 2.0
"""A call's time on the wire, assumed."""


@dataclass(frozen=True)
class UnitCosts:
    """What one question, row, shard or grant takes; `unit_costs.py` prints them in this order."""

    calls: float
    input_tokens: float
    output_tokens: float
    usd: float
    cpu_ms: float
    process_mb: float
    files_per_shard: float
    fresh_bytes: float
    lake_bytes: float
    compaction_cpu_ms: float
    journal_calls_per_s: float
    journal_bytes: float
    claims_per_s: float


WORDS = {
    "calls": ("calls a question", "simulated pool, method r2, arithmetic"),
    "input_tokens": ("input tokens a question", "the same"),
    "output_tokens": ("output tokens a question", "the same"),
    "usd": ("USD a question", "the same, at the made-up prices of its pool file"),
    "cpu_ms": ("client CPU a question, ms", "models without latency; everything but Prefect"),
    "process_mb": ("resident memory of a process, MB", "at the end of the run"),
    "files_per_shard": ("files a shard, before compaction", "parts and manifest entry"),
    "fresh_bytes": ("bytes a question, before compaction", "all tables and the manifest"),
    "lake_bytes": ("bytes a question, compacted", "all tables and the manifest"),
    "compaction_cpu_ms": ("CPU of compaction a question, ms", ""),
    "journal_calls_per_s": ("calls a second into one journal", "64 at once, each durable when it returns"),
    "journal_bytes": ("bytes of a call in a journal", "a reply of 440 characters, as it came"),
    "claims_per_s": ("claims and grants a second, PostgreSQL", "one connection, each committed; 0: not installed"),
}


class Line(NamedTuple):
    """One line of the day: what, how much, and how it follows from the unit costs."""

    what: str
    figure: float
    how: str


def day(costs: UnitCosts, questions: int = QUESTIONS_A_DAY) -> list[Line]:
    """The lines in the page's order."""
    calls = questions * costs.calls
    cores = questions * costs.cpu_ms / 1000 / DAY_S
    processes = ceil(cores / BUSY)
    shards = ceil(questions / SHARD_ROWS)
    per_s = calls / DAY_S
    return [
        Line("questions a second", questions / DAY_S, "questions / 86,400 s"),
        Line("calls a day, million", calls / 1e6, "x calls"),
        Line("calls a second", per_s, "/ 86,400 s"),
        Line("calls in flight", per_s * CALL_S, f"x {CALL_S:g} s on the wire"),
        Line("input tokens a minute, million", questions * costs.input_tokens / DAY_S * 60 / 1e6, "x input tokens"),
        Line("output tokens a minute, million", questions * costs.output_tokens / DAY_S * 60 / 1e6, "x output tokens"),
        Line("USD a day for models", questions * costs.usd, "x USD"),
        Line("cores of clients", cores, "x client CPU"),
        Line("joining processes", processes, f"cores / {BUSY:g}"),
        Line("calls a second of one process", per_s / processes, "calls a second / processes"),
        Line("memory of all processes, GB", processes * costs.process_mb / 1000, "x memory of a process"),
        Line("runs", ceil(questions / RUN_ROWS), f"questions / {RUN_ROWS:,}"),
        Line("shards", shards, f"questions / {SHARD_ROWS:,}"),
        Line("files before compaction", shards * costs.files_per_shard, "x files a shard"),
        Line("GB written before compaction", questions * costs.fresh_bytes / 1e9, "x bytes"),
        Line("GB a day that stay", questions * costs.lake_bytes / 1e9, "x compacted bytes"),
        Line("TB a year", questions * costs.lake_bytes * 365 / 1e12, "x 365"),
        Line("core hours of compaction", questions * costs.compaction_cpu_ms / 1000 / 3600, "x CPU of compaction"),
        Line("GB through journals", calls * costs.journal_bytes / 1e9, "calls x bytes of a call"),
        Line("share of a journal's speed, %", per_s / processes / costs.journal_calls_per_s * 100, "of one process"),
        Line("claims a second", shards / DAY_S, "shards / 86,400 s"),
        Line("grants of limits a second", processes * OWNERS, f"processes x {OWNERS} quotas x 1 a second"),
    ]


def tables(costs: UnitCosts) -> str:
    """Both tables in Markdown."""
    lines = ["| unit cost | measured | how |", "|---|---|---|"]
    lines += [f"| {WORDS[f.name][0]} | {short(getattr(costs, f.name))} | {WORDS[f.name][1]} |" for f in fields(costs)]
    rounded = read_costs("\n".join(lines))
    lines += ["", "| a day of 100 million | figure | how it follows |", "|---|---|---|"]
    lines += [f"| {line.what} | {short(line.figure)} | {line.how} |" for line in day(rounded)]
    return "\n".join(lines) + "\n"


def read_costs(page: str) -> UnitCosts:
    """The unit costs that a page has in its table. ValueError where one is missing."""
    found: Mapping[str, str] = dict(re.findall(r"^\| ([^|]+) \| ([\d,.]+) \|", page, re.MULTILINE))
    missing = [words for words, _ in WORDS.values() if words not in found]
    if missing:
        raise ValueError(f"no line for {missing[0]!r}")
    return UnitCosts(**{name: float(found[words].replace(",", "")) for name, (words, _) in WORDS.items()})


def write_into(page: Path, costs: UnitCosts) -> None:
    """Puts both tables between the page's marks."""
    text = page.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    page.write_text(f"{before}{begin}\n\n{tables(costs)}\n{end}{after}", "utf-8")


BEGIN, END = "<!-- python benchmarks/unit_costs.py -->", "<!-- end -->"


def short(value: float) -> str:
    """Three digits that count, thousands apart."""
    if value == 0:
        return "0"
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{float(text):.9f}".rstrip("0")


def printed(costs: Sequence[UnitCosts]) -> str:
    """What the command prints: the tables of the first round, whose process has grown by no other, and how far the
    rounds were apart."""
    spread = [
        f"  {WORDS[f.name][0]}: {', '.join(short(getattr(one, f.name)) for one in costs)}" for f in fields(UnitCosts)
    ]
    return f"{tables(costs[0])}\nall rounds:\n" + "\n".join(spread)
