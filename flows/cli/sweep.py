"""`r2 policy sweep`: which `b` a budget or an accuracy asks for. Results on stdout, progress and errors on stderr."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.cli.console import results, say

if TYPE_CHECKING:  # not when the command starts: --help need not wait for numpy
    from r2.evaluation.sweep import Sweep


def sweep(
    problems: Annotated[
        list[str] | None, typer.Option(help="scan, arithmetic, gsm8k, file:PATH?check=NAME, ... Repeatable.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Pool file. [default: pools/local.toml]")] = None,
    limit: Annotated[int | None, typer.Option(help="Problems per source.")] = None,
    b: Annotated[
        str | None, typer.Option("--b", help="Comma-separated values. [default: 0,0.05,0.1,0.2,0.4,0.8]")
    ] = None,
    budget_usd_per_1k: Annotated[
        float | None, typer.Option(help="Advise the most accurate b at no more than this, USD per 1,000 problems.")
    ] = None,
    min_accuracy_share: Annotated[
        float | None, typer.Option(help="Advise the cheapest b with this share (0..1) of the reference accuracy.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Solver that is the reference. [default: the sweep's own best point]")
    ] = None,
    decomposer: Annotated[str | None, typer.Option(help="Pool entry. [default: the pool file's]")] = None,
    allocator: Annotated[
        str | None, typer.Option(help="Pool entry with log-probabilities. [default: the pool file's]")
    ] = None,
    held_out: Annotated[
        float | None, typer.Option(help="Only questions on the test side of the training split with this test share.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of generated problems.")] = None,
    lake: Annotated[str | None, typer.Option(help="Folder of the trajectory lake. [default: lake]")] = None,
    max_cost_usd: Annotated[
        float | None, typer.Option(help="Hard cap on what is paid; it stops cleanly there.")
    ] = None,
    max_in_flight: Annotated[int | None, typer.Option(help="Problems worked on at once. [default: 64]")] = None,
    data_dir: Annotated[str | None, typer.Option(envvar="R2_DATA_DIR", help="Folder of benchmark files.")] = None,
    models_dir: Annotated[
        str | None, typer.Option(envvar="R2_MODELS_DIR", help="Folder of fetched weights. [default: models]")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML with the same settings; flags override it.")] = None,
) -> None:
    """Answer the same problems once per b: the accuracy-cost curve, and the b for a budget or an accuracy. The same
    command goes on."""
    from flows.cli.evaluate import _numbers
    from r2.evaluation.sweep import SweepSettings
    from r2.pool.file.config import load_pool
    from r2.settings import load

    settings = load(
        SweepSettings,
        config,
        {
            "problems": tuple(problems) if problems else None,
            "pool": pool,
            "limit": limit,
            "b": _numbers(b),
            "budget_usd_per_1k": budget_usd_per_1k,
            "min_accuracy_share": min_accuracy_share,
            "reference": reference,
            "decomposer": decomposer,
            "allocator": allocator,
            "held_out": held_out,
            "seed": seed,
            "lake": lake,
            "max_cost_usd": max_cost_usd,
            "max_in_flight": max_in_flight,
            "data_dir": data_dir,
            "models_dir": models_dir,
        },
    )
    # Here and not above: importing the flow imports Prefect, seconds that --help need not wait for.
    from flows.support.embedded_api import embedded_api
    from flows.sweep_b import checked, sweep_b

    opened = load_pool(settings.pool)
    opened.check_keys()
    checked(settings, opened)
    with embedded_api():
        done = asyncio.run(sweep_b(settings))
    raise typer.Exit(print_sweep(done, Path(settings.lake)))


def print_sweep(sweep: "Sweep", lake: Path) -> int:
    """The points, the table, the advice; and the exit code."""
    from r2.evaluation.cost_knob import curve
    from storage.evaluations.sweeps import sweep_file

    worth = {point.b for point in curve([one.point for one in sweep.points])}
    points = Table(
        title=f"{sweep.sweep_id}: {sweep.n_problems} problems; brackets: 95 % intervals; * worth choosing",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for heading in ("b", "accuracy", "USD per 1k", "calls", "top model"):
        points.add_column(heading, justify="right", no_wrap=True)
    for p in sweep.points:
        points.add_row(
            f"{p.b:g}{'*' if p.b in worth else ' '}",
            f"{p.accuracy:.1%} \\[{100 * p.accuracy_low:.0f}, {100 * p.accuracy_high:.0f}]",
            f"{p.usd_per_1k:.4g} \\[{p.usd_per_1k_low:.3g}, {p.usd_per_1k_high:.3g}]",
            f"{p.calls_per_problem:.1f}",
            f"{p.top_model} {p.top_model_share:.0%}",
        )
    results().print(points)
    rows = Table(
        title=f"which b (reference accuracy {sweep.reference_accuracy:.1%}: {sweep.reference})",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for heading in ("asked for", "b", "accuracy", "USD per 1k"):
        rows.add_column(heading, justify="right", no_wrap=True)
    for row in sweep.table:
        asked = (
            f"at most {row.usd_per_1k:.4g} USD per 1k"
            if row.usd_per_1k is not None
            else f"at least {row.share:.0%} of the reference"
        )
        point = row.advice.point
        if row.advice.is_reached:
            rows.add_row(asked, f"{point.b:g}", f"{point.accuracy:.1%}", f"{point.usd_per_1k:.4g}")
        else:
            rows.add_row(asked, "none", f"best {point.accuracy:.1%}", "")
    results().print(rows)
    for advice in sweep.advice:
        print(f"b = {advice.point.b:g}: {advice.reason}" if advice.is_reached else advice.reason)
    for note in sweep.notes:
        print(note)
    print(f"paid {sweep.paid_usd:.6f} USD")
    print(sweep_file(lake, sweep.sweep_id, ".json"))
    if sweep.status != "completed":
        say(f"Not every b is finished ({sweep.status}). The same command goes on.")
        return 130 if sweep.status == "interrupted" else 1
    return 0 if all(advice.is_reached for advice in sweep.advice) else 1
