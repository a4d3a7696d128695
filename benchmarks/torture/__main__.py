"""Runs the scenarios and prints what came of them; exit code 1 where a promise is broken.

    python -m benchmarks.torture                  # all of it, at most an hour on two cores; or: make torture
    python -m benchmarks.torture --slice          # three minutes; or: make torture-slice
    python -m benchmarks.torture --only kill --seed 3 --keep folder

Everything runs on this machine, on simulated models and hostile servers of its own; nothing is paid.
"""

import argparse
import functools
import itertools
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks.torture import plan
from benchmarks.torture.figures import Row, show, write
from benchmarks.torture.world import ROOT, World

N_BESIDE = 3
"""Scenarios that mostly wait, at a time."""


def torture(folder: Path, chosen: list[plan.Scenario], seed: int, json_path: Path | None) -> int:
    console, rows, began = Console(width=180), list[Row](), time.monotonic()
    with World(folder, seed) as world, ThreadPoolExecutor(N_BESIDE) as pool:
        for beside, several in itertools.groupby(chosen, lambda one: one.beside):
            for row in (pool.map if beside else map)(functools.partial(judged, world), several):
                rows.append(row)
                about = {"commit": commit(), "date": datetime.now(UTC).date().isoformat(), "seed": seed}
                about["wall_s"] = round(time.monotonic() - began)
                if json_path is not None:  # after each: an hour's rows are not lost with the last one
                    write(json_path, rows, about)
                console.print(row.line(), markup=False)
                for reason in row.broken:
                    console.print(f"  {reason}", markup=False)
    n_broken = sum(bool(row.broken) for row in rows)
    show(console, rows)
    console.print(
        f"{len(rows)} scenarios, {sum(row.times for row in rows)} times, {sum(row.lost for row in rows)} rows lost, "
        f"{sum(max(0, row.twice - row.in_flight) for row in rows)} calls paid again beyond those in flight, "
        f"{n_broken} broken; {(time.monotonic() - began) / 60:.1f} minutes, {cpu_s() / 60:.1f} CPU minutes, "
        f"seed {seed}, commit {commit()}"
    )
    return int(n_broken > 0)


def judged(world: World, scenario: plan.Scenario) -> Row:
    started = time.monotonic()
    try:
        row = scenario.run(world)
    except Exception as error:  # the next scenario is run all the same, and this one is broken
        row = Row(scenario.name, "not brought to its end", broken=[f"{type(error).__name__}: {error}"])
    row.wall_s = time.monotonic() - started
    row.judge()
    return row


def cpu_s() -> float:
    """Of this process and of all that it started and saw end: what a busy machine does not change much."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--slice", action="store_true", help="a part of it, three minutes")
    parser.add_argument("--only", default="", help="scenarios with one of these, split at commas, in their names")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the rows go as JSON")
    parser.add_argument("--keep", type=Path, help="a new folder for everything, which stays")
    given = parser.parse_args()
    parts = given.only.split(",")
    chosen = [one for one in plan.scenarios(is_slice=given.slice) if any(part in one.name for part in parts)]
    if given.keep is not None:
        given.keep.mkdir(parents=True)
        return torture(given.keep.resolve(), chosen, given.seed, given.json)
    with tempfile.TemporaryDirectory(prefix="r2-torture-", ignore_cleanup_errors=True) as folder:
        return torture(Path(folder), chosen, given.seed, given.json)


if __name__ == "__main__":
    sys.exit(main())
