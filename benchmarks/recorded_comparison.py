"""Every method on the recorded replies of benchmarks (benchmarks/recorded), cross-fitted by question: no model, no
network.

    python benchmarks/recorded_comparison.py                 and whether each figure is the one that was kept
    python benchmarks/recorded_comparison.py --keep          keeps these figures, after something new was recorded

Pooled over all benchmarks, with the entries that are recorded on every one; and each benchmark by itself, where more
entries are. What is not recorded is named. Exit 1 if a figure differs.

The same on other rows: `benchmarks/record.py` with `--out FOLDER` records them, `--recorded FOLDER` compares on them.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.headline import is_same
from benchmarks.recorded_table import RECORDED, parts_in, table_of
from flows.cli.recorded import print_recorded
from r2.errors import InputFileError, R2Error
from r2.evaluation.recorded.comparison import RecordedComparison, from_json, to_json
from tasks.evaluation.play_recorded import play_recorded

KEPT = "comparison.json"
POOLED = "all benchmarks"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recorded", type=Path, default=RECORDED)
    parser.add_argument("--pool", default="pools/local.toml", help="whose prices count [default: pools/local.toml]")
    parser.add_argument("--keep", action="store_true", help=f"writes the figures to {KEPT} of the folder")
    given = parser.parse_args()
    try:
        began = time.monotonic()
        found = compared(given.recorded, given.pool)
        kept = given.recorded / KEPT
        if given.keep:
            kept.write_bytes(orjson.dumps({name: orjson.Fragment(to_json(one)) for name, one in found.items()}))
        for name, comparison in found.items():
            print(f"\n{name}, {comparison.n_fitted} questions of {', '.join(comparison.models)}")
            print_recorded(comparison)
        print(f"{time.monotonic() - began:.0f} s, no model was asked")
        return check(found, kept) if kept.exists() else 0
    except R2Error as error:
        sys.stderr.write(f"{error}\n")
        return 2


def compared(folder: Path, pool: str) -> dict[str, RecordedComparison]:
    """By name: pooled, and each benchmark that has entries which others lack."""
    parts = parts_in(folder)
    rows, left_out = table_of(folder, pool)
    for line in left_out:
        print(line)
    whole = {row["model"] for row in rows}
    further = {name: [name] for name, entries in parts.items() if len(parts) > 1 and set(entries) != whole}
    found: dict[str, RecordedComparison] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, wanted in {POOLED: None, **further}.items():
            path = Path(scratch) / "recorded.parquet"
            pq.write_table(pa.Table.from_pylist(table_of(folder, pool, wanted=wanted)[0]), path)
            try:
                played = play_recorded([path], [], [], lambda line: None)
            except InputFileError as error:
                print(f"{name} is not compared: {str(error).removeprefix(f'{path}: ')}")
                continue
            found[name] = replace(played, outcomes=(str(folder.name),))
    return found


def check(found: dict[str, RecordedComparison], kept: Path) -> int:
    """1 where a figure is not the one that was kept."""
    was = {name: from_json(orjson.dumps(one)) for name, one in orjson.loads(kept.read_bytes()).items()}
    if gone := sorted(set(was) - set(found)):
        sys.stderr.write(f"Kept, and not recorded here: {', '.join(gone)}\n")
        return 1
    if differing := [name for name, one in found.items() if name not in was or not _is_same(was[name], one)]:
        sys.stderr.write(f"Figures differ from the kept ones in: {', '.join(differing)}\n")
        return 1
    print("Every figure is the one that was kept.")
    return 0


def _is_same(was: RecordedComparison, now: RecordedComparison) -> bool:
    return is_same(replace(was, wall_s=0.0), replace(now, wall_s=0.0))


if __name__ == "__main__":
    sys.exit(main())
