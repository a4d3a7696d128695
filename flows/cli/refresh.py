"""`r2 refresh`: the nightly loop by hand. Results on stdout, progress on stderr."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import options
from flows.cli.console import figures, results, say, starting
from flows.cli.options import TRAINING, flag
from flows.support.terminal import INTERRUPTED

if TYPE_CHECKING:  # not when the command starts
    from tasks.training.refresh_round import RoundResult


def refresh(
    config: options.Config = None,
    pool: Annotated[str | None, options.pool(options.DEFAULT_POOL)] = None,
    models_dir: options.ModelsDir = None,
    policies_dir: options.PoliciesDir = None,
    name: Annotated[
        str | None,
        flag(TRAINING, "--name", metavar="NAME", help="Name of the policy in the registry.", default="scorer"),
    ] = None,
    n_questions: Annotated[
        int | None,
        flag(TRAINING, "--n-questions", metavar="N", help="New questions that a round takes at most.", default="400"),
    ] = None,
    least: Annotated[
        int | None,
        flag(TRAINING, "--least", metavar="N", help="New questions that a round needs to begin.", default="80"),
    ] = None,
    max_cost_usd: options.MaxCostUsd = None,
    dry_run: options.DryRun = False,
    lake: options.Lake = None,
) -> None:
    """Train a scorer on with new traffic, and promote it only where it wins.

    New questions of the lake that have a verdict are asked of every entry of the
    pool, within the budget. A new version is trained on them, and compared with the
    promoted one on questions of the round that nothing was trained on. The reason
    stands on its card. The same command goes on where it stopped; with nothing new it
    says so and ends.

    Examples:

        r2 refresh --pool pools/simulated.toml --max-cost-usd 2
        r2 refresh --config refresh.toml --dry-run
    """
    from r2.training.refresh.settings import load_refresh_settings

    flags = {
        "pool": pool,
        "scorer": name,
        "lake": lake,
        "policies_dir": policies_dir,
        "models_dir": models_dir,
        "n_questions": n_questions,
        "least": least,
        "max_cost_usd": max_cost_usd,
    }
    settings = load_refresh_settings(config, flags)
    from tasks.training.refresh_round import lake_of

    traffic = lake_of(settings)
    if dry_run:
        from storage.runs.fresh_questions import fresh_questions
        from storage.runs.refresh_rounds import keys_used

        fresh = fresh_questions(traffic, keys_used(traffic, settings.scorer))
        print(f"{len(fresh.questions)} new questions; a round begins with {settings.least}")
        for why, n in sorted(fresh.left_out.items()):
            say(f"{n} questions left out: {why}")
        return
    starting()
    from flows.support.embedded_api import embedded_api
    from r2.atomic import check_folder

    check_folder(Path(settings.policies_dir), "--policies-dir")
    with embedded_api(importing="flows.refresh_router"):
        import uvloop

        from flows.refresh_router import refresh_router  # imports Prefect, which takes seconds

        result: RoundResult = uvloop.run(refresh_router(settings))
    _print(result)
    if result.policy and not result.is_promoted:
        of, _, version = result.policy.partition("@")
        places = shlex.join(["--policies-dir", settings.policies_dir])
        say(f"Promote it all the same: r2 policy promote {of} {version} --reason TEXT {places}")
    raise typer.Exit(INTERRUPTED if result.is_stopped else 0)


def _print(result: "RoundResult") -> None:
    for remark in result.remarks:
        say(remark)
    if result.policy:
        table = figures(f"round {result.number}: {result.policy}")
        for name, value in result.figures.items():
            table.add_row(name, f"{value:.6g}")
        table.add_row("promoted", "yes" if result.is_promoted else "no")
        results().print(table)
    print(result.reason)
