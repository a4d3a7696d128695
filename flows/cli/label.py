"""`r2 label`: problems in, two supervised sets out. Results on stdout, progress and errors on stderr."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import options
from flows.cli.console import figures, results, say, say_columns, starting
from flows.cli.left_over import what_is_deferred
from flows.cli.options import INPUT, TRAINING, flag
from flows.support.terminal import INTERRUPTED
from r2.settings import LabelSettings, load_label_settings
from storage.lake.address import lake_folder
from storage.lake.stores import check_lake


def label(
    config: options.Config = None,
    problems: options.Problems = None,
    limit: options.Limit = None,
    seed: options.Seed = None,
    split_seed: options.SplitSeed = None,
    test_share: options.TestShare = None,
    evaluation: Annotated[
        list[str] | None,
        flag(
            INPUT,
            "--evaluation",
            metavar="SOURCE",
            help="Problems that will be evaluated on: the sets' README says how many of them are in the training set. "
            "Repeatable.",
        ),
    ] = None,
    data_dir: options.DataDir = None,
    check: options.Check = None,
    rubric: options.Rubric = None,
    max_answer_tokens: options.MaxAnswerTokens = None,
    pool: options.Pool = None,
    models_dir: options.ModelsDir = None,
    max_in_flight: options.MaxInFlight = None,
    teacher: Annotated[
        str | None,
        flag(
            TRAINING,
            "--teacher",
            metavar="NAME",
            help="Pool entry that writes the candidate plans.",
            default="the strongest",
        ),
    ] = None,
    m_eval: Annotated[
        str | None,
        flag(
            TRAINING,
            "--m-eval",
            metavar="NAME",
            help="Pool entry that executes every candidate plan.",
            default="the middle solver",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        flag(
            TRAINING,
            "--judge",
            metavar="NAME",
            help="Pool entry that judges coherence, or lexical, which asks nobody.",
            default="lexical",
        ),
    ] = None,
    candidates: Annotated[
        int | None,
        flag(TRAINING, "--candidates", metavar="N", help="Plans asked of the teacher per problem.", default="8"),
    ] = None,
    max_cost_usd: options.MaxCostUsd = None,
    reuse: Annotated[bool | None, options.reuse("on")] = None,
    dry_run: options.DryRun = False,
    out: Annotated[
        str | None,
        options.out("Folder of decomposer.parquet, allocator.parquet and README.md.", "labels", "FOLDER"),
    ] = None,
    lake: options.Lake = None,
    shard_size: Annotated[int | None, options.shard_size("100")] = None,
) -> None:
    """Label problems for training: plans and allocations that led to the right answer.

    A teacher writes plans, and the best right one is kept. A search finds the
    cheapest models that still get its steps right. The same command continues
    where it stopped and pays for nothing twice.

    Examples:

        r2 label --problems scan --limit 200 --teacher qwen-1.5b --dry-run
        r2 label --config configs/simulated/1_label_plans.toml
        r2 label --problems file:questions.jsonl --check grade.py:ok
    """
    settings = load_label_settings(
        config,
        {
            "problems": options.one_source(problems, "label"),
            "limit": limit,
            "pool": pool,
            "lake": lake,
            "out": out,
            "seed": seed,
            "split_seed": split_seed,
            "test_share": test_share,
            "max_cost_usd": max_cost_usd,
            "reuse": reuse,
            "shard_size": shard_size,
            "max_in_flight": max_in_flight,
            "data_dir": data_dir,
            "check": check,
            "rubric": rubric,
            "max_answer_tokens": max_answer_tokens,
            "models_dir": models_dir,
            "evaluation": tuple(evaluation) if evaluation else None,
            "labelling": {"teacher": teacher, "m_eval": m_eval, "judge": judge, "n_candidates": candidates},
        },
    )
    say_columns([settings.problems])
    for equation in settings.labelling.switched_off():
        say(f"r2: these settings switch off {equation}.")
    if dry_run:
        _print_estimate(settings)
        return
    starting()
    # Here and not above: --help and --dry-run need not wait for it.
    import uvloop

    from flows.support.ready import api_and_models
    from r2.atomic import check_folder
    from r2.methods.router import make_router
    from r2.pool.file.config import load_pool
    from tasks.labelling.finished import finished_labels

    loaded = load_pool(settings.pool)
    loaded.check_keys()
    make_router(loaded, settings.answering(""))
    check_folder(Path(settings.out), "--out")
    check_lake(settings.lake)
    result = finished_labels(settings)
    if result is None:
        with api_and_models(loaded, importing="flows.label_plans"):
            from flows.label_plans import label_plans  # imports Prefect, which takes seconds

            result = uvloop.run(label_plans(settings))
    raise typer.Exit(_print_result(result))


def _print_estimate(settings: LabelSettings) -> None:
    from flows.cli.console import print_calls, print_reusable
    from r2.methods import method_named
    from r2.methods.estimate import estimate_calls, rows_of
    from r2.methods.router import make_router
    from r2.pool.file.config import load_pool
    from r2.problem import Problem
    from storage.sources.problem_files import question_file

    pool = load_pool(settings.pool)
    data_dir = Path(settings.data_dir) if settings.data_dir else None
    file = question_file(settings.problems, settings.limit, settings.seed, data_dir, lake_folder(settings.lake))
    answering = settings.answering(str(file.path), file.check, file.columns)
    router = make_router(pool, answering)
    rows = [row for row in file.rows(settings.limit) if isinstance(row, Problem)]
    prices = {name: card.price for name, card in router.roster.by_name.items()}
    print(f"{len(rows)} problems of {settings.problems}")
    print_calls(pool, estimate_calls(router, prices, rows_of(rows, router)))
    print_reusable(answering, pool, (row.question for row in rows))
    print(f"Assumed: {method_named(answering.reasoning.method).assumes}. --max-cost-usd sets a hard cap.")


def _print_result(result: Any) -> int:
    """Kept and dropped in one table, and the exit code: 0 where nothing is left over, 130 interrupted, else 1."""
    summary, sets, progress = result.summary, result.sets, result.progress
    table = figures(f"run {summary.run_id}")
    table.add_row("problems", str(progress.n_requested))
    table.add_row("labelled", f"{summary.n_kept}  ({summary.n_kept / max(1, summary.n_problems):.1%} of those settled)")
    for reason, n in summary.dropped.items():
        table.add_row(f"dropped: {reason}", str(n))
    table.add_row("deferred", str(progress.n_deferred))
    table.add_row("candidate plans", f"{summary.n_candidates}, of them distinct {summary.n_distinct}")
    table.add_row("executions per searched plan", f"{summary.executions_per_plan:.2f}")
    table.add_row("USD", f"{summary.cost_usd:.6f}")
    for purpose, usd in summary.cost_by_purpose_usd.items():
        table.add_row(f"  of it {purpose}", f"{usd:.6f}")
    table.add_row("  this session", f"{progress.session_cost_usd:.6f}")
    if summary.n_reused:
        table.add_row("  saved: paid by earlier runs", f"{summary.saved_usd:.6f}")
        table.add_row("  calls used again", str(summary.n_reused))
    table.add_row("USD per labelled problem", f"{summary.cost_usd / max(1, summary.n_kept):.6f}")
    table.add_row("seconds", f"{progress.wall_s:.1f}")
    table.add_row("decomposer rows", f"{sets.decomposer['train']} train, {sets.decomposer['test']} test")
    table.add_row("allocator rows", f"{sets.allocator['train']} train, {sets.allocator['test']} test")
    if progress.n_calls_lost:
        table.add_row(
            "answers lost by a kill or a damaged journal", f"{progress.n_calls_lost} (may have been paid twice)"
        )
    results().print(table)
    for name in ("decomposer.parquet", "allocator.parquet", "README.md"):
        print(sets.out / name)
    if progress.n_deferred or progress.stop_reason:
        say(what_is_deferred(progress, "problems"))
        say("The sets hold what is labelled so far.")
    return INTERRUPTED if progress.stop_reason == "interrupted" else 1 if progress.n_deferred else 0
