"""`r2 pool ...`: fetch weights, check that every model answers, measure profiles, add an entry,
serve simulated models."""

import asyncio
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from flows.cli.console import results, say
from r2.errors import ConfigError, ModelFetchError, PoolFileError
from r2.pool.file.config import PoolConfig, endpoint_kind, load_pool

if TYPE_CHECKING:
    from r2.pool.calibrate import Calibration

pool_app = typer.Typer(help="Know the pool: fetch, check, calibrate, add, serve.", no_args_is_help=True)
PoolOption = Annotated[Path, typer.Option("--pool", help="Pool file.")]
ModelsOption = Annotated[Path, typer.Option("--models-dir", envvar="R2_MODELS_DIR", help="Folder of fetched weights.")]
DEFAULT_POOL = Path("pools/local.toml")
DEFAULT_MODELS = Path("models")


def register(app: typer.Typer) -> None:
    app.add_typer(pool_app, name="pool")


@pool_app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Catalogue names; none: those of the pool file.")] = None,
    pool: PoolOption = DEFAULT_POOL,
    models_dir: ModelsOption = DEFAULT_MODELS,
    allow_unpinned: Annotated[
        bool, typer.Option(help="Take the hub's file although this catalogue has no sha256 for it.")
    ] = False,
) -> None:
    """Download and check the weights of local models; what is there is not downloaded again."""
    wanted = names or local_names(load_pool(pool))
    if failed := fetch_all(wanted, models_dir, allow_unpinned=allow_unpinned):
        raise ModelFetchError("\n".join(failed))


def local_names(pool: PoolConfig) -> list[str]:
    """Catalogue names of the weights that the pool's `local:` entries and its policies' adapters need, each once."""
    from r2.pool.servers.fetch import catalogue
    from r2.pool.servers.local import is_weights_file

    targets = [m.endpoint.partition(":")[2] for m in pool.models.values() if endpoint_kind(m.endpoint) == "local"]
    bases = [policy.catalogue_name for policy in pool.policies.values() if policy.is_adapter]
    wanted = [name for name in targets if not is_weights_file(name)] + [name for name in bases if name in catalogue()]
    return list(dict.fromkeys(wanted))


def fetch_all(names: list[str], models_dir: Path, *, allow_unpinned: bool = False) -> list[str]:
    """Fetches one after the other with a progress bar on stderr; returns what went wrong, so that one that is gone does
    not stop the rest."""
    from r2.pool.servers.fetch import fetch as fetch_one
    from r2.pool.servers.fetch import find_weights, is_fetched

    console = Console(stderr=True)
    failed: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for name in names:
            weights = find_weights(name)
            if is_fetched(weights, models_dir):
                console.print(f"{name}: there already ({weights.bytes / 1e6:.0f} MB)")
                continue
            bar = progress.add_task(name, total=weights.bytes)

            def report(_: str, had: int, total: int, bar: "int" = bar) -> None:
                progress.update(bar, completed=had, total=total)  # type: ignore[arg-type]

            try:
                path = fetch_one(weights, models_dir, allow_unpinned=allow_unpinned, report=report)
                console.print(f"{name}: {weights.bytes / 1e6:.0f} MB, sha256 checked -> {path}")
            except ModelFetchError as error:
                failed.append(str(error))
    return failed


@pool_app.command()
def check(pool: PoolOption = DEFAULT_POOL, models_dir: ModelsOption = DEFAULT_MODELS) -> None:
    """Ask every model one small thing; print price, latency, limits. Exit code 1 if one does not answer."""
    from r2.pool.calibrate import Ping, ping_pool

    config = load_pool(pool)
    config.check_keys()
    pings: list[Ping] = asyncio.run(ping_pool(config, models_dir, state_dir()))
    table = Table(title=str(pool), title_justify="left")
    for heading in ("model", "tier", "answers", "served by"):
        table.add_column(heading)
    for heading in ("s", "USD/M in", "USD/M out", "req/min", "tok/min", "in flight"):
        table.add_column(heading, justify="right")
    for ping in pings:
        price, (_, limits) = config.price(ping.model), config.limits_of(ping.model)
        table.add_row(
            ping.model,
            config.models[ping.model].tier,
            "yes" if ping.error is None else "NO",
            ping.response_model,
            f"{ping.latency_s:.2f}",
            f"{price.input:g}",
            f"{price.output:g}",
            f"{limits.max_requests_per_minute or '-'}",
            f"{limits.max_tokens_per_minute or '-'}",
            str(limits.max_in_flight),
        )
    results().print(table)
    failed = [ping for ping in pings if ping.error is not None]
    for ping in failed:
        say(f"{ping.model}: {ping.error}")
    raise typer.Exit(1 if failed else 0)


