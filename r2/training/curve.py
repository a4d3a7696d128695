"""A training's metrics as they come: one JSON line per (step, metric), on disk at once, so that a kill loses none and a
resumed run repeats none.

The trainer writes here; `tasks/` turns the points into rows of the lake's table `curves`.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from r2.atomic import write_atomically


@dataclass(frozen=True, slots=True)
class MetricValue:
    """One metric at one optimiser step. `logged_at` in epoch seconds."""

    step: int
    metric: str
    value: float
    logged_at: float


class MetricsFile:
    """The points of one training, in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, step: int, metrics: Mapping[str, object]) -> None:
        """Appends the numbers among `metrics`; texts and nested values are not points."""
        now = time.time()
        points = [
            MetricValue(step, name, float(value), now)
            for name, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        with self.path.open("ab") as file:
            file.write(b"".join(orjson.dumps(asdict(point), option=orjson.OPT_APPEND_NEWLINE) for point in points))

    def points(self) -> list[MetricValue]:
        """Every point, by step; of a step that was run twice the later. A line torn by a kill is skipped: its step is
        run again."""
        found: dict[tuple[int, str], MetricValue] = {}
        for line in self.path.read_bytes().splitlines() if self.path.exists() else ():
            try:
                point = MetricValue(**orjson.loads(line))
            except (orjson.JSONDecodeError, TypeError):
                continue
            found[point.step, point.metric] = point
        return sorted(found.values(), key=lambda point: (point.step, point.metric))

    def cut(self, step: int) -> None:
        """Forgets what came after `step`: a training that is resumed from there writes it anew."""
        kept = [point for point in self.points() if point.step <= step]
        lines = [orjson.dumps(asdict(point), option=orjson.OPT_APPEND_NEWLINE) for point in kept]
        write_atomically(self.path, b"".join(lines))
