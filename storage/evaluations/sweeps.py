"""Sweeps of the cost knob in a lake: `<lake>/_sweeps/<sweep_id>.json`, the points as `.csv`, the problems as `.jsonl`.

The runs behind the points are ordinary runs of kind `evaluate`. Written by flows/sweep_b.py.
"""

import csv
import io
from dataclasses import asdict, fields
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from r2.atomic import write_atomically
from r2.errors import ConfigError
from r2.evaluation.sweep import Sweep, SweepMeasurement
from storage.lake.stores import store_of

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
    store_of(lake).share(path.parent)
    return path


def read_sweep(lake: Path, named: str) -> Sweep:
    """A sweep by its id, or by the path of its JSON file. ConfigError, with the sweeps there are, for an unknown one,
    and for a file that is no sweep."""
    store_of(lake).receive(lake / FOLDER)
    path = Path(named) if named.endswith(".json") else sweep_file(lake, named, ".json")
    try:
        return _read(path)
    except OSError:
        known = ", ".join(sorted(path.stem for path in (lake / FOLDER).glob("*.json"))) or "none"
        raise ConfigError(f"{lake} has no sweep {named!r}. Sweeps: {known}.") from None


def sweeps_in(lake: Path) -> list[Sweep]:
    """Every sweep of a lake, by id."""
    store_of(lake).receive(lake / FOLDER)
    return [_read(path) for path in sorted((lake / FOLDER).glob("*.json"))]


def _read(path: Path) -> Sweep:
    try:
        return _SWEEP.validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(f"{path}: not a sweep: {error.errors()[0]['msg']}. Run its r2 policy sweep again.") from None
