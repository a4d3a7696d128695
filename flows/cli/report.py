"""`r2 report`: an evaluation or a run as one HTML file that needs no network. The path goes to stdout."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds `report` to the command."""
    app.command(name="report")(report)


def report(
    run: Annotated[
        str | None,
        typer.Argument(help="Id of an evaluation or a run, or the beginning of one. [default: the newest evaluation]"),
    ] = None,
    lake: Annotated[Path, typer.Option(help="Folder of the trajectory lake.")] = Path("lake"),
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write. [default: LAKE/_reports/ID.html]")
    ] = None,
) -> None:
    """Write a report as one HTML file that opens offline: verdict, charts, cautions, and the worst cases with all their
    calls."""
    from storage.report import write_report

    print(write_report(lake, run, out))
