"""`r2 sft`: label sets, generated subtasks or checked answers in, a policy in the registry out. Results on stdout,
progress and errors on stderr."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from flows.cli import options
from flows.cli.console import figures, results, say, say_columns, starting
from flows.cli.options import INPUT, TRAINING, flag
from flows.support.terminal import INTERRUPTED, this_command
from r2.policies.torch_there import require_torch
from storage.lake.stores import check_lake


def sft(
    config: options.Config = None,
    labels: Annotated[
        str | None,
        flag(
            INPUT,
            "--labels",
            metavar="FOLDER,...",
            help="Label sets to train on: folders that r2 label wrote.",
            default="labels",
        ),
    ] = None,
    outcomes: Annotated[list[Path] | None, options.outcomes("what the lake has of --pool's entries")] = None,
    problems: options.Problems = None,
    seed: options.Seed = None,
    split_seed: options.SplitSeed = None,
    test_share: options.TestShare = None,
    data_dir: options.DataDir = None,
    pool: Annotated[str | None, options.pool("none: nothing is executed")] = None,
    models_dir: options.ModelsDir = None,
    policies_dir: options.PoliciesDir = None,
    policy: Annotated[
        str | None,
        flag(
            TRAINING,
            "--policy",
            metavar="KIND",
            help="What is trained: decomposer, allocator, both, specialist, or scorer.",
            default="both",
        ),
    ] = None,
    name: Annotated[
        str | None,
        flag(
            TRAINING,
            "--name",
            metavar="NAME",
            help="Name of the policy in the registry.",
            default="decomposer, allocator, scorer, SOURCE-specialist",
        ),
    ] = None,
    base: Annotated[
        str | None,
        flag(
            TRAINING,
            "--base",
            metavar="NAME",
            help="Weights to begin with: smollm2, tiny, tiny:128x4, or a path or hub id of Hugging Face weights.",
            default="smollm2",
        ),
    ] = None,
    start: Annotated[
        str | None,
        flag(
            TRAINING,
            "--start",
            metavar="NAME",
            help="Policy of the same base to train further: NAME or NAME@VERSION.",
            default="the base",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        flag(
            TRAINING,
            "--weights",
            metavar="KIND",
            help="What of the weights is trained: adapter (LoRA) or full.",
            default="full for tiny, else adapter",
        ),
    ] = None,
    steps: Annotated[int | None, options.steps("", "260")] = None,
    batch_size: Annotated[
        int | None, flag(TRAINING, "--batch-size", metavar="N", help="Rows per step.", default="4")
    ] = None,
    lr: Annotated[
        float | None, options.learning_rate("8e-4 for adapters, 3e-3 for tiny, 5e-5 for other full weights")
    ] = None,
    save_steps: Annotated[int | None, options.save_steps("25")] = None,
    n_held_out: Annotated[int | None, options.n_held_out("Rows of the label sets.", "60")] = None,
    n_executed: Annotated[
        int | None,
        flag(
            TRAINING,
            "--n-executed",
            metavar="N",
            help="Number of held-out problems that are executed on --pool after training.",
            default="40",
        ),
    ] = None,
    threads: options.Threads = None,
    promote: Annotated[
        bool | None,
        flag(
            TRAINING,
            "--promote",
            help="Promote the new version over the present one, and a first one even where few of its plans are valid.",
        ),
    ] = None,
    dry_run: options.DryRun = False,
    lake: options.Lake = None,
) -> None:
    """Train a decomposer and an allocator on label sets, a specialist on subtasks, or a scorer on checked answers.

    A specialist is trained on the subtasks of --problems. With --pool, the plans
    or allocations of the new policy are executed for held-out --problems. A scorer
    says who is probably right (r2 answer --scorer). It is trained on recorded answers
    (--outcomes), or on the checked answers of the lake to questions on the train side,
    by entries of --pool. The same command continues where it stopped.

    Examples:

        r2 sft --labels labels --policy both --base smollm2 --dry-run
        r2 sft --policy specialist --problems scan --base tiny:128x4 --steps 1200
        r2 sft --policy scorer --outcomes gsm8k.parquet mmlu.parquet
        r2 sft --policy scorer --pool pools/simulated.toml
        r2 sft --config configs/gpu/sft.toml
    """
    from r2.training.sft.settings import load_sft_settings

    settings = load_sft_settings(
        config,
        {
            "policy": policy,
            "labels": labels,
            "outcomes": tuple(map(str, outcomes)) if outcomes else None,
            "problems": options.one_source(problems, "sft"),
            "name": name,
            "base": base,
            "start": start,
            "weights": weights,
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": lr,
            "pool": pool,
            "policies_dir": policies_dir,
            "lake": lake,
            "seed": seed,
            "split_seed": split_seed,
            "test_share": test_share,
            "save_steps": save_steps,
            "n_held_out": n_held_out,
            "n_executed": n_executed,
            "threads": threads,
            "promote": promote,
            "data_dir": data_dir,
            "models_dir": models_dir,
        },
    )
    is_scorer = settings.policy == "scorer"
    if settings.problems is not None and settings.pool is not None:
        say_columns([settings.problems])
    if dry_run:
        (_print_trials if is_scorer else _print_estimate)(settings)
        return
    if not settings.launcher and not is_scorer:  # another Python trains then
        require_torch("r2 sft")
    starting()
    # Here and not above: --help and --dry-run need not wait for it.
    from flows.support.embedded_api import embedded_api
    from r2.atomic import check_folder
    from tasks.training.sft_run import finished_sft

    check_folder(Path(settings.policies_dir), "--policies-dir")
    check_lake(settings.lake)
    result = finished_sft(settings)
    if result is None:
        with embedded_api(importing="flows.train_sft"):
            from flows.train_sft import train_sft  # imports Prefect, which takes seconds

            result = train_sft(settings)
    raise typer.Exit(_print_result(result, settings.policies_dir))


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
    if settings.pool is not None and settings.n_executed and settings.policy != "specialist":
        _print_executed(settings)


def _print_executed(settings: Any) -> None:
    """What the held-out problems cost that the policies are executed for. What a policy writes is not paid for."""
    from r2.methods.estimate import estimate_calls, rows_of
    from r2.methods.expected import RANGE
    from r2.methods.router import make_router
    from r2.pool.file.config import load_pool
    from r2.settings import AnswerSettings
    from tasks.training.training_rows import JOB, held_out_problems

    router = make_router(load_pool(settings.pool), AnswerSettings(input=""))
    problems = held_out_problems(settings)
    prices = {name: card.price for name, card in router.roster.by_name.items()}
    calls = estimate_calls(router, prices, rows_of(problems, router))
    usd, free = 0.0, set[str]()
    for kind in settings.kinds:  # each is executed with those that were trained before it
        free.add(JOB[kind])
        usd += sum(call.cost_usd for call in calls if call.purpose not in free)
    print(
        f"{len(problems)} held-out problems executed on {settings.pool} with each policy: about {usd:.6f} USD, likely "
        f"between {usd * RANGE[0]:.6f} and {usd * RANGE[1]:.6f}, if they do as well as the pool file's own router"
    )


def _print_trials(settings: Any) -> None:
    """What a scorer would be trained on, by kind of question."""
    from collections import Counter

    from tasks.training.scorer_policy import SECONDS_PER_QUESTION, scorer_trials

    found = scorer_trials(settings)
    trials = found.trials
    table = Table()
    table.add_column("kind")
    table.add_column("questions", justify="right")
    for kind, n in Counter(trials.kinds).items():
        table.add_row(kind, str(n))
    results().print(table)
    print(f"{settings.policy_name('scorer')}: {trials.n_trials} answers of {len(trials.arms)} arms, each with a check")
    print(f"arms: {', '.join(trials.arms)}")
    for remark in found.remarks:
        say(remark)
    print(f"About {SECONDS_PER_QUESTION * trials.n_units:.0f} s of one core; no model is asked.")


def _print_result(result: Any, policies_dir: str) -> int:
    """A table per policy, and where the weights are; the exit code: 0 done, 130 interrupted."""
    from tasks.training.trained_policy import kept_back

    for remark in result.remarks:
        say(remark)
    for trained in result.policies:
        card = trained.policy.card
        table = figures(f"{trained.policy.ref}, run {result.run_id}")
        for metric, value in card.metrics.items():
            table.add_row(metric, f"{value:.6g}")
        table.add_row("training seconds", f"{card.wall_s:.1f}")
        paid_for = "its seconds, USD" if card.kind == "scorer" else "paid to the pool, USD"
        table.add_row(paid_for, f"{card.cost_usd:.6f}")
        table.add_row("promoted", "yes" if trained.is_promoted else "no")
        results().print(table)
        print(trained.policy.path)
        if n_cut := card.metrics.get("n_rows_cut"):
            say(
                f"{n_cut:.0f} of {card.metrics['n_rows']:.0f} rows are longer than max_tokens and were cut at their "
                "end: raise max_tokens in the --config file, or shorten the questions."
            )
        if n_seen := card.metrics.get("n_held_out_seen"):
            say(f"{n_seen:.0f} held-out rows have a prompt that was trained on, and were left out of the examination.")
        if not trained.is_promoted:
            if reason := kept_back(trained.policy):
                say(f"{trained.policy.ref} is not promoted unasked: {reason}, or ask for it:")
            places = shlex.join(["--policies-dir", policies_dir])
            say(f"Promote it with: r2 policy promote {card.name} {card.version} --reason TEXT {places}")
        elif card.kind == "scorer":
            say(f"Next: r2 answer FILE --scorer {card.name}. All of its card: r2 policy show {card.name}")
        else:
            say(f'Next: a pool entry with endpoint = "policy:{card.name}" serves it. r2 policy show {card.name}')
    if not result.reached:
        return 0
    say(f"Interrupted. {result.reached}. The same command resumes it:\n  {this_command()}")
    return INTERRUPTED
