"""Which earlier runs of a lake may have paid for what a run is about to ask, and why it is another run than they were.

The runs over one input file with one method are its lineage: rows are appended, prices change, and each time it is
another run. What they paid for is used again always; what runs over other inputs paid for where `reuse` says so. A run
that was planned by a version which did not note its entries has none here, and nothing of it can be used again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from r2.settings import AnswerSettings
from storage.runs.plan import PlannedEntry, planned_runs

_ROWS = ("columns", "default_benchmark", "limit", "sample")
"""Settings that say which rows are asked, and how they are read."""


@dataclass(frozen=True, slots=True)
class PaidRun:
    """An earlier run, as its plan says. `is_same_input`: of the lineage."""

    run_id: str
    run_dir: Path
    entries: Mapping[str, PlannedEntry]
    is_same_input: bool
    input_digest: str
    n_requested: int
    created_at: float
    settings: Mapping[str, Any]


def paid_runs(root: Path, run_id: str, input_path: str, method: str, *, reuse: bool) -> list[PaidRun]:
    """The runs of the lake whose answers the run `run_id` may use: those over the same input first, newest first.

    `input_path` is absolute. A plan that cannot be read is passed over: `r2 lake verify` names it.
    """
    found = []
    for run_dir in planned_runs(root):
        if run_dir.name == run_id:
            continue
        try:
            stored = orjson.loads((run_dir / "manifest.json").read_bytes())
            entries = {name: PlannedEntry(**entry) for name, entry in stored.get("entries", {}).items()}
            settings = stored["settings"]
            place = stored.get("input_path") or str(Path(settings["input"]).resolve())
            is_same_input = place == input_path and settings["reasoning"]["method"] == method
            if is_same_input or (reuse and entries):
                found.append(
                    PaidRun(
                        stored["run_id"],
                        run_dir,
                        entries,
                        is_same_input,
                        stored["input_digest"],
                        stored["n_requested"],
                        stored["created_at"],
                        settings,
                    )
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return sorted(found, key=lambda run: (not run.is_same_input, -run.created_at))


def why_another(
    earlier: PaidRun,
    settings: AnswerSettings,
    input_digest: str,
    n_requested: int,
    entries: Mapping[str, PlannedEntry],
) -> list[str]:
    """What is not as it was in an earlier run of the lineage, in words: each says what is asked again for it."""
    reasons = []
    if not earlier.entries:
        return ["it was planned by an earlier version, whose answers cannot be used again: everything is asked"]
    if input_digest != earlier.input_digest:
        reasons.append(
            f"the file has other content ({earlier.n_requested} rows then, {n_requested} now): new rows are asked"
        )
    both = [name for name in entries if name in earlier.entries]
    if changed := [name for name in both if entries[name].answering != earlier.entries[name].answering]:
        reasons.append(
            f"{_named(changed)} another endpoint, model or option: what {_it(changed)} answered is asked again"
        )
    if priced := [name for name in both if entries[name].price != earlier.entries[name].price]:
        reasons.append(
            f"{_named(priced)} another price: stored tokens are priced anew; asked is only what another order of the "
            "models by price changes"
        )
    if added := [name for name in entries if name not in earlier.entries]:
        reasons.append(f"new in the pool: {', '.join(added)}")
    if gone := [name for name in earlier.entries if name not in entries]:
        reasons.append(f"no longer in the pool: {', '.join(gone)}")
    reasons += _settings_changed(earlier.settings, settings.model_dump(mode="json"))
    return reasons or ["the router, a check or a fitted router is another one: requests that differ are asked"]


def _settings_changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [name for name, value in now["reasoning"].items() if then["reasoning"].get(name, value) != value]
    names += [name for name in _ROWS if then.get(name, now[name]) != now[name]]
    return [f"other settings ({', '.join(names)}): requests that differ are asked"] if names else []


def _named(names: list[str]) -> str:
    return f"{', '.join(names)} {'has' if len(names) == 1 else 'have'}"


def _it(names: list[str]) -> str:
    return "it" if len(names) == 1 else "they"
