"""`r2 grpo`: policies in, better policies out, in alternating rounds. Results on stdout, progress
and errors on stderr."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from flows.cli.console import results, say


def register(app: typer.Typer) -> None:
    """Adds `grpo` to the command."""
    app.command(name="grpo")(grpo)


def grpo(
    problems: Annotated[
        str | None,
        typer.Option(help="scan, arithmetic, gsm8k, file:PATH?check=NAME, ... with answers to be judged by."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds in all; more of them go on with the same training. [default: 2]")
    ] = None,
    decomposer: Annotated[
        str | None,
        typer.Option(
            help="Policy to start from, NAME[@VERSION], or a pool entry that stays as it is. [default: decomposer]"
        ),
    ] = None,
    allocator: Annotated[str | None, typer.Option(help="The same for the allocator. [default: allocator]")] = None,
    pool: Annotated[str | None, typer.Option(help="Pool file. [default: pools/local.toml]")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many problems.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="alternating, joint, sft_only or rejection. [default: alternating]")
    ] = None,
    first: Annotated[str | None, typer.Option(help="Who learns in round 0. [default: allocator]")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps a round. [default: 60]")] = None,
    group_size: Annotated[int | None, typer.Option(help="Rollouts per problem and step. [default: 8]")] = None,
    lam: Annotated[
        float | None, typer.Option("--lambda", help="Weight of cost in the reward; 0: the paper's. [default: 0.3]")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate. [default: 1e-5]")] = None,
    held_out: Annotated[int | None, typer.Option(help="At most so many held-out problems. [default: all]")] = None,
    test_share: Annotated[float | None, typer.Option(help="Share that is held out. [default: 0.1]")] = None,
    policies: Annotated[
        str | None,
        typer.Option("--policies-dir", envvar="R2_POLICIES_DIR", help="The policy registry. [default: policies]"),
    ] = None,
    lake: Annotated[str | None, typer.Option(help="Folder of the trajectory lake. [default: lake]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of problems, samples and the order of prompts.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: torch's choice]")] = None,
    max_cost_usd: Annotated[
        float | None, typer.Option(help="Hard cap of what the pool is paid, over all rounds.")
    ] = None,
    data_dir: Annotated[str | None, typer.Option(envvar="R2_DATA_DIR", help="Folder of benchmark files.")] = None,
    models_dir: Annotated[
        str | None, typer.Option(envvar="R2_MODELS_DIR", help="Folder of fetched weights. [default: models]")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML with the same settings; flags override it.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print rounds, rollouts, calls and USD at most, and stop.")
    ] = False,
) -> None:
    """Train the router by GRPO: one policy learns, the other is frozen, then the reverse. The same command goes on
    where it stopped."""
    from r2.training.grpo.settings import load_grpo_settings

    given: dict[str, Any] = {
        "problems": problems,
        "rounds": rounds,
        "decomposer": decomposer,
        "allocator": allocator,
        "pool": pool,
        "limit": limit,
        "mode": mode,
        "first": first,
        "steps": steps,
        "group_size": group_size,
        "lam": lam,
        "learning_rate": lr,
        "n_held_out": held_out,
        "test_share": test_share,
        "policies_dir": policies,
        "lake": lake,
        "seed": seed,
        "threads": threads,
        "max_cost_usd": max_cost_usd,
        "data_dir": data_dir,
        "models_dir": models_dir,
    }
    settings = load_grpo_settings(config, given)
    if dry_run:
        _print_estimate(settings)
        return
    from tasks.training.train_rounds import open_rounds

    open_rounds(settings)
    # Here and not above: importing the flow imports Prefect, seconds that --help and --dry-run need not wait for.
    from flows.support.embedded_api import embedded_api
    from flows.train_grpo import round_table, train_grpo

    with embedded_api():
        result = train_grpo(settings)
    _print_result(result, round_table(result.state))


def _print_estimate(settings: Any) -> None:
    """An upper bound: every call on the dearest solver, none of them equal to an earlier one."""
    from collections import Counter

    from r2.ledger import cost_usd, worst_case_usage
    from r2.methods.expected import SUBTASKS_PER_QUESTION
    from r2.pool.file.config import load_pool
    from r2.problem import Problem
    from r2.problems.split import split_of
    from r2.settings import Columns
    from storage.sources.problem_files import question_file
    from storage.sources.questions import read_questions

    pool = load_pool(settings.pool, settings.policies_dir)
    data_dir = Path(settings.data_dir) if settings.data_dir else None
    path, check = question_file(settings.problems, settings.limit, settings.seed, data_dir, Path(settings.lake))
    rows = [row for row in read_questions(path, Columns(), check, settings.limit) if isinstance(row, Problem)]
    sides = Counter(split_of(row.question, settings.split_seed, settings.test_share) for row in rows if row.target)
    n_held_out = min(sides["test"], settings.n_held_out or sides["test"])
    print(f"{len(rows)} problems of {settings.problems}: {sides['train']} to train on, {n_held_out} held out")
    dearest = pool.roster()[pool.roster().strongest]
    n_rounds = 0 if settings.mode == "sft_only" else settings.rounds
    n_training = n_rounds * settings.steps * settings.prompts_per_step * settings.group_size
    n_pilot = (
        0 if settings.filter.by == "nothing" else n_rounds * settings.filter.n_problems * settings.filter.n_rollouts
    )
    n_calls = (n_training + n_pilot) * SUBTASKS_PER_QUESTION
    usd = n_calls * cost_usd(dearest.price, worst_case_usage([("user", "x" * 800)], 64))
    print(
        f"{n_rounds} rounds of {settings.steps} steps: {n_training} rollouts, {n_pilot} in pilots, about "
        f"{n_calls:.0f} pool calls at most"
    )
    print(
        f"at most {usd:.4f} USD if all went to {dearest.name}; equal calls are paid once. --max-cost-usd sets a hard "
        "cap."
    )


def _print_result(result: Any, rows: list[dict[str, object]]) -> None:
    """A column per round, and which versions stand now."""
    table = Table(title=f"run {result.state.run_id}", title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(f"round {row['round']}", justify="right")
    for name in rows[0] if rows else ():
        if name != "round":
            table.add_row(
                name, *(f"{row[name]:.4f}" if isinstance(row[name], float) else str(row[name]) for row in rows)
            )
    results().print(table)
    print(f"decomposer {result.state.current['decomposer']}, allocator {result.state.current['allocator']}")
    say("Rollouts, rewards and curves: r2 sql --view training_curve, reward_terms, promotions")
