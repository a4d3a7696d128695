"""`r2 lake ...`: upkeep of a lake, and recordings of its runs. Results on stdout, messages on stderr.

Needs no Prefect: upkeep by hand is the same calls that the scheduled flow `maintain_lake` makes.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import options
from flows.cli.console import say
from flows.cli.options import INPUT, OUTPUT, flag
from r2.errors import ConfigError, RunLockedError
from storage.lake.address import named
from storage.sql.visible import visible

if TYPE_CHECKING:  # not when the command starts: --help need not wait for Arrow and DuckDB
    from storage.forgetting.forget import Forgotten
    from storage.lake.lake import Lake


def compact(
    run: Annotated[str | None, typer.Argument(help="Run id. Left out: all runs.")] = None,
    lake: options.ReadLake = options.DEFAULT_LAKE,
) -> None:
    """Rewrite a run's many small files as one per table, with the columns of today.

    Other programs see a run in its tables' folders from then on. Runs that are being worked on are left as they are.

    Example:

        r2 lake compact --lake lake
    """
    from storage.sql.query import write_database

    store = _existing(lake)
    if run is not None and run not in store.manifest.run_ids():
        raise ConfigError(f"{named(lake)} has no run {run!r}. Runs: {', '.join(store.manifest.run_ids()) or 'none'}.")
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


def vacuum(
    lake: options.ReadLake = options.DEFAULT_LAKE,
    older_than_hours: Annotated[
        float,
        flag(
            INPUT,
            "--older-than-hours",
            metavar="HOURS",
            help="Keep files younger than this: a query may have them open.",
            min=0,
        ),
    ] = 24.0,
) -> None:
    """Delete files that compactions replaced and crashes left behind.

    Example:

        r2 lake vacuum --older-than-hours 24
    """
    from storage.sql.query import write_database

    deleted = _existing(lake).vacuum(older_than_hours)
    write_database(lake)
    print(f"{len(deleted)} files deleted")


def verify(lake: options.ReadLake = options.DEFAULT_LAKE) -> None:
    """Read every stored file with its checksums, and name what is torn, changed, missing or foreign.

    Tables, and the plans, journals and results of runs and evaluations. Exit code 1 if anything is wrong. A file that
    no run ever named is said and is not wrong: nothing reads it, and `r2 lake vacuum` deletes it.

    Example:

        r2 lake verify
    """
    from storage.evaluations.verify import verify_lake

    kept = _existing(lake)
    for path in kept.unnamed():
        say(f"{path}: named by no run: a crash left it, or somebody put it there. It is not read.")
    if unseen := kept.unseen():
        runs = "1 run as it is" if len(unseen) == 1 else f"{len(unseen)} runs as they are"
        say(f"Other programs do not see {runs}, until `r2 lake compact`: {', '.join(unseen)}")
    problems = verify_lake(lake)
    for problem in problems:
        print(visible(problem))
    if problems:
        raise typer.Exit(1)
    say(f"{named(lake)}: sound")


def record(
    run: Annotated[str, typer.Argument(help="Run id, or the id of an evaluation: all its calls, each once.")],
    out: Annotated[Path, options.out("Gzipped if it ends in .gz.")],
    lake: options.ReadLake = options.DEFAULT_LAKE,
) -> None:
    """Write a run's calls to a file that replays it without a model.

    Example:

        r2 lake record EVALUATION --out calls.jsonl.gz

    Then `r2 evaluate --pool recording:calls.jsonl.gz` replays it.
    """
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


def export(
    out: Annotated[Path, options.out("A folder.", metavar="FOLDER")],
    run: Annotated[list[str] | None, typer.Argument(help="Run ids. Left out: all runs.")] = None,
    lake: options.ReadLake = options.DEFAULT_LAKE,
    format: Annotated[
        str,
        flag(
            OUTPUT,
            "--format",
            "-f",
            metavar="NAME",
            help="hf: a folder as the Hugging Face hub has data sets, with its card; parquet or jsonl: a file a table.",
        ),
    ] = "hf",
    tables: Annotated[
        str | None,
        flag(INPUT, "--tables", metavar="A,...", help="Tables.", default="trajectories,subtasks,calls,runs"),
    ] = None,
) -> None:
    """Write tables of the lake for others. The calls hold whole prompts: leave them out with --tables.

    Examples:

        r2 lake export --out dataset
        r2 lake export r2-0a1b2c3d4e5f --format jsonl --tables trajectories --out rows
    """
    from storage.runs.export import DEFAULT_TABLES
    from storage.runs.export import export as export_tables

    kept = _existing(lake)
    known = kept.manifest.run_ids()
    if missing := [run_id for run_id in run or () if run_id not in known]:
        raise ConfigError(f"{named(lake)} has no run {missing[0]!r}. Runs: {', '.join(known) or 'none'}.")
    written = export_tables(kept, run or known, options.names_of(tables) or DEFAULT_TABLES, format, out)
    for table, n_rows in written.items():
        print(f"{table}: {n_rows} rows")
    say(f"{out}: {len(written)} tables")


def refresh(lake: options.ReadLake = options.DEFAULT_LAKE) -> None:
    """Rewrite lake.duckdb and lake.sql over the files that count now.

    Example:

        r2 lake refresh --lake lake
    """
    from storage.sql.query import write_database

    if _existing(lake).store.is_remote:
        raise ConfigError(
            f"{named(lake)}: lake.duckdb and lake.sql are for a lake in a folder. Ask this one with r2 sql; other "
            "programs read its compacted runs in the bucket (docs/object_storage.md)."
        )
    print(write_database(lake))


def forget(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of the person's questions.")] = None,
    lake: options.ReadLake = options.DEFAULT_LAKE,
    ids_file: Annotated[
        Path | None, flag(INPUT, "--ids", metavar="FILE", help="A text file with further ids, one a line.")
    ] = None,
    run: Annotated[
        list[str] | None,
        flag(INPUT, "--in-run", metavar="ID", help="Only rows of this run. Repeatable.", default="all runs"),
    ] = None,
    also: Annotated[
        list[Path] | None,
        flag(
            INPUT,
            "--also",
            metavar="PATH",
            help="Further files or folders with their rows: questions, answers, recordings, label sets. Repeatable.",
            default="none",
        ),
    ] = None,
    search: Annotated[
        bool,
        flag(INPUT, "--search/--no-search", help="Read the whole lake at the end, for words that were missed."),
    ] = True,
    dry_run: options.DryRun = False,
    yes: Annotated[bool, flag(OUTPUT, "--yes", help="Do it without asking.")] = False,
) -> None:
    """Take every word of a person's questions out of a lake: tables, plans, journals, recordings.

    What they cost and how they ended stays, without a word, under the name
    forgotten-N, so that every account is what it was. It cannot be undone. Killed in
    the middle, the same command ends it. A run that is being worked on is refused.

    Exit code 1 if words of theirs are still in the lake: the files are named.

    Examples:

        r2 lake forget anna-17 anna-18 --dry-run
        r2 lake forget --ids ids.txt --also calls.jsonl.gz --also questions.jsonl --yes
    """
    from storage.forgetting.forget import forget as forget_in

    _existing(lake)
    wanted = dict.fromkeys([*(ids or ()), *_ids_in(ids_file)])
    if not wanted:
        raise ConfigError("Whose rows? No id is given. Name ids, or a file of ids with --ids.")
    files = also or []
    found = forget_in(lake, wanted, run or (), files, is_dry=True)
    if not found.found:
        print(f"{lake}: nothing of {len(wanted)} ids")
    elif not dry_run:
        _ask(lake, found, is_agreed=yes)
        found = forget_in(lake, wanted, run or (), files, searches=search)
    for what, place, n in found.found:
        print(visible(f"{what}: {n}  {place}"))
    for line in found.untouched:
        say(f"Not touched: {line}")
    if found.found and not dry_run:
        say(
            "What is no part of the lake was not looked at: backups, other copies, reports, logs, providers, and "
            "policies that were trained on the rows."
        )
    if found.still:
        for path in found.still:
            print(visible(f"still there: {path}"))
        for run_id, problem_id in found.others[:20]:
            say(f"Run {run_id} has the same words in {problem_id!r}: forget that too, with --in-run {run_id}")
        raise typer.Exit(1)


def _ids_in(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--ids {path}: cannot be read: {error}. Expected a text file with one id a line.") from None


def _ask(lake: Path, found: "Forgotten", *, is_agreed: bool) -> None:
    """ConfigError where nobody agrees, and nobody can be asked."""
    if is_agreed:
        return
    n = sum(n for _, _, n in found.found)
    if not sys.stdin.isatty():
        raise ConfigError(f"{lake}: {n} rows would go, for good. Look with --dry-run, then say --yes.")
    typer.confirm(f"{lake}: {n} rows go, for good. Forget them?", abort=True, err=True)


def _existing(root: Path) -> "Lake":
    from storage.lake.lake import Lake

    kept = Lake(root)
    if not kept.exists():
        raise ConfigError(f"{named(root)}: no lake there. Name its folder with --lake; `r2 answer` creates one.")
    return kept
