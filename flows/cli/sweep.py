"""`r2 policy sweep`: which `b` a budget or an accuracy asks for. Results on stdout, progress and errors on stderr."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.cli import options
from flows.cli.console import print_calls, results, say, say_columns, starting
from flows.cli.options import MONEY, ROUTER, flag
from flows.support.terminal import INTERRUPTED, this_command
from storage.lake.address import lake_folder
from storage.lake.stores import check_lake

if TYPE_CHECKING:  # not when the command starts: --help need not wait for numpy
    from r2.evaluation.sweep import Sweep, SweepSettings


def sweep(
    config: options.Config = None,
    problems: options.Problems = None,
    limit: options.Limit = None,
    seed: options.Seed = None,
    held_out: options.HeldOut = None,
    split_seed: options.SplitSeed = None,
    data_dir: options.DataDir = None,
    pool: options.Pool = None,
    models_dir: options.ModelsDir = None,
    max_in_flight: options.MaxInFlight = None,
    decomposer: options.Decomposer = None,
    allocator: Annotated[str | None, options.allocator("A pool entry with log-probabilities.")] = None,
    routing: Annotated[str | None, options.routing("allocator; rule with --target-accuracy and no --allocator")] = None,
    value_usd: options.ValueUsd = None,
    horizon: options.Horizon = None,
    b: Annotated[
        str | None,
        options.cost_knob(
            "Each value is a point of the curve. Where the rule routes and none is given: 0,0.5,1,1.5,2,3,4,5.",
            "NUMBER,...",
            "0,0.05,0.1,0.2,0.4,0.8",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        flag(
            ROUTER,
            "--reference",
            metavar="NAME",
            help="Solver whose accuracy the shares of accuracy refer to.",
            default="the sweep's own best point",
        ),
    ] = None,
    budget_usd_per_1k: Annotated[
        float | None,
        flag(
            MONEY,
            "--budget-usd-per-1k",
            metavar="USD",
            help="Advise the most accurate b that costs no more than this per 1,000 problems.",
            default="not asked for",
        ),
    ] = None,
    min_accuracy_share: Annotated[
        float | None,
        flag(
            MONEY,
            "--min-accuracy-share",
            metavar="SHARE",
            help="Advise the cheapest b with this share of the reference accuracy, between 0 and 1.",
            default="not asked for",
        ),
    ] = None,
    target_accuracy: options.TargetAccuracy = None,
    delta: options.Delta = None,
    max_cost_usd: options.MaxCostUsd = None,
    dry_run: options.DryRun = False,
    lake: options.Lake = None,
) -> None:
    """Answer the same problems once per b: the accuracy-cost curve, and the b to use.

    Says which b fits a budget or an accuracy. The same command continues where it
    stopped.

    Examples:

        r2 policy sweep --problems scan --b 0,0.1,0.3,1 --budget-usd-per-1k 0.05 --dry-run
        r2 policy sweep --pool pools/simulated.toml --problems scan --b=-0.5,0,0.5
        r2 policy sweep --problems scan --routing rule --budget-usd-per-1k 0.05
        r2 policy sweep --problems file:dev.jsonl --target-accuracy 0.95 --delta 0.05
    """
    from r2.evaluation.sweep import SweepSettings, checked
    from r2.pool.file.config import load_pool
    from r2.settings import load

    settings = load(
        SweepSettings,
        config,
        {
            "problems": tuple(problems) if problems else None,
            "pool": pool,
            "limit": limit,
            "b": options.numbers_of("--b", b),
            "budget_usd_per_1k": budget_usd_per_1k,
            "min_accuracy_share": min_accuracy_share,
            "target_accuracy": target_accuracy,
            "delta": delta,
            "reference": reference,
            "reasoning": {"routing": routing, "value_usd": value_usd, "horizon": horizon},
            "decomposer": decomposer,
            "allocator": allocator,
            "held_out": held_out,
            "split_seed": split_seed,
            "seed": seed,
            "lake": lake,
            "max_cost_usd": max_cost_usd,
            "max_in_flight": max_in_flight,
            "data_dir": data_dir,
            "models_dir": models_dir,
        },
    )
    opened = load_pool(settings.pool)
    settings = checked(settings, opened)
    if not settings.pool.startswith("recording:"):
        say_columns(settings.problems)
    if dry_run:
        _print_estimate(settings)
        return
    starting()
    # Here and not above: --help and --dry-run need not wait for it.
    import uvloop

    from flows.support.ready import api_and_models
    from tasks.evaluation.finished import finished_sweep

    opened.check_keys()
    check_lake(settings.lake)
    done = finished_sweep(settings)
    if done is None:
        with api_and_models(opened, importing="flows.sweep_b"):
            from flows.sweep_b import sweep_b  # imports Prefect, which takes seconds

            done = uvloop.run(sweep_b(settings))
    raise typer.Exit(print_sweep(done, lake_folder(settings.lake)))


def _print_estimate(settings: "SweepSettings") -> None:
    """Points, and calls as if nothing were shared between them."""
    from r2.evaluation.estimate import estimate_sweep
    from r2.methods.router import make_router
    from r2.pool.file.config import load_pool
    from storage.evaluations.problems import evaluated_problems

    pool = load_pool(settings.pool)
    found = evaluated_problems(settings)
    problems = [*found.dev, *found.test]
    router = make_router(pool, settings.answering("", settings.at(0.0)))
    reference = f", and {settings.reference} beside them" if settings.reference else ""
    print(f"{len(problems)} problems, each at {len(settings.b)} values of b{reference}")
    print_calls(pool, estimate_sweep(settings, router, problems))
    print("An upper estimate: calls that values share are paid once. --max-cost-usd sets a hard cap.")


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
    if sweep.floor is not None:
        print(sweep.floor.said)
    print(f"paid {sweep.paid_usd:.6f} USD")
    print(sweep_file(lake, sweep.sweep_id, ".json"))
    if sweep.status != "completed":
        say(f"Not every b is finished ({sweep.status}). The same command resumes it:\n  {this_command()}")
        return INTERRUPTED if sweep.status == "interrupted" else 1
    is_held = sweep.floor is None or sweep.floor.theta is not None
    return 0 if is_held and all(advice.is_reached for advice in sweep.advice) else 1
