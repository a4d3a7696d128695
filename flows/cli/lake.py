"""`r2 lake ...`: upkeep of a lake, and recordings of its runs. Results on stdout, messages on stderr.

Needs no Prefect: upkeep by hand is the same calls that the scheduled flow `maintain_lake` makes.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.console import say
from r2.errors import ConfigError, RunLockedError

if TYPE_CHECKING:  # not when the command starts: --help need not wait for Arrow and DuckDB
    from storage.lake.lake import Lake

LakeOption = Annotated[Path, typer.Option("--lake", help="Folder of the trajectory lake.")]

lake_app = typer.Typer(help="Keep a lake fast and whole.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds `lake` to the command."""
    app.add_typer(lake_app, name="lake")


@lake_app.command()
def compact(
    run: Annotated[str | None, typer.Argument(help="Run id; all runs if left out.")] = None,
    lake: LakeOption = Path("lake"),
) -> None:
    """Rewrite a run's many small files as one per table. Runs that are being worked on are passed over."""
    from storage.sql.query import write_database

    store = _existing(lake)
    if run is not None and run not in store.manifest.run_ids():
        raise ConfigError(f"{lake} has no run {run!r}. Runs: {', '.join(store.manifest.run_ids()) or 'none'}.")
    for run_id in [run] if run is not None else store.manifest.run_ids():
        try:
            with store.run_lock(run_id):
                entry = store.compact(run_id)
        except RunLockedError as error:
            say(f"passed over: {error}")
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
    from storage.sql.query import write_database

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
    say(f"{lake}: sound")


@lake_app.command()
def record(
    run: Annotated[str, typer.Argument(help="Run id, or the id of an evaluation: all its calls, each once.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; gzipped if it ends in .gz.")],
    lake: LakeOption = Path("lake"),
) -> None:
    """Write a run's calls to a file that replays it without a model: `--pool recording:FILE`."""
    from storage.evaluations.recording import record_evaluation
    from storage.evaluations.store import is_evaluation
    from storage.runs.recording import record_run

    kept = _existing(lake)
    if is_evaluation(lake, run):
        n_calls = record_evaluation(kept, run, out)
        say(f"{out}: {n_calls} calls. Replay it with r2 evaluate --pool recording:{out}")
        return
    n_calls = record_run(kept, run, out)
    say(f"{out}: {n_calls} calls. Replay them with --pool recording:{out}")


@lake_app.command()
def refresh(lake: LakeOption = Path("lake")) -> None:
    """Rewrite lake.duckdb and lake.sql over the files that count now."""
    from storage.sql.query import write_database

    _existing(lake)
    print(write_database(lake))


def _existing(root: Path) -> "Lake":
    from storage.lake.lake import Lake

    if not (root / "_manifest").is_dir():
        raise ConfigError(f"{root}: no lake there. Name its folder with --lake; `r2 answer` creates one.")
    return Lake(root)
