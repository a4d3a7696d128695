"""`r2 evaluate --outcomes`: methods played on recorded answers. Results on stdout, progress on stderr."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.cli import options
from flows.cli.console import results, say, starting
from r2.errors import ConfigError
from r2.settings import MODELS_DIR
from storage.lake.address import lake_folder
from storage.lake.stores import check_lake

if TYPE_CHECKING:  # not when the command starts: --help need not wait for numpy
    from r2.evaluation.comparison import Estimate
    from r2.evaluation.recorded.comparison import RecordedComparison, RecordedScope

TABLE_WIDTH = 220
TAKEN = ("outcomes", "test", "methods", "seeds", "folds", "lake", "dry_run", "models_dir")
"""Flags of `r2 evaluate` that mean something here."""


def evaluate_recorded(given: Mapping[str, Any]) -> int:
    """Plays, prints and keeps the comparison that the flags ask for; the exit code. ConfigError for a flag that has no
    meaning here."""
    outcomes, test = given["outcomes"] or [], given["test"] or []
    if not outcomes:
        raise ConfigError("--test: recorded answers to test on need --outcomes, recorded answers to fit on.")
    other = [name for name, value in given.items() if name not in (*TAKEN, "data_dir") and value not in (None, False)]
    if other:
        flag = "--" + other[0].replace("_", "-")
        raise ConfigError(f"{flag}: has no meaning with --outcomes, which asks no model. Leave one of the two out.")
    names = options.names_of(given["methods"]) or ()
    further = {f"n_{name}": given[name] for name in ("seeds", "folds") if given[name] is not None}
    if few := [name for name, value in further.items() if value < 1]:
        raise ConfigError(f"--{few[0].removeprefix('n_')} {further[few[0]]}: expected at least 1.")
    if test and "n_folds" in further:
        raise ConfigError("--folds: has no meaning with --test, which is played once. Leave one of the two out.")
    lake = lake_folder(given["lake"] or options.DEFAULT_LAKE)
    starting()
    # Here and not above: --help need not wait for it.
    from storage.evaluations.recorded import keep_recorded, recorded_id
    from storage.evaluations.recorded_jobs import KeptJobs
    from storage.sources.outcome_tables import read_outcome_tables
    from tasks.evaluation.play_recorded import play_recorded

    if given["dry_run"]:
        for what, paths in (("--outcomes", outcomes), ("--test", test)):
            if paths:
                table = read_outcome_tables(paths).table
                print(f"{what}: {table.n_problems} questions, {len(table.models)} models; no call is made")
        return 0
    check_lake(lake)
    models_dir = Path(given["models_dir"] or MODELS_DIR)
    comparison_id = recorded_id(outcomes, test, names, **further)
    kept = KeptJobs(lake, comparison_id)
    comparison = play_recorded(outcomes, test, names, say, models_dir=models_dir, kept=kept, **further)
    path = keep_recorded(lake, comparison_id, comparison)
    kept.finished()
    print_recorded(comparison)
    print(path)
    return 0


def print_recorded(comparison: "RecordedComparison") -> None:
    """Two tables for each scope, what cannot be told from them, and where a rule wins."""
    from r2.evaluation.recorded.comparison import against_the_rule, where_a_rule_wins

    console = results()
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    how = f"fitted on {comparison.n_fitted} questions of --outcomes, played once on --test"
    if comparison.n_folds:
        how = f"cross-fitted by question, {comparison.n_folds} folds"
    if comparison.n_folds == 1:
        how = "fitted on the other half of the questions, played once"
    for scope in comparison.scopes:
        console.print(_accuracy_table(scope, how))
        console.print(_utility_table(scope))
        if scope.starts:
            console.print(_starts_table(scope))
    print("Brackets: 95 % intervals, paired by question. Operating points are chosen on rows that are not played: the")
    print("cheapest that is as right there as the best constant, or as the agreement cascade. saved*: against the most")
    print("accurate constant (1), - where its accuracy is not reached. (2): the cheapest constant within")
    print(f"{100 * comparison.margin:g} points of it. Both are picked on the rows shown, which favours them.")
    for name, why in comparison.not_played.items():
        print(f"{name} is not in this table: {why}")
    for scope in comparison.scopes:
        for sentence in (*against_the_rule(scope), *where_a_rule_wins(scope)):
            print(sentence)
    print(f"{comparison.wall_s:.0f} s, no call was made")


def _accuracy_table(scope: "RecordedScope", how: str) -> Table:
    from r2.evaluation.recorded.comparison import main_rows

    table = Table(
        title=f"{scope.name}: {scope.n_questions} questions, {how}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
    )
    for heading in ("row", "as right as"):
        table.add_column(heading, no_wrap=True)
    for heading in (
        "accuracy",
        "USD per 1k",
        "saved*",
        "calls",
        "vs cascade, points",
        "vs cascade, saved",
        "most asked",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in main_rows(scope):
        marks = [number for number, name in ((1, scope.best_constant), (2, scope.cheap_constant)) if name == row.method]
        against = row.against_cascade
        top = next(iter(row.model_shares.items()), None)
        table.add_row(
            row.method + "".join(f" ({number})" for number in marks),
            _short(row.aim),
            f"{row.accuracy.value:.2%} {_spread(row.accuracy, 100, '.0f')}",
            f"{row.usd_per_1k.value:.4g} {_spread(row.usd_per_1k, 1, '.3g')}",
            _percent(row.saved_at_equal_accuracy),
            f"{row.calls_per_question:.2f}",
            "" if against is None else f"{100 * against.accuracy.value:+.2f} {_spread(against.accuracy, 100, '+.1f')}",
            "" if against is None else _percent(against.cost_saved),
            "" if top is None or row.kind == "constant" else f"{top[0]} {top[1]:.0%}",
        )
    table.add_row("oracle", "hindsight", f"{scope.oracle_accuracy:.2%}", f"{scope.oracle_usd_per_1k:.4g}", *[""] * 5)
    return table


def _utility_table(scope: "RecordedScope") -> Table:
    """Utility at each price, against the agreement cascade that was chosen for the same price."""
    table = Table(
        title=f"{scope.name}: utility v * right - cost, USD per 1k, v in multiples of {1000 * scope.cost_ref_usd:.4g} "
        "USD per 1k; and what is gained on the agreement cascade chosen for this v",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
    )
    table.add_column("row", no_wrap=True)
    prices = list(dict.fromkeys(price for row in scope.rows for price in row.utility))
    for price in prices:
        for heading in (f"v = {price}", "accuracy", "USD", "gain"):
            table.add_column(heading, justify="right", no_wrap=True)
    constants = {scope.best_constant, scope.cheap_constant}
    names = list(dict.fromkeys(row.method for row in scope.rows))
    for name in names:
        rows = [row for row in scope.rows if row.method == name]
        if rows[0].kind == "constant" and len(rows) == 1 and name not in constants:
            continue
        cells = []
        for price in prices:
            of_price = [row for row in rows if price in row.utility]
            row = min(of_price, key=lambda one: len(one.utility))  # the row chosen for this price, where there is one
            gain = row.utility_gain.get(price)
            cells += [
                f"{row.utility[price].value:.2f}",
                f"{row.accuracy.value:.2%}",
                f"{row.usd_per_1k.value:.3g}",
                "" if gain is None else f"{gain.value:+.2f} {_spread(gain, 1, '+.2f')}",
            ]
        table.add_row(name, *cells)
    return table


def _starts_table(scope: "RecordedScope") -> Table:
    """Every trained row against what it was before, at the same aim."""
    table = Table(
        title=f"{scope.name}: against their own start, at the operating point that each of the two chooses for the aim",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
    )
    for heading in ("row", "its start", "aim"):
        table.add_column(heading, no_wrap=True)
    for heading in ("accuracy", "USD per 1k", "points gained", "saved", "utility gained, USD per 1k"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in scope.starts:
        [gain] = one.utility_gain.values() or [None]
        points = one.gained.accuracy
        table.add_row(
            one.method + (f", mean of {one.seeds} seeds" if one.seeds > 1 else ""),
            one.start,
            _short(one.aim),
            f"{one.accuracy.value:.2%}",
            f"{one.usd_per_1k.value:.4g}",
            f"{100 * points.value:+.2f} {_spread(points, 100, '+.2f')}",
            _percent(one.gained.cost_saved),
            "" if gain is None else f"{gain.value:+.3f} {_spread(gain, 1, '+.3f')}",
        )
    return table


def _short(aim: str) -> str:
    return aim.removeprefix("as right as the best ").replace("agreement ", "")


def _percent(estimate: "Estimate | None") -> str:
    return "-" if estimate is None else f"{estimate.value:.1%} {_spread(estimate, 100, '.0f')}"


def _spread(estimate: "Estimate", factor: float, form: str) -> str:
    interval = estimate.interval
    if interval is None:
        return ""
    return f"\\[{factor * interval.low:{form}}, {factor * interval.high:{form}}]"
