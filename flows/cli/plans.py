"""`r2 plans`: a decomposer's plans beside the gold plans of benchmarks, in one table."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flows.cli.console import results, say
from r2.errors import ConfigError
from r2.problems.benchmark import gold_plan_names


def register(app: typer.Typer) -> None:
    """Adds `plans` to the command."""
    app.command(name="plans")(plans)


def plans(
    problems: Annotated[
        list[str],
        typer.Option(help=f"Sources with gold plans: {', '.join(gold_plan_names())}, or NAME:FILE. Repeatable."),
    ],
    pool: Annotated[str, typer.Option(help="Pool file.")] = "pools/local.toml",
    decomposer: Annotated[
        str | None, typer.Option(help="Pool entry that decomposes. [default: the pool file's]")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Questions per source.")] = 100,
    seed: Annotated[int, typer.Option(help="Of generated problems.")] = 0,
    lake: Annotated[Path, typer.Option(help="Where the plans that were paid for are kept.")] = Path("lake"),
    plan_tokens: Annotated[int, typer.Option(help="Output limit of a plan.")] = 200,
    max_cost_usd: Annotated[
        float | None, typer.Option(help="Hard cap; what is not asked then counts as no plan.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(envvar="R2_DATA_DIR", help="Folder of benchmark files.")] = None,
    models_dir: Annotated[Path, typer.Option(envvar="R2_MODELS_DIR", help="Folder of fetched weights.")] = Path(
        "models"
    ),
) -> None:
    """Compare a decomposer's plans with gold plans: step count, coverage, order, coherence. Plans paid for once are not
    paid again."""
    from r2.labelling.gold_comparison import GoldComparison, Mean, compare
    from r2.pool.file.config import load_pool
    from r2.problems.source import parse_source
    from storage.sources.problem_files import gold_plans_of
    from tasks.labelling.ask_plans import ask_plans

    config = load_pool(pool)
    config.check_keys()
    name = decomposer or config.router.decomposer
    config.roster().require(name)
    sources = {text: list(gold_plans_of(parse_source(text), limit, seed, data_dir)) for text in problems}
    if empty := [text for text, found in sources.items() if not found]:
        raise ConfigError(f"--problems {', '.join(empty)}: no question with a gold plan.")
    everything = [pair for found in sources.values() for pair in found]
    answered, cost_usd, n_failed = asyncio.run(
        ask_plans(
            config, name, everything, lake / "_plans", models_dir, plan_tokens=plan_tokens, max_cost_usd=max_cost_usd
        )
    )

    def shown(mean: Mean) -> str:
        return (
            "-" if not mean.n else f"{mean.value:.2f}" if mean.n == 1 else f"{mean.value:.2f} ± {mean.half_width:.2f}"
        )

    compared: dict[str, GoldComparison] = {}
    at = 0
    for text, found in sources.items():
        compared[text] = compare(answered[at : at + len(found)])
        at += len(found)
    table = Table(title=f"plans of {name} beside gold plans (mean ± 95 % half width)", title_justify="left")
    table.add_column("")
    for text in compared:
        table.add_column(text, justify="right")
    lines: list[tuple[str, list[str]]] = [
        ("questions", [str(c.n) for c in compared.values()]),
        ("a plan was read", [f"{c.n_parsed / c.n:.0%}" for c in compared.values()]),
        ("  of it direct", [f"{c.n_direct / max(1, c.n_parsed):.0%}" for c in compared.values()]),
        ("gold plans read back unchanged", [f"{c.round_trip.value:.0%}" for c in compared.values()]),
        ("steps, gold", [shown(c.gold_steps) for c in compared.values()]),
        ("steps, plan", [shown(c.steps) for c in compared.values()]),
        ("step count error", [shown(c.step_error) for c in compared.values()]),
        ("  absolute", [shown(c.absolute_step_error) for c in compared.values()]),
        ("coverage of gold steps", [shown(c.coverage) for c in compared.values()]),
        ("order kept", [shown(c.order) for c in compared.values()]),
        ("coherence score, gold", [shown(c.gold_coherence) for c in compared.values()]),
        ("coherence score, plan", [shown(c.coherence) for c in compared.values()]),
    ]
    for line, cells in lines:
        table.add_row(line, *cells)
    results().print(table)
    print(f"{len(answered)} plans, {cost_usd:.6f} USD")
    if n_failed:
        say(f"{n_failed} calls gave no plan (failed or past the budget); the same command asks them again.")
        raise typer.Exit(1)
