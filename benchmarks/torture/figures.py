"""What came of each scenario: a row of the table and of the JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table


@dataclass(slots=True)
class Row:
    """One scenario. `lost` are rows of the input without their one settled row at the end, `twice` calls that were paid
    again, of which `in_flight` were on their way when the harm was done. `identity`: stored costs add up, and cover
    the provider's bill. `broken` says each promise that did not hold, `skipped` why nothing was done."""

    scenario: str
    done: str
    times: int = 1
    lost: int = 0
    twice: int = 0
    in_flight: int = 0
    identity: bool = True
    broken: list[str] = field(default_factory=list)
    skipped: str = ""
    peak_mb: int = 0
    wall_s: float = 0.0

    def needs(self, holds: bool, promise: str) -> None:
        """Notes a promise that does not hold."""
        if not holds:
            self.broken.append(promise)

    def judge(self) -> None:
        """What holds of every scenario."""
        self.needs(self.lost == 0, f"{self.lost} rows are lost")
        self.needs(self.twice <= self.in_flight, f"{self.twice} calls were paid again, {self.in_flight} were in flight")
        self.needs(self.identity, "the stored costs do not add up, or do not cover the bill")

    @property
    def verdict(self) -> str:
        return "BROKEN" if self.broken else f"skipped: {self.skipped}" if self.skipped else "holds"

    def line(self) -> str:
        return (
            f"{self.scenario}: {self.done}, {self.times} times: {self.lost} lost, {self.twice} paid again "
            f"({self.in_flight} in flight), {self.wall_s:.0f} s, {self.verdict}"
        )


def show(console: Console, rows: Sequence[Row]) -> None:
    """The table, and below it what is broken in words."""
    table = Table("scenario", "done", "times", "lost", "paid again", "in flight", "adds up", "peak MB", "s", "verdict")
    for row in rows:
        figures = (row.times, row.lost, row.twice, row.in_flight, "yes" if row.identity else "NO", row.peak_mb or "")
        table.add_row(row.scenario, row.done, *map(str, figures), f"{row.wall_s:.0f}", row.verdict)
    console.print(table)
    for row in rows:
        for reason in row.broken:
            console.print(f"{row.scenario}: {reason}", markup=False)


def write(path: Path, rows: Sequence[Row], about: Mapping[str, object]) -> None:
    """The same as JSON."""
    stored = {**about, "rows": [{**asdict(row), "verdict": row.verdict} for row in rows]}
    path.write_bytes(orjson.dumps(stored, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
