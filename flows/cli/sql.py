"""`r2 sql`: questions to the lake. Results on stdout, messages on stderr. Needs no Prefect."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.console import say
from flows.cli.lake import LakeOption
from r2.atomic import replacing
from r2.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Adds `sql` to the command."""
    app.command(name="sql")(sql)


def sql(
    query: Annotated[str | None, typer.Argument(help="One SELECT-like statement; leave it out with --view.")] = None,
    lake: LakeOption = Path("lake"),
    view: Annotated[str | None, typer.Option(help="Show a whole view or table instead of a query.")] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="table, csv, json or parquet.")] = "table",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to a file instead of stdout.")] = None,
) -> None:
    """Ask the lake in SQL, read-only. Tables: runs, trajectories, subtasks, calls, candidates; docs/data_dictionary.md
    has every column."""
    from storage.sql.query import run_sql, shipped_views

    if (query is None) == (view is None):
        raise ConfigError(f"expected either a query or --view NAME. Views: {', '.join(shipped_views())}.")
    statement = query if query is not None else f"from {_known_view(view or '')}"
    if out is None:
        try:
            run_sql(lake, statement, format, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # `| head` has seen enough; without a target, Python's own flush at exit fails again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    with replacing(out) as file:
        n_rows = run_sql(lake, statement, format, file)
    say(f"{out}: {n_rows} rows")


def _known_view(name: str) -> str:
    from storage.lake.schema import TABLES
    from storage.sql.query import shipped_views

    known = [*shipped_views(), *TABLES]
    if name not in known:
        raise ConfigError(f"no view {name!r}. Views: {', '.join(known)}.")
    return name
