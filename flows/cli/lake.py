"""`r2 sql` and `r2 lake ...`: questions to the lake, and its upkeep. Results on stdout, messages on stderr.

Needs no Prefect: upkeep by hand is the same calls that the scheduled flow `maintain_lake` makes.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from r2.errors import ConfigError, RunLockedError
from storage.lake.lake import Lake
from storage.lake.schema import TABLES
from storage.runs.recording import record_run
from storage.sql.query import run_sql, shipped_views, write_database

LakeOption = Annotated[Path, typer.Option("--lake", help="Folder of the trajectory lake.")]

lake_app = typer.Typer(help="Keep a lake fast and whole.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds `sql` and `lake` to the command."""
    app.command(name="sql")(sql_command)
    app.add_typer(lake_app, name="lake")


def sql_command(
    query: Annotated[str | None, typer.Argument(help="One SELECT-like statement; leave it out with --view.")] = None,
    lake: LakeOption = Path("lake"),
    view: Annotated[str | None, typer.Option(help="Show a whole view or table instead of a query.")] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="table, csv, json or parquet.")] = "table",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to a file instead of stdout.")] = None,
) -> None:
    """Ask the lake in SQL, read-only. Tables: runs, trajectories, subtasks, calls, candidates; docs/data_dictionary.md
    has every column."""
    if (query is None) == (view is None):
        raise ConfigError(f"expected either a query or --view NAME. Views: {', '.join(shipped_views())}.")
    sql = query if query is not None else f"from {_known_view(view or '')}"
    if out is None:
        try:
            run_sql(lake, sql, format, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # `| head` has seen enough; without a target, Python's own flush at exit fails again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        with temporary.open("wb") as file:
            n_rows = run_sql(lake, sql, format, file)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    _say(f"{out}: {n_rows} rows")


@lake_app.command()
def compact(
    run: Annotated[str | None, typer.Argument(help="Run id; all runs if left out.")] = None,
    lake: LakeOption = Path("lake"),
) -> None:
    """Rewrite a run's many small files as one per table. Runs that are being worked on are passed over."""
    store = _existing(lake)
    if run is not None and run not in store.manifest.run_ids():
        raise ConfigError(f"{lake} has no run {run!r}. Runs: {', '.join(store.manifest.run_ids()) or 'none'}.")
    for run_id in [run] if run is not None else store.manifest.run_ids():
        try:
            with store.run_lock(run_id):
                entry = store.compact(run_id)
        except RunLockedError as error:
            _say(f"passed over: {error}")
            continue
        print(
            f"{run_id}: {sum(part.rows for part in entry.parts.values())} rows in {len(entry.parts)} files"
            if entry
            else f"{run_id}: nothing to do"
        )
    write_database(lake)


@lake_app.command()
def vacuum(
    older_than_hours: Annotated[
        float, typer.Option(min=0, help="Spare files younger than this: a query may have them open.")
    ] = 24.0,
    lake: LakeOption = Path("lake"),
) -> None:
    """Delete files that compactions replaced and crashes left behind."""
    deleted = _existing(lake).vacuum(older_than_hours)
    write_database(lake)
    print(f"{len(deleted)} files deleted")


@lake_app.command()
def verify(lake: LakeOption = Path("lake")) -> None:
    """Read every stored file with its checksums; exit 1 and name what is torn, changed, missing or foreign."""
    problems = _existing(lake).verify()
    for problem in problems:
        print(problem)
    if problems:
        raise typer.Exit(1)
    _say(f"{lake}: sound")


@lake_app.command()
def record(
    run: Annotated[str, typer.Argument(help="Run id, or the id of an evaluation: all its calls, each once.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; gzipped if it ends in .gz.")],
    lake: LakeOption = Path("lake"),
) -> None:
    """Write a run's calls to a file that replays it without a model: `--pool recording:FILE`."""
    # Here and not above: evaluations bring numpy, which no other command of this file needs.
    from storage.evaluations.recording import record_evaluation
    from storage.evaluations.store import is_evaluation

    kept = _existing(lake)
    if is_evaluation(lake, run):
        n_calls = record_evaluation(kept, run, out)
        _say(f"{out}: {n_calls} calls. Replay it with r2 evaluate --pool recording:{out}")
        return
    n_calls = record_run(kept, run, out)
    _say(f"{out}: {n_calls} calls. Replay them with --pool recording:{out}")


@lake_app.command()
def refresh(lake: LakeOption = Path("lake")) -> None:
    """Rewrite lake.duckdb and lake.sql over the files that count now."""
    _existing(lake)
    print(write_database(lake))


def _known_view(name: str) -> str:
    known = [*shipped_views(), *TABLES]
    if name not in known:
        raise ConfigError(f"no view {name!r}. Views: {', '.join(known)}.")
    return name


def _existing(root: Path) -> Lake:
    if not (root / "_manifest").is_dir():
        raise ConfigError(f"{root}: no lake there. Name its folder with --lake; `r2 answer` creates one.")
    return Lake(root)


def _say(message: str) -> None:
    sys.stderr.write(message + "\n")
