"""One part of the benchmark, measured and shown."""

import argparse
import sys

from benchmarks.figures import OURS, Measure, OtherWork, Part, facts_now, say, table, versions_of


def measured_part(name: str, command: str, measure: Measure, options: argparse.Namespace) -> Part:
    say(f"{name}: measures")
    part = Part(name, command, versions=versions_of(OURS), facts=facts_now())
    others = OtherWork()
    measure(part, options)
    part.facts["other_cores"] = round(others.cores(), 2)
    return part


def run_part(name: str, command: str, measure: Measure, options: argparse.Namespace) -> None:
    """For a module that is run alone: prints its table; exit code 1 where a bar is missed."""
    part = measured_part(name, command, measure, options)
    print(table([part]))
    sys.exit(any(figure.is_missed for figure in part.figures))
