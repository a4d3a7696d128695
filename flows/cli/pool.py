"""`r2 pool ...`: fetch weights, check that every model answers, measure profiles, serve simulated models. `add` is
flows/cli/pool_add.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from flows.cli import options
from flows.cli.console import print_measured, results, say
from flows.cli.options import OUTPUT, POOL, flag
from flows.support.terminal import this_command
from r2.errors import ModelFetchError, PoolFileError
from r2.pool.file.config import PoolConfig, endpoint_kind, load_pool
from r2.shipped.place import refuse_shipped

if TYPE_CHECKING:
    from r2.pool.check import Checked


def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names in the catalogue. Left out: those of the pool file.")
    ] = None,
    pool: options.PlainPool = options.DEFAULT_POOL,
    models_dir: options.PlainModelsDir = options.DEFAULT_MODELS,
    allow_unpinned: Annotated[
        bool,
        flag(POOL, "--allow-unpinned", help="Take the hub's file although this catalogue has no sha256 for it."),
    ] = False,
) -> None:
    """Download and check the weights of local models.

    What is there already is not downloaded again.

    Examples:

        r2 pool fetch
        r2 pool fetch smollm2-135m-instruct --models-dir models
    """
    wanted = names or local_names(load_pool(pool))
    if failed := fetch_all(wanted, models_dir, allow_unpinned=allow_unpinned):
        raise ModelFetchError("\n".join(failed))


def local_names(pool: PoolConfig) -> list[str]:
    """Catalogue names of the weights that the pool's `local:` and `vllm:` entries and its policies' adapters need, each
    once."""
    from r2.pool.servers.fetch import catalogue
    from r2.pool.servers.local import is_weights_file

    targets = [m.endpoint.partition(":")[2] for m in pool.models.values() if endpoint_kind(m.endpoint) == "local"]
    vllm = [m.vllm_target for m in pool.models.values() if m.vllm_target is not None]
    bases = [policy.catalogue_name for policy in pool.policies.values() if policy.is_adapter]
    wanted = [name for name in targets if not is_weights_file(name)]
    wanted += [name for name in (*vllm, *bases) if name in catalogue()]
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


def check(
    pool: options.PlainPool = options.DEFAULT_POOL,
    models_dir: options.PlainModelsDir = options.DEFAULT_MODELS,
    dry_run: options.DryRun = False,
) -> None:
    """Ask every model once for what routing needs: text, log-probabilities, JSON.

    What it costs is printed first. The table has what works, the price, the latency and the limits: those of the pool
    file and those that the provider names. Exit code 1 if a model gives no text, or not what its table promises.

    Examples:

        r2 pool check --pool pools/local.toml
        r2 pool check --pool my_pool.toml --dry-run
    """
    import asyncio

    from r2.pool.check import check_pool, price_of_check

    config = load_pool(pool)
    n_calls, about_usd, most_usd = price_of_check(config)
    said = f"{len(config.models)} models, {n_calls} calls: about {about_usd:.6f} USD, at most {most_usd:.6f} USD"
    if dry_run:
        print(f"{pool}: {said}")
        return
    config.check_keys()
    say(f"{pool}: {said}")
    found = asyncio.run(check_pool(config, models_dir, state_dir()))
    print_checked(pool, config, found)
    broken = [said for one in found for said in unkept(one)]
    for line in broken:
        say(line)
    raise typer.Exit(1 if broken else 0)


def print_checked(title: str, config: PoolConfig, found: "Sequence[Checked]") -> None:
    """The table of a check, and what it cost."""
    table = Table(title=title, title_justify="left")
    for heading in ("model", "tier", "text", "logprobs", "JSON", "left out", "served by"):
        table.add_column(heading)
    for heading in ("s", "USD/M in", "USD/M out", "req/min", "theirs", "tok/min", "theirs", "in flight"):
        table.add_column(heading, justify="right")
    word = {None: "-", True: "yes", False: "NO"}
    for one in found:
        price, (_, limits) = config.price(one.model), config.limits_of(one.model)
        table.add_row(
            one.model,
            config.models[one.model].tier,
            word[one.error is None],
            word[one.has_logprobs],
            word[one.has_schema],
            ", ".join(one.left_out) or "-",
            one.response_model,
            f"{one.latency_s:.2f}",
            f"{price.input:g}",
            f"{price.output:g}",
            _or_dash(limits.max_requests_per_minute),
            _or_dash(one.limits.requests_per_minute),
            _or_dash(limits.max_tokens_per_minute),
            _or_dash(one.limits.tokens_per_minute),
            str(limits.max_in_flight),
        )
    results().print(table)
    print(f"cost of this check: {sum(one.cost_usd for one in found):.6f} USD")


def _or_dash(limit: float | None) -> str:
    return "-" if limit is None else f"{limit:.0f}"


def unkept(one: "Checked") -> list[str]:
    """What a model does not do, a line each, with what to change."""
    if one.error is not None:
        return [f"{one.model}: {one.error}"]
    lines = []
    if one.has_logprobs is False:
        lines.append(
            f"{one.model}: its table says logprobs = true, and none came. Set logprobs = false, or have the server "
            "send them: --b and --min-confidence go by them."
        )
    if one.has_schema is False:
        lines.append(
            f"{one.model}: its table says guided = true, and what came does not fit the schema. Set guided = false, or "
            "have the server guide its decoding."
        )
    return lines


def calibrate(
    seed: options.PlainSeed = 0,
    pool: options.PlainPool = options.DEFAULT_POOL,
    models_dir: options.PlainModelsDir = options.DEFAULT_MODELS,
    model: Annotated[
        list[str] | None,
        flag(POOL, "--model", metavar="NAME", help="A pool entry to ask. Repeatable.", default="all"),
    ] = None,
    skill: Annotated[
        list[str] | None,
        flag(POOL, "--skill", metavar="NAME", help="A skill to measure. Repeatable.", default="all"),
    ] = None,
    n: Annotated[int, flag(POOL, "--n", metavar="N", help="Questions per skill.", min=1)] = 20,
    dry_run: options.DryRun = False,
    max_cost_usd: options.MaxCostUsd = None,
    core_hour_usd: options.CoreHourUsd = 0.05,
    write: Annotated[
        bool,
        flag(
            OUTPUT,
            "--write",
            help="Write what was found into the pool file. The profiles, and the prices of local models.",
        ),
    ] = False,
) -> None:
    """Measure each model's accuracy per skill on generated questions.

    What it costs is printed first. With --write the accuracies are kept as its
    profile. A calibration that was stopped goes on with the same command and
    pays for no answer twice.

    Examples:

        r2 pool calibrate --pool pools/local.toml --n 8
        r2 pool calibrate --model qwen-1.5b --skill multiply --write
    """
    import asyncio

    from r2.pool.calibrate import price_of_calibration, write_profiles
    from tasks.evaluation.calibrate_once import calibrate_once

    config = load_pool(pool)
    if write:
        refuse_shipped(Path(pool))
    if model:
        for name in model:
            config.roster().require(name)
        config = config.only(model)
    n_calls, about_usd, most_usd = price_of_calibration(config, n, seed, skill or ())
    said = f"{len(config.models)} models, {n_calls} calls: about {about_usd:.6f} USD, at most {most_usd:.6f} USD"
    if dry_run:
        print(f"{pool}: {said}")
        return
    config.check_keys()
    say(f"{pool}: {said}")
    measured = asyncio.run(calibrate_once(config, models_dir, state_dir(), n, seed, skill or (), say, max_cost_usd))
    print_measured(f"{pool}, {n} questions per skill", measured, n, core_hour_usd)
    if write:
        write_profiles(config, measured, n, core_hour_usd)
        say(f"profiles written to {pool}")
    for m in measured:
        if m.why_unmeasured is not None:
            say(f"{m.model}: some skills were not measured, and keep their figures: {m.why_unmeasured}")
    if any(m.why_unmeasured is not None for m in measured):
        say(f"What was answered is kept. The same command goes on from there:\n  {this_command()}")
        raise typer.Exit(1)


def serve(
    seed: options.PlainSeed = 0,
    pool: Annotated[str, options.pool("pools/simulated.toml")] = "pools/simulated.toml",
    models_dir: options.PlainModelsDir = options.DEFAULT_MODELS,
    host: Annotated[str, flag(OUTPUT, "--host", metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, flag(OUTPUT, "--port", metavar="N", help="Port to listen on. 0 takes a free one and prints it.")
    ] = 8100,
    time_scale: Annotated[
        float,
        flag(
            OUTPUT,
            "--time-scale",
            metavar="FACTOR",
            help="Factor of every delay. 0 answers as fast as it can.",
            min=0,
        ),
    ] = 1.0,
    log: Annotated[
        Path | None,
        flag(OUTPUT, "--log", metavar="FILE", help="One JSON line per request is written here.", default="none"),
    ] = None,
) -> None:
    """Keep a pool file's vLLM servers running, or serve its simulated models over HTTP, until interrupted.

    With vllm: entries their servers are started and stay: every run of the pool file on this machine finds them, and
    loads its adapters into them. The flags below are then of no use. Otherwise the simulated models are served;
    statistics are at /stats.

    Examples:

        r2 pool serve --pool pools/simulated.toml --port 8100
        r2 pool serve --pool pools/vllm.toml
    """
    from r2.pool.simulated.process import serve as serve_simulated
    from r2.pool.simulated.server import Conditions

    config = load_pool(pool)
    if any(endpoint_kind(m.endpoint) == "vllm" for m in config.models.values()):
        import asyncio

        from r2.pool.servers.vllm_serving import serve_vllm

        asyncio.run(serve_vllm(config, models_dir=models_dir, state_dir=state_dir(), say=say))
        return
    if not any(endpoint_kind(m.endpoint) == "simulated" for m in config.models.values()):
        raise PoolFileError(f'{pool}: no model has endpoint = "simulated:NAME"; there is nothing to serve')
    serve_simulated(config, host=host, port=port, conditions=Conditions(seed=seed, time_scale=time_scale), log_path=log)


def state_dir() -> Path:
    """See tasks/answering/session.py: the same folder, so that pings count against the same limits."""
    from r2.pool.client.state import state_dir as shared_state_dir

    return shared_state_dir()


def fetch_for_pool(pool: str, models_dir: Path) -> None:
    """Fetches what a pool file needs; ModelFetchError, with what to use instead, if something cannot be fetched."""
    if failed := fetch_all(local_names(load_pool(pool)), models_dir):
        raise ModelFetchError(
            "\n".join(failed)
            + (
                "\nsmollm2-135m-instruct can stand alone: copy the pool file, keep its entries only, and give it with "
                "--pool."
            )
        )