@pool_app.command()
def calibrate(
    pool: PoolOption = DEFAULT_POOL,
    models_dir: ModelsOption = DEFAULT_MODELS,
    n: Annotated[int, typer.Option("--n", help="Questions per skill.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the generated questions.")] = 0,
    core_hour_usd: Annotated[
        float,
        typer.Option(help="What an hour of one core is worth: local prices follow from it and the measured speed."),
    ] = 0.05,
    write: Annotated[
        bool, typer.Option("--write", help="Write the profiles (and local prices) into the pool file.")
    ] = False,
    skill: Annotated[list[str] | None, typer.Option(help="Measure this skill only. Repeatable. [default: all]")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Measure this entry only. Repeatable. [default: all]")] = None,
) -> None:
    """Measure each model's accuracy per skill on generated questions; with --write, keep it as its profile."""
    from r2.pool.calibrate import calibrate_pool, write_profiles

    config = load_pool(pool)
    if model:
        for name in model:
            config.roster().require(name)
        config = config.only(model)
    config.check_keys()
    measured = asyncio.run(calibrate_pool(config, models_dir, state_dir(), n, seed, skill or (), say))
    _print_measured(f"{pool}, {n} questions per skill", measured, n, core_hour_usd)
    if write:
        write_profiles(config, measured, n, core_hour_usd)
        say(f"profiles written to {pool}")


def _print_measured(title: str, measured: "Sequence[Calibration]", n: int, core_hour_usd: float) -> None:
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
        table.add_row(
            m.model,
            *(f"{right}/{n}" for right in m.right_by_skill.values()),
            f"{m.seconds_per_call:.2f}",
            f"{m.input_tokens_per_s:.0f}",
            f"{m.output_tokens_per_s:.1f}",
            f"{price_in:.3f}",
            f"{price_out:.3f}",
            f"{m.cost_usd:.6f}",
        )
    results().print(table)


@pool_app.command()
def add(
    pool: Annotated[Path, typer.Argument(help="Pool file.")],
    name: Annotated[str, typer.Argument(help="Name of the new entry.")],
    endpoint: Annotated[
        str,
        typer.Option(help="policy:NAME[@VERSION], policy:FOLDER, local:NAME, local:FILE.gguf, or http(s)://host/v1."),
    ],
    tier: Annotated[str, typer.Option(help="small, medium or large.")],
    prompt_mode: Annotated[
        str | None, typer.Option(help="direct, cot or bare. [default: the policy's own, else direct]")
    ] = None,
    price_input: Annotated[float | None, typer.Option(min=0, help="USD per million prompt tokens.")] = None,
    price_output: Annotated[float | None, typer.Option(min=0, help="USD per million generated tokens.")] = None,
    price_source: Annotated[str, typer.Option(help="Where the price was read.")] = "given to r2 pool add",
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure price (of what this machine computes) and profile, as calibrate.")
    ] = False,
    skill: Annotated[
        list[str] | None,
        typer.Option(help="NAME=ACCURACY for the profile; with --measure, NAME alone measures that skill. Repeatable."),
    ] = None,
    router_only: Annotated[
        bool, typer.Option("--router-only", help="The entry decomposes or allocates, and is given no subtasks.")
    ] = False,
    context_tokens: Annotated[int, typer.Option(min=256, help="Context of the entry's server.")] = 2048,
    max_in_flight: Annotated[int | None, typer.Option(min=1, help="[default: 4 for llama.cpp, else 64]")] = None,
    served_model: Annotated[str, typer.Option(help="The model field sent to a URL. [default: the entry's name]")] = "",
    api_key_env: Annotated[str | None, typer.Option(help="Name of the variable that holds the key.")] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="With --measure: questions per skill.")] = 20,
    seed: Annotated[int, typer.Option(help="With --measure: of the questions.")] = 0,
    core_hour_usd: Annotated[float, typer.Option(help="With --measure: what an hour of one core is worth.")] = 0.05,
    models_dir: ModelsOption = DEFAULT_MODELS,
    policies_dir: Annotated[Path, typer.Option(envvar="R2_POLICIES_DIR", help="The policy registry.")] = Path(
        "policies"
    ),
) -> None:
    """Write a new entry into a pool file, with its price and profile. Comments stay; a file that would not be good is
    not written."""
    from r2.policies.registry import Registry
    from r2.pool.calibrate import SERVED_HERE, calibrate_pool, write_profiles
    from r2.pool.file.new_entry import adding
    from r2.pool.servers.local import SLOTS

    kind = endpoint_kind(endpoint)
    given, asked = _skills(skill or [], may_measure=measure)
    is_priced = price_input is not None and price_output is not None
    if not is_priced and not (measure and kind in SERVED_HERE):
        raise ConfigError(
            (
                f"{name}: a model without a price would make every total wrong. Give --price-input and --price-output "
                "(USD per million tokens)"
            )
            + (
                ", or --measure."
                if kind in SERVED_HERE
                else f"; --measure prices {' and '.join(SERVED_HERE)} entries only."
            )
        )
    is_embedded = kind == "local"
    if kind == "policy":
        policy = Registry(policies_dir).load(endpoint.partition(":")[2])
        prompt_mode = prompt_mode or policy.card.prompt_mode
        is_embedded = policy.is_adapter
    entry: dict[str, Any] = {
        "endpoint": endpoint,
        "served_model": served_model,
        "tier": tier,
        "prompt_mode": prompt_mode or "direct",
        "price_usd_per_mtok": {
            "input": price_input or 0.0,
            "output": price_output or 0.0,
            "date": date.today().isoformat(),
            "source": price_source,
        },
        "api_key_env": api_key_env,
        "context_tokens": context_tokens,
        "max_in_flight": max_in_flight or (SLOTS if is_embedded else 64),
        "logprobs": kind in SERVED_HERE,
        "solver": not router_only,
        "profile": given,
    }
    kept = {
        key: value for key, value in entry.items() if value not in ("", None, {}) and (key, value) != ("solver", True)
    }
    with adding(pool, name, kept, policies_dir) as config:
        if measure:
            config.check_keys()
            alone = config.only([name])
            measured = asyncio.run(calibrate_pool(alone, models_dir, state_dir(), n, seed, asked, say))
            _print_measured(f"{name}, {n} questions per skill", measured, n, core_hour_usd)
            write_profiles(alone, measured, n, core_hour_usd, with_prices=not is_priced)
    say(f"{name} added to {pool}")


