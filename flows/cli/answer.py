"""`r2 answer`: a file of questions in, a file of answers out. Results on stdout, progress and errors on stderr."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.console import figures, print_calls, results, say
from flows.cli.left_over import what_is_deferred
from r2.errors import ConfigError
from r2.methods import described, method_named
from r2.problems.benchmark import benchmark_names
from r2.settings import AnswerSettings, load_settings


def register(app: typer.Typer) -> None:
    """Adds `answer` to the command."""
    app.command(name="answer")(answer)


def answer(
    file: Annotated[
        Path, typer.Argument(help="Questions: .jsonl, .csv, .tsv, .parquet (.gz allowed), or an OpenAI Batch .jsonl.")
    ],
    pool: Annotated[str | None, typer.Option(help="Pool file. [default: pools/local.toml]")] = None,
    out: Annotated[
        str | None, typer.Option(help="Answers in input order: .jsonl, .csv or .parquet. [default: FILE.answers.*]")
    ] = None,
    lake: Annotated[str | None, typer.Option(help="Folder of the trajectory lake. [default: lake]")] = None,
    method: Annotated[
        str | None,
        typer.Option(help=f"{described()}. [default: r2]"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The one model of cot, tot and decompose_one. [default: the strongest of the pool]"),
    ] = None,
    small_model: Annotated[
        str | None, typer.Option(help="Asked first by datashunt, automix and dot. [default: the cheapest]")
    ] = None,
    large_model: Annotated[
        str | None, typer.Option(help="Asked where the small model is not sure. [default: the strongest]")
    ] = None,
    chain: Annotated[
        str | None, typer.Option(help="Models of automix, weakest first: A,B,C. [default: small and large model]")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Confidence from which datashunt, automix and dot keep an answer; probability of being right from "
            "which query_router "
            "takes a model. [default: 0.8]"
        ),
    ] = None,
    query_router: Annotated[str | None, typer.Option(help="Fitted router (JSON) of query_router.")] = None,
    mix: Annotated[
        str | None, typer.Option(help="Weights of random: A=0.7,B=0.3. [default: every solver alike]")
    ] = None,
    random_level: Annotated[
        str | None, typer.Option(help="What random draws a model for: query or subtask. [default: query]")
    ] = None,
    decomposer: Annotated[
        str | None, typer.Option(help="Pool entry that decomposes. [default: the pool file's]")
    ] = None,
    allocator: Annotated[str | None, typer.Option(help="Pool entry that allocates. [default: the pool file's]")] = None,
    second_decomposer: Annotated[
        str | None,
        typer.Option(
            help="Pool entry that plans again where a plan fails its check, or none. [default: the pool file's]"
        ),
    ] = None,
    finalizer: Annotated[
        str | None, typer.Option(help="Pool entry that writes the answer, or last_step. [default: the pool file's]")
    ] = None,
    b: Annotated[
        float | None,
        typer.Option("--b", help="Cost knob: weight of log price in the allocation; 0 takes it as written."),
    ] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            help="A step whose model is less sure goes to the next stronger one; needs log-probabilities. [default: 0]"
        ),
    ] = None,
    max_escalations: Annotated[
        int | None, typer.Option(help="Times per question that a failed check may ask a stronger model. [default: 2]")
    ] = None,
    max_cost_usd: Annotated[float | None, typer.Option(help="Hard cap of the run; it stops cleanly there.")] = None,
    max_cost_per_question_usd: Annotated[float | None, typer.Option(help="Hard cap per question.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many rows.")] = None,
    sample: Annotated[int | None, typer.Option(help="A seeded sample of so many rows.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sample and of the models.")] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(help=f"Check of rows that name none: {', '.join(benchmark_names())}."),
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column that holds the id.")] = None,
    question_column: Annotated[str | None, typer.Option(help="Column that holds the question.")] = None,
    answer_column: Annotated[str | None, typer.Option(help="Column that holds the gold answer.")] = None,
    benchmark_column: Annotated[str | None, typer.Option(help="Column that names the benchmark.")] = None,
    choices_column: Annotated[str | None, typer.Option(help="Column that holds the choices.")] = None,
    context_column: Annotated[str | None, typer.Option(help="Column that holds the context.")] = None,
    shard_size: Annotated[
        int | None, typer.Option(help="Problems per shard, the unit of commit. [default: 500]")
    ] = None,
    max_in_flight: Annotated[int | None, typer.Option(help="Problems worked on at once. [default: 64]")] = None,
    models_dir: Annotated[
        str | None, typer.Option(envvar="R2_MODELS_DIR", help="Folder of fetched weights. [default: models]")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML with the same settings; flags override it.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print shards, calls, tokens, USD and time, and stop.")
    ] = False,
) -> None:
    """Answer a file of questions. The same command goes on where it stopped and pays for nothing twice."""
    settings = load_settings(
        config,
        {
            "input": str(file),
            "pool": pool,
            "out": out,
            "lake": lake,
            "default_benchmark": benchmark,
            "limit": limit,
            "sample": sample,
            "max_cost_usd": max_cost_usd,
            "shard_size": shard_size,
            "max_in_flight": max_in_flight,
            "models_dir": models_dir,
            "columns": {
                "id": id_column,
                "question": question_column,
                "answer": answer_column,
                "benchmark": benchmark_column,
                "choices": choices_column,
                "context": context_column,
            },
            "reasoning": {
                "method": method,
                "model": model,
                "decomposer": decomposer,
                "allocator": allocator,
                "finalizer": finalizer,
                "second_decomposer": second_decomposer,
                "b": b,
                "min_confidence": min_confidence,
                "max_escalations": max_escalations,
                "seed": seed,
                "max_cost_per_question_usd": max_cost_per_question_usd,
                "small_model": small_model,
                "large_model": large_model,
                "chain": _names(chain),
                "threshold": threshold,
                "query_router": query_router,
                "mix": _weights(mix),
                "random_level": random_level,
            },
        },
    )
    if dry_run:
        _print_estimate(settings)
        return
    # Here and not above: importing the flow imports Prefect, seconds that --help and --dry-run need not wait for.
    from flows.answer_questions import answer_questions
    from flows.support.embedded_api import embedded_api
    from r2.methods.router import make_router
    from r2.pool.file.config import load_pool
    from storage.sources.questions import check_readable

    loaded = load_pool(settings.pool)
    loaded.check_keys()
    make_router(loaded, settings)
    check_readable(Path(settings.input))
    with embedded_api():
        result = asyncio.run(answer_questions(settings))
    raise typer.Exit(_print_result(result))


def _names(listed: str | None) -> list[str] | None:
    return None if listed is None else [name.strip() for name in listed.split(",")]


def _weights(listed: str | None) -> dict[str, float] | None:
    """A=0.7,B=0.3 as a table."""
    if listed is None:
        return None
    weights = {}
    for part in listed.split(","):
        name, _, weight = part.rpartition("=")
        try:
            weights[name.strip()] = float(weight)
        except ValueError:
            raise ConfigError(f"--mix {listed}: {part.strip()!r} is not MODEL=WEIGHT, as in A=0.7,B=0.3.") from None
    return weights


def _print_result(result: Any) -> int:
    """The run in one table, and the exit code it deserves."""
    summary, progress = result.summary, result.progress
    if progress.n_requested == 0:
        say("The file holds no questions; nothing was asked and nothing was paid.")
        return 0
    table = figures(f"run {summary.run_id}")
    table.add_row("requested", str(progress.n_requested))
    table.add_row("answered", str(summary.n_answered))
    table.add_row("failed", str(summary.n_failed))
    table.add_row("deferred", str(progress.n_deferred))
    if summary.accuracy is not None:
        low, high = summary.accuracy_interval
        table.add_row("accuracy", f"{summary.accuracy:.1%}  (95 % {low:.1%} to {high:.1%}, n = {summary.n_judged})")
    table.add_row("USD", f"{summary.cost_usd:.6f}")
    table.add_row("  of it router", f"{summary.router_cost_usd:.6f}")
    if progress.unsettled_cost_usd > 1e-12:
        table.add_row("  paid for deferred questions", f"{progress.unsettled_cost_usd:.6f}")
    table.add_row("  this session", f"{progress.session_cost_usd:.6f}")
    table.add_row("USD per 1k questions", f"{summary.usd_per_1k:.4f}")
    table.add_row("calls per question", f"{summary.calls_per_question:.2f}")
    table.add_row("seconds", f"{result.wall_s:.1f}")
    for name, n_calls in summary.calls_by_model.items():
        table.add_row(f"calls to {name}", f"{n_calls}  ({n_calls / max(1, sum(summary.calls_by_model.values())):.0%})")
    if progress.n_calls_lost:
        table.add_row(
            "calls in flight when an earlier session was killed", f"{progress.n_calls_lost} (may have been paid twice)"
        )
    results().print(table)
    for path in result.out:
        print(path)
    if progress.n_deferred or progress.stop_reason:
        say(what_is_deferred(progress, "questions"))
    if progress.stop_reason == "interrupted":
        return 130
    if summary.n_failed:
        say(f"{summary.n_failed} rows failed. See why: r2 sql --lake {result.lake} --view errors, or --view bad_rows")
    return 1 if summary.n_failed or progress.n_deferred else 0


def _print_estimate(settings: AnswerSettings) -> None:
    from r2.methods.estimate import estimate_calls
    from r2.methods.router import make_router
    from r2.pool.file.config import load_pool
    from r2.problem import Problem
    from storage.sources.questions import read_questions

    pool = load_pool(settings.pool)
    router = make_router(pool, settings)
    n_questions = n_bad = n_bytes = 0
    for row in read_questions(Path(settings.input), settings.columns, settings.default_benchmark, settings.limit):
        if isinstance(row, Problem):
            n_questions += 1
            n_bytes += len((row.question + row.context).encode())
        else:
            n_bad += 1
    if settings.sample is not None and n_questions > settings.sample:
        n_bytes = round(n_bytes * settings.sample / n_questions)
        n_questions = settings.sample
    prices = {name: pool.price(name) for name in pool.models}
    calls = estimate_calls(router, prices, n_questions, n_bytes)
    n_shards = -(-(n_questions + n_bad) // settings.shard_size)
    print(f"{settings.input}: {n_questions} questions, {n_bad} bad rows, {n_shards} shards")
    print_calls(pool, calls)
    if assumed := method_named(settings.reasoning.method).assumes:
        print(f"Assumed: {assumed}. --max-cost-usd sets a hard cap.")
