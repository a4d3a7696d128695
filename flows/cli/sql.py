"""`r2 sql`: questions to the lake. Results on stdout, messages on stderr. Needs no Prefect."""

import os
import shutil
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
    """Ask the lake in SQL, read-only. Without a query, list its tables and views.

    docs/data_dictionary.md has every column.

    Examples:

        r2 sql
        r2 sql "select model, count(*) from subtasks group by 1"
        r2 sql --view cost_by_model --format csv --out cost.csv
    """
    from storage.sql.output import Reader
    from storage.sql.query import all_of, run_sql, shipped_views

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if query is None and view is None and out is None:
        _list(width)
        return
    if (query is None) == (view is None):
        raise ConfigError(f"expected either a query or --view NAME. Views: {', '.join(shipped_views())}.")
    statement = query if query is not None else all_of(_known_view(view or ""))
    if out is None:
        try:
            reader = Reader(is_terminal=width is not None, width=width, keep_formulas=keep_formulas)
            run_sql(lake, statement, format, sys.stdout.buffer, reader)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # `| head` has seen enough; without a target, Python's own flush at exit fails again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    with replacing(out) as file:
        n_rows = run_sql(lake, statement, format, file, Reader(keep_formulas=keep_formulas))
    say(f"{out}: {n_rows} rows")


def _list(width: int | None) -> None:
    """Every table and view with what it says, a line each."""
    from storage.lake.schema import TABLES
    from storage.sql.columns import cut
    from storage.sql.query import meanings

    names = max(map(len, meanings()))
    for name, meaning in meanings().items():
        if name in (next(iter(TABLES)), "runs_latest"):
            print("Tables" if name in TABLES else "\nViews")
        line = f"  {name:{names}}  {' '.join(meaning.partition(';')[0].split()).rstrip('.')}"
        print(line if width is None else cut(line, width))
    print('\nShow one: r2 sql --view NAME. Its columns: r2 sql "describe NAME".')


def _known_view(name: str) -> str:
    from storage.lake.schema import TABLES
    from storage.sql.query import shipped_views

    known = [*shipped_views(), *TABLES]
    if name not in known:
        raise ConfigError(f"no view {name!r}. Views: {', '.join(known)}.")
    return name
