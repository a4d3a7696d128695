"""`r2 rescore`: a stored run or evaluation under other prices, today's parser and today's checks, without a call."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.cli import options
from flows.cli.console import results
from flows.cli.options import INPUT, MONEY, flag
from r2.errors import ConfigError
from storage.lake.address import named

if TYPE_CHECKING:  # not when the command starts: --help need not wait for numpy
    from storage.evaluations.rescore import RescoredRow

SHOWN = 20
"""Changed rows that are listed; all of them are in the file."""


def rescore(
    name: Annotated[str, typer.Argument(help="Run id, or the id of an evaluation.")],
    lake: options.ReadLake = options.DEFAULT_LAKE,
    parser: Annotated[
        bool,
        flag(
            INPUT, "--parser/--no-parser", help="Read the answers anew from the stored texts, or keep them as stored."
        ),
    ] = True,
    prices: Annotated[
        str | None,
        flag(MONEY, "--prices", metavar="FILE", help="Pool file whose prices are charged.", default="as stored"),
    ] = None,
    check: options.Check = None,
    lambda_usd: Annotated[
        float,
        flag(MONEY, "--lambda-usd", metavar="WEIGHT", help="What a USD takes off the utility of a problem."),
    ] = 0.0,
    lambda_s: Annotated[
        float,
        flag(MONEY, "--lambda-s", metavar="WEIGHT", help="What a second takes off the utility of a problem."),
    ] = 0.0,
) -> None:
    """Score stored answers again, without a call.

    Costs under another price table, answers by today's parser and check, or by a
    check of your own. Old rows stay as they are.

    Examples:

        r2 rescore evaluation-3f2a --prices pools/hosted.example.toml
        r2 rescore r2-0a1b2c3d4e5f --no-parser --lambda-usd 10
        r2 rescore r2-0a1b2c3d4e5f --check grade.py:ok
    """
    from r2.pool.file.config import load_pool
    from r2.problems.benchmark import result_in
    from r2.problems.own_check import is_judge, own_checks
    from r2.settings import Reasoning
    from storage.evaluations.rescore import rescore as score_again
    from storage.lake.lake import Lake

    if not Lake(lake).exists():
        raise ConfigError(f"{named(lake)}: no lake there. Name its folder with --lake.")
    if is_judge(check):
        raise ConfigError(
            f"--check {check}: a judge is a model, and rescore asks none. Give it to r2 answer or r2 evaluate, or give "
            "FILE.py:FUNCTION, regex:PATTERN, json-equal or exact."
        )
    own_check, _ = own_checks(Reasoning(check=check))
    done = score_again(
        Lake(lake),
        name,
        prices=None if prices is None else load_pool(prices).roster(),
        parser=result_in if parser else None,
        check=own_check,
        lambda_usd=lambda_usd,
        lambda_s=lambda_s,
    )
    if not done.rows:
        raise ConfigError(f"{name}: no settled problem to score again in {lake}.")
    results().print(_totals(name, done.rows))
    changed = done.changed()
    if changed:
        results().print(_changes(changed))
    if done.old is not None and done.new is not None:
        from r2.evaluation.verdict import verdict

        table = Table(title="rows of the evaluation, before and after", title_justify="left")
        for heading in ("row", "accuracy", "now", "USD per 1k", "now"):
            table.add_column(heading, justify="left" if heading == "row" else "right")
        for old in done.old.methods:
            new = done.new[old.label]
            table.add_row(
                old.label,
                f"{old.accuracy.value:.1%}",
                f"{new.accuracy.value:.1%}",
                f"{old.usd_per_1k.value:.4g}",
                f"{new.usd_per_1k.value:.4g}",
            )
        results().print(table)
        if done.new.subject is not None:
            print(verdict(done.new))
    print(done.path)


def _totals(name: str, rows: "tuple[RescoredRow, ...]") -> Table:
    table = Table(title=f"{name}: {len(rows)} trajectories", title_justify="left")
    for heading in ("", "stored", "now"):
        table.add_column(heading, justify="right" if heading else "left")
    before, after = zip(*((r.old_is_correct, r.is_correct) for r in rows), strict=True)
    table.add_row("right", *(f"{flags.count(True)}/{len(flags) - flags.count(None)}" for flags in (before, after)))
    table.add_row("USD", f"{sum(r.old_cost_usd for r in rows):.6f}", f"{sum(r.cost_usd for r in rows):.6f}")
    table.add_row(
        "  of it router",
        f"{sum(r.old_router_cost_usd for r in rows):.6f}",
        f"{sum(r.router_cost_usd for r in rows):.6f}",
    )
    table.add_row(
        "mean utility",
        f"{sum(r.old_utility for r in rows) / len(rows):.4f}",
        f"{sum(r.utility for r in rows) / len(rows):.4f}",
    )
    if n_unjudged := sum(row.check_error is not None for row in rows):
        table.add_row("answers the check failed on", "", str(n_unjudged))
    table.add_row("changed answers or judgements", "", str(sum(row.is_changed for row in rows)))
    return table


def _changes(rows: "list[RescoredRow]") -> Table:
    title = "changed" if len(rows) <= SHOWN else f"changed, the first {SHOWN} of {len(rows)}"
    table = Table(title=title, title_justify="left")
    for heading in ("run", "problem", "answer", "now", "right", "now"):
        table.add_column(heading)
    for row in rows[:SHOWN]:
        table.add_row(
            row.run_id,
            row.problem_id,
            (row.old_answer or "-")[:40],
            (row.answer or "-")[:40],
            str(row.old_is_correct),
            str(row.is_correct),
        )
    return table
