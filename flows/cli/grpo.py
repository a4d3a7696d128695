"""`r2 grpo`: policies in, better policies out, in alternating rounds. Results on stdout, progress
and errors on stderr."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from flows.cli import options
from flows.cli.console import results, say, say_columns, starting
from flows.cli.options import TRAINING, flag
from flows.support.terminal import INTERRUPTED, this_command
from r2.errors import ConfigError
from r2.policies.torch_there import require_torch
from storage.lake.address import lake_folder
from storage.lake.stores import check_lake

_SCORER = "Of a scorer {}."
"""Says the default of a flag that has another one with --policy scorer."""
_STARTING = "A policy to start from, NAME or NAME@VERSION, or a pool entry, which is not trained."


def grpo(
    config: options.Config = None,
    problems: options.Problems = None,
    limit: options.Limit = None,
    seed: options.Seed = None,
    split_seed: options.SplitSeed = None,
    test_share: Annotated[float | None, options.test_share(_SCORER.format("0.3"))] = None,
    data_dir: options.DataDir = None,
    check: options.Check = None,
    rubric: options.Rubric = None,
    max_answer_tokens: options.MaxAnswerTokens = None,
    pool: Annotated[str | None, options.pool(detail=_SCORER.format("none"))] = None,
    models_dir: options.ModelsDir = None,
    max_in_flight: options.MaxInFlight = None,
    decomposer: Annotated[str | None, options.decomposer(_STARTING, "decomposer")] = None,
    allocator: Annotated[str | None, options.allocator(_STARTING, "allocator")] = None,
    verify: options.Verify = None,
    policies_dir: options.PoliciesDir = None,
    policy: Annotated[
        str | None,
        flag(
            TRAINING,
            "--policy",
            metavar="KIND",
            help="What learns: router, or scorer. A help text says where a scorer's default is another.",
            default="router",
        ),
    ] = None,
    outcomes: Annotated[
        list[Path] | None, options.outcomes("what the lake has of --pool's entries; a scorer's")
    ] = None,
    scorer: Annotated[str | None, options.scorer("With --policy scorer: the one that is tuned.", "scorer")] = None,
    rounds: Annotated[
        int | None,
        flag(
            TRAINING,
            "--rounds",
            metavar="N",
            help="Rounds in all. More of them continue the same training.",
            default="2",
        ),
    ] = None,
    mode: Annotated[
        str | None,
        flag(
            TRAINING,
            "--mode",
            metavar="MODE",
            help="How rounds train: alternating, joint, sft_only or rejection.",
            default="alternating",
        ),
    ] = None,
    first: Annotated[
        str | None,
        flag(
            TRAINING,
            "--first",
            metavar="ROLE",
            help="Who learns in round 0: decomposer or allocator.",
            default="allocator",
        ),
    ] = None,
    steps: Annotated[int | None, options.steps("Of each round. " + _SCORER.format("120"), "60")] = None,
    group_size: Annotated[
        int | None, flag(TRAINING, "--group-size", metavar="N", help="Rollouts per problem and step.", default="8")
    ] = None,
    lam: Annotated[
        float | None,
        flag(
            TRAINING,
            "--lambda",
            metavar="WEIGHT",
            help="Weight of cost in the reward. 0 is the paper's reward.",
            default="0.3",
        ),
    ] = None,
    lr: Annotated[float | None, options.learning_rate("1e-5", _SCORER.format("0.002"))] = None,
    save_steps: Annotated[int | None, options.save_steps("10")] = None,
    n_held_out: Annotated[int | None, options.n_held_out("At most so many problems.", "all")] = None,
    threads: options.Threads = None,
    max_cost_usd: options.MaxCostUsd = None,
    dry_run: options.DryRun = False,
    lake: options.Lake = None,
) -> None:
    """Train the router by GRPO: one policy learns, the other is frozen, then the reverse.

    A new version is promoted only if held-out problems say so. The same command
    continues where it stopped. With --policy scorer the choices of a trained scorer
    learn from recorded answers (--outcomes), or from the lake's answers of --pool.

    Examples:

        r2 grpo --problems scan --pool pools/local.toml --rounds 2 --dry-run
        r2 grpo --config configs/local/1_grpo_decomposer.toml
        r2 grpo --problems file:questions.jsonl --check grade.py:ok
        r2 grpo --policy scorer --outcomes gsm8k.parquet mmlu.parquet
    """
    flags = dict(locals())
    if policy == "scorer":
        from flows.cli.grpo_scorer import tune

        raise typer.Exit(tune(flags))
    if policy not in (None, "router"):
        raise ConfigError(f"--policy {policy}: expected router or scorer.")
    if other := [name for name in ("outcomes", "scorer") if flags[name]]:
        raise ConfigError(f"--{other[0]}: a router learns from --problems; say --policy scorer, or leave it out.")
    from r2.training.grpo.settings import load_grpo_settings

    given: dict[str, Any] = {
        "problems": options.one_source(problems, "grpo"),
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
        "save_steps": save_steps,
        "n_held_out": n_held_out,
        "split_seed": split_seed,
        "test_share": test_share,
        "policies_dir": policies_dir,
        "lake": lake,
        "seed": seed,
        "threads": threads,
        "max_cost_usd": max_cost_usd,
        "max_in_flight": max_in_flight,
        "data_dir": data_dir,
        "models_dir": models_dir,
        "reasoning": {"check": check, "rubric": rubric, "verify": verify, "max_answer_tokens": max_answer_tokens},
    }
    settings = load_grpo_settings(config, given)
    say_columns([settings.problems])
    if dry_run:
        _print_estimate(settings)
        return
    if not settings.launcher:  # another Python trains then
        require_torch("r2 grpo")
    starting()
    from r2.atomic import check_folder
    from tasks.training.train_rounds import GrpoResult, open_rounds, round_table

    check_folder(Path(settings.policies_dir), "--policies-dir")
    check_lake(settings.lake)
    opened = open_rounds(settings)
    result = GrpoResult(opened.state, opened.run_dir)
    if not opened.is_done:
        from flows.support.embedded_api import embedded_api

        with embedded_api(importing="flows.train_grpo"):
            from flows.train_grpo import train_grpo  # imports Prefect, which takes seconds

            result = train_grpo(settings)
    raise typer.Exit(_print_result(result, round_table(result.state), settings.lake))


def _print_estimate(settings: Any) -> None:
    """An upper bound: every call on the dearest solver, none of them equal to an earlier one."""
    from collections import Counter

    from r2.ledger import cost_usd, expected_usage
    from r2.methods.expected import SUBTASKS_PER_QUESTION
    from r2.pool.file.config import load_pool
    from r2.problem import Problem
    from r2.problems.own_check import own_checks
    from r2.problems.split import split_of
    from storage.sources.problem_files import question_file

    pool = load_pool(settings.pool, settings.policies_dir)
    data_dir = Path(settings.data_dir) if settings.data_dir else None
    file = question_file(settings.problems, settings.limit, settings.seed, data_dir, lake_folder(settings.lake))
    rows = [row for row in file.rows(settings.limit) if isinstance(row, Problem)]
    check, _ = own_checks(settings.reasoning)
    judged = [row for row in rows if (row.target is not None if check is None else check.can_judge(row))]
    sides = Counter(split_of(row.question, settings.split_seed, settings.test_share) for row in judged)
    n_held_out = min(sides["test"], settings.n_held_out or sides["test"])
    print(f"{len(rows)} problems of {settings.problems}: {sides['train']} to train on, {n_held_out} held out")
    dearest = pool.roster()[pool.roster().strongest]
    n_rounds = 0 if settings.mode == "sft_only" else settings.rounds
    n_training = n_rounds * settings.steps * settings.prompts_per_step * settings.group_size
    n_pilot = (
        0 if settings.filter.by == "nothing" else n_rounds * settings.filter.n_problems * settings.filter.n_rollouts
    )
    n_calls = (n_training + n_pilot) * SUBTASKS_PER_QUESTION
    usd = n_calls * cost_usd(dearest.price, expected_usage([("user", "x" * 800)], dearest.output_limit(64)))
    print(
        f"{n_rounds} rounds of {settings.steps} steps: {n_training} rollouts, {n_pilot} in pilots, about "
        f"{n_calls:.0f} pool calls at most"
    )
    print(
        f"at most {usd:.4f} USD if all went to {dearest.name}; equal calls are paid once. --max-cost-usd sets a hard "
        "cap."
    )


def _print_result(result: Any, rows: list[dict[str, object]], lake: str) -> int:
    """A column per round, and which versions stand now; the exit code: 0 done, 130 interrupted."""
    table = Table(title=f"run {result.state.run_id}", title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(f"round {row['round']}", justify="right")
    for name in rows[0] if rows else ():
        if name != "round":
            table.add_row(
                name, *(f"{row[name]:.4f}" if isinstance(row[name], float) else str(row[name]) for row in rows)
            )
    if rows:
        results().print(table)
    print(f"decomposer {result.state.current['decomposer']}, allocator {result.state.current['allocator']}")
    say("Rollouts, rewards and curves: r2 sql --view training_curve, reward_terms, promotions")
    if not result.is_stopped:
        say("Next: " + shlex.join(["r2", "report", result.state.run_id, "--lake", lake]))
        return 0
    say(
        f"Interrupted in round {len(rows)}: it is resumed at its last checkpoint, and answered calls are not paid for "
        f"again. The same command resumes it:\n  {this_command()}"
    )
    return INTERRUPTED
