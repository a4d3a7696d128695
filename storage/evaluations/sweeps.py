"""Sweeps of the cost knob in a lake: `<lake>/_sweeps/<sweep_id>.json`, the points as `.csv`, the problems as `.jsonl`.

The runs behind the points are ordinary runs of kind `evaluate`. Written by flows/sweep_b.py.
"""

import csv
import io
from dataclasses import asdict, fields
from pathlib import Path

from pydantic import TypeAdapter

from r2.atomic import write_atomically
from r2.errors import ConfigError
from r2.evaluation.sweep import Sweep, SweepMeasurement

FOLDER = "_sweeps"
_SWEEP = TypeAdapter(Sweep)


def sweep_file(lake: Path, sweep_id: str, suffix: str) -> Path:
    return lake / FOLDER / f"{sweep_id}{suffix}"


def write_sweep(lake: Path, sweep: Sweep) -> Path:
    """Both files; the JSON last, and it is what is returned."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(SweepMeasurement)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in sweep.points)
    write_atomically(sweep_file(lake, sweep.sweep_id, ".csv"), text.getvalue().encode())
    path = sweep_file(lake, sweep.sweep_id, ".json")
    write_atomically(path, _SWEEP.dump_json(sweep, indent=1))
    return path


def read_sweep(lake: Path, sweep_id: str) -> Sweep:
    """ConfigError, with the sweeps there are, for an unknown one."""
    try:
        return _SWEEP.validate_json(sweep_file(lake, sweep_id, ".json").read_bytes())
    except OSError:
        known = ", ".join(sorted(path.stem for path in (lake / FOLDER).glob("*.json"))) or "none"
        raise ConfigError(f"{lake} has no sweep {sweep_id!r}. Sweeps: {known}.") from None
