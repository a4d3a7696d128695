"""`r2 pool init`: the first pool file, for the keys that are set. `r2 pool prices`: its prices against today's list."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flows.cli import options
from flows.cli.console import results, say
from flows.cli.options import OUTPUT, POOL, flag
from flows.cli.pool_add import STARTED
from r2.atomic import check_file, write_atomically
from r2.errors import ConfigError
from r2.shipped.place import found


def init(
    pool: Annotated[Path, typer.Argument(metavar="POOL.toml", help="Where the pool file is written.")] = Path(STARTED),
    provider: Annotated[
        list[str] | None,
        flag(
            POOL,
            "--provider",
            metavar="NAME",
            help="A provider of the catalogue, such as openai. Repeatable.",
            default="all whose keys are set",
        ),
    ] = None,
    copy_of: Annotated[
        Path | None,
        flag(
            POOL,
            "--copy-of",
            metavar="FILE",
            help="A pool file to copy, such as pools/local.toml. No key is needed.",
            default="none: the catalogue's models",
        ),
    ] = None,
) -> None:
    """Write a pool file for the providers whose keys are set, or a copy of one that is there.

    Three tiers of models per provider, with prices, limits and abilities from the catalogue. Keys are named by their
    variables and never written. Where the variable is set in which a vendor's own SDK looks for another address
    (OPENAI_BASE_URL, ANTHROPIC_BASE_URL, GOOGLE_GEMINI_BASE_URL), that address is written. A file that is there is
    never overwritten.

    Examples:

        r2 pool init
        r2 pool init claude.toml --provider anthropic
        r2 pool init mine.toml --copy-of pools/local.toml
    """
    from r2.pool.file.config import load_pool
    from r2.pool.file.dated import ending
    from r2.pool.file.starter import starter_pool

    if pool.exists():
        raise ConfigError(f"{pool}: is there already, and is left as it is. Give another name, or `r2 pool add` to it.")
    check_file(pool, "POOL.toml")
    if copy_of is not None:
        if provider:
            raise ConfigError(f"--copy-of {copy_of}: the copy has its own models. Leave --provider out.")
        n_models = len(load_pool(copy_of).models)
        write_atomically(pool, found(copy_of).read_bytes())
        print(f"{pool}: {n_models} models, a copy of {copy_of}. Next: r2 pool add {pool} NAME")
        return
    today = datetime.now(UTC).date()
    write_atomically(pool, starter_pool(os.environ, today, provider or ()).encode())
    try:
        config = load_pool(pool)
    except ConfigError:
        pool.unlink()
        raise
    table = Table(title=str(pool), title_justify="left")
    for heading in ("model", "tier", "key"):
        table.add_column(heading)
    for heading in ("USD/M in", "USD/M out", "context"):
        table.add_column(heading, justify="right")
    for heading in ("logprobs", "price as of"):
        table.add_column(heading)
    for name, model in config.models.items():
        price = model.price_usd_per_mtok
        table.add_row(
            name,
            model.tier,
            f"${model.api_key_env}",
            f"{price.input:g}",
            f"{price.output:g}",
            str(model.context_tokens),
            "yes" if model.logprobs else "-",
            price.date,
        )
    results().print(table)
    for warning in ending(config.models, today):
        say(warning)
    print(f"{config.router.decomposer} decomposes and allocates. Next: r2 answer QUESTIONS --pool {pool}")


def prices(
    pool: Annotated[str, options.pool(STARTED)] = STARTED,
    check: Annotated[
        bool, flag(OUTPUT, "--check", help="End with exit code 1 where a price of the file is not the list's any more.")
    ] = False,
    write: Annotated[
        bool,
        flag(OUTPUT, "--write", help="Write what was found into the pool file. The list's prices of such entries."),
    ] = False,
) -> None:
    """Compare the prices of a pool file with those of the installed price list.

    Both come with their day. Prices written by hand are shown and not compared.

    Examples:

        r2 pool prices --pool pool.toml --check
        r2 pool prices --pool pool.toml --write
    """
    from r2.pool.file.config import load_pool
    from r2.pool.file.dated import ended, ending
    from r2.pool.file.price_check import check_prices, take_prices
    from r2.pool.file.published_prices import PACKAGE, release

    today = datetime.now(UTC).date()
    config = load_pool(pool)
    checks = check_prices(config, today)
    table = Table(title=f"{pool} against {PACKAGE} {release()}", title_justify="left")
    table.add_column("model")
    for heading in ("USD/M in", "USD/M out"):
        table.add_column(heading, justify="right")
    for heading in ("as of", "against the list"):
        table.add_column(heading)
    for one in checks:
        said = one.why if one.changes is None else "; ".join(one.changes) or "the same"
        table.add_row(one.entry, f"{one.price.input:g}", f"{one.price.output:g}", one.price.date, said)
    results().print(table)
    for line in [*ended(config.models, today), *ending(config.models, today)]:
        say(line)
    n_changed = sum(bool(one.changes) for one in checks)
    if write:
        n_written = take_prices(Path(pool), checks)
        say(f"{n_written} prices written to {pool}" if n_written else "Nothing to write.")
        raise typer.Exit(1 if n_written < n_changed else 0)
    if n_changed:
        say(f"{n_changed} of {len(checks)} prices differ: --write takes the list's. The file is what is billed.")
    raise typer.Exit(1 if check and n_changed else 0)
