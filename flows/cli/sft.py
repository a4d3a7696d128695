"""`r2 sft`: label sets or generated subtasks in, a policy in the registry out. Results on stdout, progress and errors
on stderr."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from flows.cli.console import figures, results, say


def register(app: typer.Typer) -> None:
    """Adds `sft` to the command."""
    app.command(name="sft")(sft)


def sft(
    policy: Annotated[
        str | None, typer.Option(help="decomposer, allocator, both, or specialist. [default: both]")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Folder that r2 label wrote, or several with commas between. [default: labels]")
    ] = None,
    problems: Annotated[
        str | None,
        typer.Option(
            help=(
                "A specialist is trained on the subtasks of these (scan, arithmetic); with --pool, a router is "
                "executed on these."
            )
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name in the registry. [default: decomposer, allocator, PROBLEMS-specialist]")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="smollm2, tiny, tiny:128x4, or a path or hub id of Hugging Face weights. [default: smollm2]"),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="Policy to go on from, NAME or NAME@VERSION, of the same base. [default: the base]"),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="adapter (LoRA) or full. [default: full for tiny, else adapter]")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps. [default: 260]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per step. [default: 4]")] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate. [default: 8e-4 for adapters, 3e-3 for tiny, else 5e-5]")
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="Pool file to execute held-out problems on. [default: they are not executed]")
    ] = None,
    out: Annotated[
        str | None, typer.Option(envvar="R2_POLICIES_DIR", help="The policy registry. [default: policies]")
    ] = None,
    lake: Annotated[str | None, typer.Option(help="Folder of the trajectory lake. [default: lake]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, problems and the order of rows.")] = None,
    split_seed: Annotated[int | None, typer.Option(help="Of the split into train and test, as in r2 label.")] = None,
    test_share: Annotated[float | None, typer.Option(help="Share that is held out. [default: 0.1]")] = None,
    held_out: Annotated[int | None, typer.Option(help="Held-out rows answered after training. [default: 60]")] = None,
    executed: Annotated[int | None, typer.Option(help="Held-out problems executed on --pool. [default: 40]")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: torch's choice]")] = None,
    promote: Annotated[
        bool | None, typer.Option("--promote", help="Promote the new version over the present one.")
    ] = None,
    data_dir: Annotated[str | None, typer.Option(envvar="R2_DATA_DIR", help="Folder of benchmark files.")] = None,
    models_dir: Annotated[
        str | None, typer.Option(envvar="R2_MODELS_DIR", help="Folder of fetched weights. [default: models]")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML with the same settings; flags override it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print rows, tokens, steps and time, and stop.")] = False,
) -> None:
    """Train a decomposer and an allocator on label sets, or a specialist on subtasks; the same command goes on where it
    stopped."""
    from r2.training.sft.settings import load_sft_settings

    settings = load_sft_settings(
        config,
        {
            "policy": policy,
            "labels": labels,
            "problems": problems,
            "name": name,
            "base": base,
            "start": start,
            "weights": weights,
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": lr,
            "pool": pool,
            "out": out,
            "lake": lake,
            "seed": seed,
            "split_seed": split_seed,
            "test_share": test_share,
            "n_held_out": held_out,
            "n_executed": executed,
            "threads": threads,
            "promote": promote,
            "data_dir": data_dir,
            "models_dir": models_dir,
        },
    )
    if dry_run:
        _print_estimate(settings)
        return
    from flows.support.embedded_api import embedded_api
    from flows.train_sft import train_sft

    with embedded_api():
        result = train_sft(settings)
    _print_result(result)


def _print_estimate(settings: Any) -> None:
    from r2.training.sft.estimate import estimate_sft
    from tasks.training.training_rows import training_rows

    table = Table()
    for heading in ("policy", "base", "weights"):
        table.add_column(heading)
    for heading in ("rows", "held out", "steps", "tokens a row", "tokens seen", "minutes"):
        table.add_column(heading, justify="right")
    for kind in settings.kinds:
        rows = training_rows(settings, kind)
        e = estimate_sft(rows.train, settings)
        table.add_row(
            settings.policy_name(kind),
            settings.base,
            "full" if settings.is_full else f"adapter, rank {settings.lora_rank}",
            str(len(rows.train)),
            str(len(rows.held_out)),
            str(settings.steps),
            f"{e.tokens_per_row:.0f}",
            str(e.tokens),
            f"{e.minutes:.1f}",
        )
    results().print(table)
    print("Minutes: without examination, by speeds measured on two CPU cores; other work on the machine adds to them.")


def _print_result(result: Any) -> None:
    """A table per policy, and where the weights are."""
    for trained in result.policies:
        card = trained.policy.card
        table = figures(f"{trained.policy.ref}, run {result.run_id}")
        for metric, value in card.metrics.items():
            table.add_row(metric, f"{value:.6g}")
        table.add_row("training seconds", f"{card.wall_s:.1f}")
        table.add_row("paid to the pool, USD", f"{card.cost_usd:.6f}")
        table.add_row("promoted", "yes" if trained.is_promoted else "no")
        results().print(table)
        print(trained.policy.path)
        if not trained.is_promoted:
            say(f"Promote it with: r2 policy promote {card.name} {card.version} --reason TEXT")
