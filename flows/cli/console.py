"""How the commands print: results on stdout, as wide as the terminal and wide enough for a table where there is none;
messages on stderr."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from storage.lake.address import lake_folder
from storage.sql.visible import visible

if TYPE_CHECKING:  # not when the command starts: --help need not wait for them
    from r2.methods.estimate import CallEstimate
    from r2.pool.calibrate import Calibration
    from r2.pool.file.config import PoolConfig
    from r2.settings import AnswerSettings

WIDTH_IN_A_FILE = 140
STARTING = "r2: starting ..."


def results() -> Console:
    """For stdout. A pipe or a file has no width of its own."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_IN_A_FILE)


def say(message: str) -> None:
    """A message for the person at the terminal: one line on stderr. It may quote a server, a file or a model: what of
    it would steer the terminal is written out."""
    sys.stderr.write(visible(message) + "\n")


def starting() -> None:
    """Said at once by a command that works with models: what it loads and starts takes seconds."""
    sys.stderr.write(STARTING + "\n")


def say_columns(problems: Sequence[str]) -> None:
    """Which columns of the user's own files among these sources are taken for what, where their names differ from
    ours. InputFileError or ConfigError for a source that cannot be read; a file that is not there is passed over."""
    from storage.sources.own_file import own_files

    for file in own_files(problems):
        if file.path.is_file() and (said := file.told()):
            say(f"r2: {file.path}: {said}")


def figures(title: str) -> Table:
    """An empty table of names and figures: two columns, the second to the right."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    return table


def print_calls(pool: "PoolConfig", calls: "Sequence[CallEstimate]") -> None:
    """A dry run's calls with their totals, and the least time the pool file's limits allow them."""
    from r2.methods.estimate import minutes_by_limits
    from r2.methods.expected import RANGE

    table = Table()
    for heading in ("purpose", "model"):
        table.add_column(heading)
    for heading in ("calls", "input tokens", "output tokens", "USD"):
        table.add_column(heading, justify="right")
    by_quota: dict[str, list[int]] = {}
    for c in calls:
        table.add_row(
            c.purpose, c.model, str(c.n_calls), str(c.input_tokens), str(c.output_tokens), f"{c.cost_usd:.6f}"
        )
        totals = by_quota.setdefault(pool.limits_of(c.model)[0], [0, 0])
        totals[0] += c.n_calls
        totals[1] += c.input_tokens + c.output_tokens
    table.add_row(
        "total",
        "",
        str(sum(c.n_calls for c in calls)),
        str(sum(c.input_tokens for c in calls)),
        str(sum(c.output_tokens for c in calls)),
        f"{sum(c.cost_usd for c in calls):.6f}",
        style="bold",
    )
    results().print(table)
    usd = sum(c.cost_usd for c in calls)
    print(f"USD: about {usd:.6f}, likely between {usd * RANGE[0]:.6f} and {usd * RANGE[1]:.6f}")
    minutes = 0.0
    for c in calls:
        owner, limits = pool.limits_of(c.model)
        n_calls, n_tokens = by_quota[owner]
        minutes = max(
            minutes, minutes_by_limits(n_calls, n_tokens, limits.max_requests_per_minute, limits.max_tokens_per_minute)
        )
    print(
        f"time: at least {minutes:.1f} minutes by the limits of the pool file"
        if minutes
        else "time: the pool file sets no limit that bounds it"
    )
    _print_caps(pool, [c.model for c in calls])
    _say_days(pool)


def _say_days(pool: "PoolConfig") -> None:
    """What would stop the run before its first call, what will soon, and prices that are others by now."""
    from r2.pool.file.dated import ended
    from r2.pool.file.price_check import dated_warnings

    today = datetime.now(UTC).date()
    for line in ended(pool.models, today):
        say(f"The run would stop before its first call: {line}")
    for line in dated_warnings(pool, today):
        say(line)


def print_reusable(settings: "AnswerSettings", pool: "PoolConfig", questions: Iterable[str]) -> None:
    """How much of it earlier runs have paid for; nothing where that is nothing."""
    from r2.pool.file.identity import answering_digests
    from storage.runs.lineage import paid_runs
    from storage.runs.reusable import reusable

    root, path = lake_folder(settings.lake), str(Path(settings.input).resolve())
    runs = paid_runs(root, "", path, settings.reasoning.method, reuse=settings.reuse)
    prices = {name: pool.price(name) for name in pool.models}
    found = reusable(root, runs, answering_digests(pool), prices, questions)
    if found.n_calls:
        print(
            f"paid before: earlier runs have answers to about {found.n_calls} calls, worth {found.usd:.6f} USD today "
            f"({found.n_questions} of these questions). Requests that are the same are not paid again: take that off."
        )


def _print_caps(pool: "PoolConfig", models: "Sequence[str]") -> None:
    """What a money cap goes by: the limits that entries send of their own, and what happens to a bill beyond what was
    asked."""
    for name in dict.fromkeys(models):
        limit = pool.models[name].sent_output_limit
        if limit is not None:
            price = pool.price(name)
            print(
                f"{name} sends its own output limit, {limit} tokens: up to {limit * price.output / 1e6:.6f} USD a call"
            )
    print(
        "A money cap sets aside the most that each call may cost: a token per byte sent, and the whole output limit.\n"
        "Each entry gets one call at a time until one of its bills kept that bound. A bill above it closes the entry; "
        "only\nsuch bills, of calls that were on their way by then, can pass the cap."
    )


def print_measured(title: str, measured: "Sequence[Calibration]", n: int, core_hour_usd: float) -> None:
    """Accuracy per skill, speed, the prices that follow from an hour of a core, and what measuring cost."""
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for heading in (
        *measured[0].right_by_skill,
        "s per call",
        "tok/s in",
        "tok/s out",
        "USD/M in",
        "USD/M out",
        "USD spent",
    ):
        table.add_column(heading, justify="right")
    for m in measured:
        price_in, price_out = m.core_hour_price(core_hour_usd)
        speed = ["-"] * 5  # where nobody answered
        if m.input_tokens_per_s:
            speed = [f"{m.seconds_per_call:.2f}", f"{m.input_tokens_per_s:.0f}", f"{m.output_tokens_per_s:.1f}"]
            speed += [f"{price_in:.3f}", f"{price_out:.3f}"]
        table.add_row(
            m.model,
            *("not measured" if right is None else f"{right}/{n}" for right in m.right_by_skill.values()),
            *speed,
            f"{m.cost_usd:.6f}",
        )
    results().print(table)