def _skills(texts: list[str], *, may_measure: bool) -> tuple[dict[str, float], list[str]]:
    """NAME=ACCURACY pairs, and names alone."""
    given: dict[str, float] = {}
    asked: list[str] = []
    for text in texts:
        name, mark, value = text.partition("=")
        try:
            if mark:
                given[name] = float(value)
                continue
        except ValueError:
            raise ConfigError(f"--skill {text}: expected NAME=ACCURACY with an accuracy of 0 to 1.") from None
        if not may_measure:
            raise ConfigError(f"--skill {text}: expected NAME=ACCURACY; a name alone is measured, with --measure.")
        asked.append(name)
    return given, asked


@pool_app.command()
def serve(
    pool: PoolOption = Path("pools/simulated.toml"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one and prints it.")] = 8100,
    seed: Annotated[int, typer.Option(help="Seed of the simulated answers.")] = 0,
    time_scale: Annotated[float, typer.Option(min=0, help="Stretches every delay; 0 answers as fast as it can.")] = 1.0,
    log: Annotated[Path | None, typer.Option(help="One JSON line per request goes here.")] = None,
) -> None:
    """Serve a pool file's simulated models over HTTP until interrupted. Statistics at /stats."""
    from r2.pool.simulated.process import serve as serve_simulated
    from r2.pool.simulated.server import Conditions

    config = load_pool(pool)
    if not any(endpoint_kind(m.endpoint) == "simulated" for m in config.models.values()):
        raise PoolFileError(f'{pool}: no model has endpoint = "simulated:NAME"; there is nothing to serve')
    serve_simulated(config, host=host, port=port, conditions=Conditions(seed=seed, time_scale=time_scale), log_path=log)


def state_dir() -> Path:
    """See tasks/answering/session.py: the same folder, so that pings count against the same limits."""
    from r2.pool.client.state import state_dir as shared_state_dir

    return shared_state_dir()


def fetch_for_pool(pool: str, models_dir: Path) -> None:
    """Fetches what a pool file needs; ModelFetchError with the fallback if something cannot be had."""
    if failed := fetch_all(local_names(load_pool(pool)), models_dir):
        raise ModelFetchError(
            "\n".join(failed)
            + (
                "\nsmollm2-135m-instruct can stand alone: copy the pool file, keep its entries only, and give it with "
                "--pool."
            )
        )
