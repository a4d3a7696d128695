"""`r2 sql`: questions to the lake. Results on stdout, messages on stderr. Needs no Prefect."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli import options
from flows.cli.console import say
from flows.cli.options import INPUT, OUTPUT, flag
from r2.atomic import replacing
from r2.errors import ConfigError


def sql(
    query: Annotated[
        str | None, typer.Argument(help="One statement that reads. Or leave it out and give --view.")
    ] = None,
    lake: options.ReadLake = options.DEFAULT_LAKE,
    view: Annotated[
        str | None,
        flag(INPUT, "--view", metavar="NAME", help="A whole view or table instead of a query.", default="none"),
    ] = None,
    format: Annotated[
        str, flag(OUTPUT, "--format", "-f", metavar="NAME", help="Form of the rows: table, csv, json or parquet.")
    ] = "table",
    keep_formulas: Annotated[
        bool,
        flag(
            OUTPUT,
            "--keep-formulas",
            help="In csv, leave texts that a spreadsheet would compute as they are: they begin with =, +, -, @ and are "
            "no numbers. Without it an apostrophe goes before them.",
        ),
    ] = False,
    out: Annotated[Path | None, options.out(default="stdout")] = None,
) -> None:
    """Ask the lake in SQL, read-only.

    Tables: runs, trajectories, subtasks, calls, candidates.
    docs/data_dictionary.md has every column and view.

    Examples:

        r2 sql "select model, count(*) from subtasks group by 1"
        r2 sql --view cost_by_model --format csv --out cost.csv
    """
    from storage.sql.output import Reader
    from storage.sql.query import run_sql, shipped_views

    if (query is None) == (view is None):
        raise ConfigError(f"expected either a query or --view NAME. Views: {', '.join(shipped_views())}.")
    statement = query if query is not None else f"from {_known_view(view or '')}"
    if out is None:
        try:
            reader = Reader(is_terminal=sys.stdout.isatty(), keep_formulas=keep_formulas)
            run_sql(lake, statement, format, sys.stdout.buffer, reader)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # `| head` has seen enough; without a target, Python's own flush at exit fails again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    with replacing(out) as file:
        n_rows = run_sql(lake, statement, format, file, Reader(keep_formulas=keep_formulas))
    say(f"{out}: {n_rows} rows")


def _known_view(name: str) -> str:
    from storage.lake.schema import TABLES
    from storage.sql.query import shipped_views

    known = [*shipped_views(), *TABLES]
    if name not in known:
        raise ConfigError(f"no view {name!r}. Views: {', '.join(known)}.")
    return name
