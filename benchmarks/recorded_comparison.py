"""Every method on the recorded replies of benchmarks (benchmarks/recorded), cross-fitted by question: no model, no
network.

    python benchmarks/recorded_comparison.py                 from the kept routes; is each figure the one that was kept?
    python benchmarks/recorded_comparison.py --fit           fits every method anew, and keeps routes and figures

Fitting takes many minutes, so the routes of every fit are kept (r2/evaluation/recorded/playing.py), on the rows that
choose operating points and on those that are judged. What they cost and whether they were right, the operating points
and all figures are worked out from the recorded replies each time. Exit 1 if a figure differs from the kept one.

    python benchmarks/recorded_comparison.py --benchmarks scan --pool pools/specialists.toml

Some benchmarks alone, with every entry that has a part there, plans too (`record.py --plans`); routes and figures are
in files of their own, `scan.routes.gz` and `scan.comparison.json`.

The same on other rows: `benchmarks/record.py` with `--out FOLDER` records them, `--recorded FOLDER --fit` compares on
them.
"""

import argparse
import gzip
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.headline import is_same
from benchmarks.recorded_table import RECORDED, table_of
from flows.cli.recorded import print_recorded
from r2.atomic import replacing
from r2.errors import InputFileError, R2Error
from r2.evaluation.recorded.comparison import RecordedComparison, from_json, to_json
from r2.evaluation.recorded.playing import Done, Job, done_of, kept_of
from tasks.evaluation.play_recorded import play_recorded, side_by_side

FIGURES, ROUTES = "comparison.json", "routes.gz"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recorded", type=Path, default=RECORDED)
    parser.add_argument("--pool", default="pools/local.toml", help="whose prices count [default: pools/local.toml]")
    parser.add_argument("--benchmarks", help="NAME,... [default: all that are recorded, pooled]")
    parser.add_argument(
        "--fit", action="store_true", help=f"fits anew, and writes {ROUTES} and {FIGURES} of the folder"
    )
    given = parser.parse_args()
    try:
        names = given.benchmarks.split(",") if given.benchmarks else None
        found = compared(given.recorded, given.pool, names, fits=given.fit)
        print_recorded(found)
        print(f"{found.n_fitted} questions of {', '.join(found.models)}; {found.wall_s:.0f} s, no model was asked")
        if given.fit:
            of_these(given.recorded, names, FIGURES).write_bytes(to_json(replace(found, wall_s=0.0)))
            return 0
        return check(found, of_these(given.recorded, names, FIGURES))
    except R2Error as error:
        sys.stderr.write(f"{error}\n")
        return 2


def of_these(folder: Path, benchmarks: Sequence[str] | None, name: str) -> Path:
    """The file of that name for these benchmarks; None: for all of them."""
    return folder / (f"{'-'.join(benchmarks)}.{name}" if benchmarks else name)


def compared(folder: Path, pool: str, benchmarks: Sequence[str] | None = None, *, fits: bool) -> RecordedComparison:
    """The comparison, by methods that are fitted or by their kept routes."""
    began = time.monotonic()
    rows, left_out = table_of(folder, pool, wanted=benchmarks)
    routes, figures = (of_these(folder, benchmarks, name) for name in (ROUTES, FIGURES))
    for line in left_out:
        print(line)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "recorded.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
        if fits:
            with replacing(routes) as plain, gzip.GzipFile("", "wb", fileobj=plain, mtime=0) as file:
                found = play_recorded([path], [], [], say, each=lambda jobs: keeping(jobs, file))
        else:
            if not (routes.is_file() and figures.is_file()):
                raise InputFileError(f"{folder}: no {routes.name} and {figures.name} are kept there. Fit first: --fit")
            with gzip.open(routes) as file:
                found = play_recorded([path], [], [], lambda line: None, each=lambda jobs: kept(jobs, file))
    return replace(found, outcomes=(folder.name,), wall_s=time.monotonic() - began)


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def keeping(jobs: Sequence[Job], file: gzip.GzipFile) -> Iterator[Done]:
    """Runs the jobs, and writes one line for each: what it was, its settings, its routes."""
    for job, done in zip(jobs, side_by_side(jobs), strict=True):
        file.write(orjson.dumps(kept_of(job, done), option=orjson.OPT_APPEND_NEWLINE))
        yield done


def kept(jobs: Sequence[Job], file: gzip.GzipFile) -> Iterator[Done]:
    """The jobs from the lines that `keeping` wrote. InputFileError where a line is of another job."""
    for job in jobs:
        done = done_of(job, orjson.loads(file.readline() or b"{}"))
        if done is None:
            raise InputFileError(
                f"{ROUTES}: kept for other methods or other rows ({job.label}). Fit anew: python "
                "benchmarks/recorded_comparison.py --fit"
            )
        yield done


def check(found: RecordedComparison, figures: Path) -> int:
    """1 where a figure is not the one that was kept."""
    was = from_json(figures.read_bytes())
    if not is_same(was, replace(found, wall_s=0.0)):
        sys.stderr.write(f"Figures differ from those in {figures}.\n")
        return 1
    print("Every figure is the one that was kept.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
