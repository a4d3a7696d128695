"""`r2 feedback`: what people say of a run's answers, into the lake. Figures on stdout, complaints on stderr. Needs no
Prefect."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import options
from flows.cli.console import figures, results, say
from flows.cli.options import INPUT, flag

if TYPE_CHECKING:  # not when the command starts: --help need not wait for Arrow and DuckDB
    from storage.runs.feedback import BroughtIn
    from storage.sources.verdicts import Complaint

SHOWN = 20
"""Rows of one kind that are named."""


def feedback(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSONL, CSV, TSV or Parquet with the columns id and right (true, false, 1, 0, right or wrong), and "
            "optional by and note."
        ),
    ],
    lake: options.ReadLake = options.DEFAULT_LAKE,
    run: Annotated[
        str | None,
        flag(
            INPUT,
            "--run",
            metavar="ID",
            help="Run whose answers are judged, or its beginning.",
            default="the newest of r2 answer",
        ),
    ] = None,
    by: Annotated[
        str,
        flag(INPUT, "--by", metavar="NAME", help="Who gave the verdicts of rows that name nobody.", default="nobody"),
    ] = "",
) -> None:
    """Bring in what people say of a run's answers: right or wrong.

    Of one person the newest verdict counts. The same file twice changes nothing.
    Training a scorer reads answers with feedback as judged ones. The view
    judged_accuracy shows how right each run is, by checks and people together.

    Exit code 1 if rows could not be taken.

    Examples:

        r2 feedback verdicts.csv --by anna
        r2 feedback verdicts.csv --run r2-0a1b2c3d4e5f
    """
    from storage.runs.feedback import bring_in
    from storage.sql.query import write_database

    if run is None:
        from storage.runs.feedback import newest_answered

        run = newest_answered(lake)
        say(f"r2: no run is named: the newest, {run}")
    done = bring_in(lake, file, run, by)
    write_database(lake)
    _say(file, "not taken", done.not_taken)
    _say(file, "taken", done.notices)
    if done.contested:
        say(f"Persons contradict each other about {_some(done.contested)}: r2 sql --view feedback_verdicts")
    table = figures(f"{file}: feedback on run {done.run_id}")
    for name, figure in _figures(done):
        table.add_row(name, figure)
    results().print(table)
    if done.not_taken:
        raise typer.Exit(1)


def _figures(done: "BroughtIn") -> Iterator[tuple[str, str]]:
    yield "rows", str(done.n_rows)
    yield "taken", str(done.n_taken)
    yield "said before", str(done.n_known)
    yield "not taken", str(len(done.not_taken))
    yield "contradict the person's earlier verdict", str(len(done.notices))
    yield "questions that persons judge differently", str(len(done.contested))


def _say(file: Path, what: str, complaints: "Sequence[Complaint]") -> None:
    for one in complaints[:SHOWN]:
        say(f"{file}, line {one.line}: {what}: {one.message}")
    if len(complaints) > SHOWN:
        say(f"{file}: {what}: {len(complaints) - SHOWN} more")


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return ", ".join(f"{one!r:.80}" for one in ids[:3]) + more
