"""`make bench`: every part measured, one table and one JSON file.

    python benchmarks/bench.py                         all parts, about an hour on two idle cores
    python benchmarks/bench.py --small                 few rows and one round: a look, no figures to quote
    python benchmarks/bench.py clients lake            these parts again; the file keeps the others
    python benchmarks/bench.py clients --rounds 2 --add    two more rounds to those that the file has
    python benchmarks/bench.py --show                  the table of the file, nothing measured

Other clients have environments of their own under `--peers-dir`, made on first use; a client that cannot be installed
is named below the table with the reason. Exit code 1 where a bar is missed.
"""

import argparse
import sys
from pathlib import Path

from benchmarks import bench_client, bench_flow, bench_grpo, bench_lake, bench_start
from benchmarks.figures import ROOT, Measure, keep, kept, say, table, with_rounds
from benchmarks.run_part import measured_part

HERE = ROOT / ".bench"
PARTS: dict[str, Measure] = {
    "clients": bench_client.measure_clients,
    "flow": bench_flow.measure,
    "growth": bench_flow.measure_growth,
    "lake": bench_lake.measure,
    "grpo": bench_grpo.measure,
    "start": bench_start.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Every part measured: one table and one JSON file.")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)} [default: all]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="few rows and one round")
    parser.add_argument("--add", action="store_true", help="adds the rounds to those that the file has")
    parser.add_argument("--show", action="store_true", help="the table of the file, nothing measured")
    parser.add_argument("--out", type=Path, default=HERE / "bench.json", help="the JSON file")
    parser.add_argument("--peers-dir", type=Path, default=HERE, help="where other clients are installed")
    options = parser.parse_args()
    options.requests, options.sizes = bench_client.REQUESTS, bench_lake.SIZES
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    if options.small:
        options.rounds = 1
    parts = kept(options.out)
    for name in [] if options.show else options.parts or PARTS:
        part = measured_part(name, f"python benchmarks/bench.py {name}", PARTS[name], options)
        parts[name] = with_rounds(parts[name], part) if options.add and name in parts else part
        keep(options.out, parts)
    shown = [parts[name] for name in PARTS if name in parts]
    print(table(shown))
    say(f"written to {options.out}")
    return int(any(figure.is_missed for part in shown for figure in part.figures))


if __name__ == "__main__":
    sys.exit(main())
