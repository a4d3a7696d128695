"""`r2 report`: an evaluation or a run as one HTML file that needs no network. The path goes to stdout."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import options
from flows.cli.console import say


def report(
    run: Annotated[
        str | None,
        typer.Argument(help="Id of an evaluation or a run, or its beginning. Left out: the newest."),
    ] = None,
    lake: options.ReadLake = options.DEFAULT_LAKE,
    out: Annotated[Path | None, options.out(default="LAKE/_reports/ID.html")] = None,
) -> None:
    """Write a report as one HTML file that opens offline.

    It has the verdict, charts, cautions, and the worst cases with all their calls.

    Examples:

        r2 report
        r2 report evaluation-3f2a --lake lake --out report.html
    """
    from storage.report import resolve, write_report

    if run is None:
        run = resolve(lake, None)
        say(f"r2: no run is named: the newest, {run}")
    print(write_report(lake, run, out))
