"""`r2 pool ...`: fetch weights, check that every model answers, measure profiles, serve simulated models."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from flows.console import results
from r2.errors import ModelFetchError, PoolFileError
from r2.pool.config import PoolConfig, endpoint_kind, load_pool

pool_app = typer.Typer(help="Know the pool: fetch, check, calibrate, serve.", no_args_is_help=True)
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
    """Catalogue names of the pool's `local:` entries, each once."""
    return list(
        dict.fromkeys(
            m.endpoint.partition(":")[2] for m in pool.models.values() if endpoint_kind(m.endpoint) == "local"
        )
    )


def fetch_all(names: list[str], models_dir: Path, *, allow_unpinned: bool = False) -> list[str]:
    """Fetches one after the other with a progress bar on stderr; returns what went wrong, so that one that is gone does not stop the rest."""
    from r2.pool.fetch import fetch as fetch_one
    from r2.pool.fetch import find_weights, is_fetched

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
            ping.model, config.models[ping.model].tier, "yes" if ping.error is None else "NO", ping.response_model, f"{ping.latency_s:.2f}",
            f"{price.input:g}", f"{price.output:g}", f"{limits.max_requests_per_minute or '-'}", f"{limits.max_tokens_per_minute or '-'}",
            str(limits.max_in_flight),
        )  # fmt: skip
    results().print(table)
    failed = [ping for ping in pings if ping.error is not None]
    for ping in failed:
        typer.echo(f"{ping.model}: {ping.error}", err=True)
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
) -> None:
    """Measure each model's accuracy per skill on generated questions; with --write, keep it as its profile."""
    from r2.pool.calibrate import calibrate_pool, write_profiles

    config = load_pool(pool)
    config.check_keys()
    measured = asyncio.run(calibrate_pool(config, models_dir, state_dir(), n, seed))
    table = Table(title=f"{pool}, {n} questions per skill", title_justify="left")
    table.add_column("model")
    skills = list(measured[0].right_by_skill)
    for heading in (*skills, "s per call", "tok/s in", "tok/s out", "USD/M in", "USD/M out", "USD spent"):
        table.add_column(heading, justify="right")
    for m in measured:
        price_in, price_out = m.core_hour_price(core_hour_usd)
        table.add_row(
            m.model, *(f"{right}/{n}" for right in m.right_by_skill.values()), f"{m.seconds_per_call:.2f}", f"{m.input_tokens_per_s:.0f}",
            f"{m.output_tokens_per_s:.1f}", f"{price_in:.3f}", f"{price_out:.3f}", f"{m.cost_usd:.6f}",
        )  # fmt: skip
    results().print(table)
    if write:
        write_profiles(config, measured, n, core_hour_usd)
        typer.echo(f"profiles written to {pool}", err=True)


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
    from r2.pool.simulated import serve as serve_simulated
    from r2.pool.simulated_server import Conditions

    config = load_pool(pool)
    if not any(endpoint_kind(m.endpoint) == "simulated" for m in config.models.values()):
        raise PoolFileError(f'{pool}: no model has endpoint = "simulated:NAME"; there is nothing to serve')
    serve_simulated(config, host=host, port=port, conditions=Conditions(seed=seed, time_scale=time_scale), log_path=log)


def state_dir() -> Path:
    """See tasks/session.py: the same folder, so that pings count against the same limits."""
    from tasks.session import state_dir as shared_state_dir

    return shared_state_dir()


def fetch_for_pool(pool: str, models_dir: Path) -> None:
    """Fetches what a pool file needs; ModelFetchError with the fallback if something cannot be had."""
    if failed := fetch_all(local_names(load_pool(pool)), models_dir):
        raise ModelFetchError(
            "\n".join(failed)
            + "\nsmollm2-135m-instruct can stand alone: copy the pool file, keep its entries only, and give it with --pool."
        )
