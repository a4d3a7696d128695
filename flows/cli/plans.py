"""`r2 plans`: a decomposer's plans beside the gold plans of benchmarks, in one table."""

from typing import Annotated

import typer
from rich.table import Table

from flows.cli import options
from flows.cli.console import results, say
from flows.cli.options import ROUTER, flag
from r2.errors import ConfigError
from r2.problems.benchmark import gold_plan_names


def plans(
    problems: options.Problems = None,
    limit: Annotated[int, options.limit("100")] = 100,
    seed: options.PlainSeed = 0,
    data_dir: options.PlainDataDir = None,
    pool: options.PlainPool = options.DEFAULT_POOL,
    models_dir: options.PlainModelsDir = options.DEFAULT_MODELS,
    decomposer: options.Decomposer = None,
    plan_tokens: Annotated[
        int, flag(ROUTER, "--plan-tokens", metavar="N", help="Output limit of a plan, in tokens.")
    ] = 200,
    dry_run: options.DryRun = False,
    max_cost_usd: options.MaxCostUsd = None,
    lake: options.PlainLake = options.DEFAULT_LAKE,
) -> None:
    """Compare a decomposer's plans with gold plans: step count, coverage, order, coherence.

    A source without gold plans is refused, with the names of those that have them.
    Plans are kept in the lake and paid once. Past the cap a question counts as
    without a plan.

    Examples:

        r2 plans --problems scan --limit 50
        r2 plans --problems musique:musique.jsonl --problems gsm8k:gsm8k.jsonl --decomposer qwen-0.5b
    """
    import uvloop

    from r2.labelling.gold_comparison import GoldComparison, Mean, compare
    from r2.pool.file.config import load_pool
    from r2.problems.source import parse_source
    from storage.sources.problem_files import gold_plans_of
    from tasks.labelling.ask_plans import ask_plans, price_of_plans

    if not problems:
        raise ConfigError(f"--problems: name at least one source with gold plans: {', '.join(gold_plan_names())}.")
    if limit < 1:
        raise ConfigError(f"--limit {limit}: expected at least 1.")
    config = load_pool(pool)
    name = decomposer or config.router.decomposer
    config.roster().require(name)
    sources = {text: list(gold_plans_of(parse_source(text), limit, seed, data_dir)) for text in problems}
    if empty := [text for text, found in sources.items() if not found]:
        raise ConfigError(f"--problems {', '.join(empty)}: no question with a gold plan.")
    everything = [pair for found in sources.values() for pair in found]
    about_usd, most_usd = price_of_plans(config, name, everything, plan_tokens)
    said = f"{len(everything)} plans of {name}: about {about_usd:.6f} USD, at most {most_usd:.6f} USD"
    if dry_run:
        print(said)
        return
    config.check_keys()
    say(said)
    answered, cost_usd, n_failed = uvloop.run(
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
