"""`r2 answer`: a file of questions in, a file of answers out. Results on stdout, progress and errors on stderr."""

import os
import shlex
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import options
from flows.cli.batch import add_batch_rows, print_batch
from flows.cli.checked import checked
from flows.cli.console import figures, print_calls, print_reusable, results, say, starting
from flows.cli.left_over import RETRY_FAILED, what_is_deferred
from flows.cli.options import INPUT, MONEY, OUTPUT, POOL, ROUTER, flag
from flows.support.terminal import INTERRUPTED
from r2.errors import ConfigError
from r2.methods import described, method_named, refuse_unused
from r2.problems.benchmark import benchmark_names
from r2.settings import AnswerSettings, load_settings
from storage.lake.address import named
from storage.lake.stores import check_lake
from storage.sources.hub import is_of_hub

if TYPE_CHECKING:
    from r2.pool.file.config import PoolConfig
    from tasks.answering.finished import RunResult


def answer(
    file: Annotated[
        str | None,
        typer.Argument(
            help="Questions: .jsonl, .csv, .tsv, .parquet (.gz allowed), an OpenAI Batch .jsonl, or a data set of the "
            "Hugging Face hub, as hf:NAME?split=test. Or `input` in the --config file."
        ),
    ] = None,
    config: options.Config = None,
    limit: options.Limit = None,
    sample: Annotated[
        int | None, flag(INPUT, "--sample", metavar="N", help="A random sample of N questions.", default="all")
    ] = None,
    seed: options.Seed = None,
    benchmark: Annotated[
        str | None,
        flag(
            INPUT,
            "--benchmark",
            metavar="NAME",
            help=f"Benchmark whose check judges rows that name none: {', '.join(benchmark_names())}.",
            default="none",
        ),
    ] = None,
    id_column: Annotated[
        str | None, flag(INPUT, "--id-column", metavar="NAME", help="Column of the id.", default="id")
    ] = None,
    question_column: Annotated[
        str | None,
        flag(INPUT, "--question-column", metavar="NAME", help="Column of the question.", default="question"),
    ] = None,
    answer_column: Annotated[
        str | None,
        flag(INPUT, "--answer-column", metavar="NAME", help="Column of the gold answer.", default="answer"),
    ] = None,
    benchmark_column: Annotated[
        str | None,
        flag(INPUT, "--benchmark-column", metavar="NAME", help="Column of the benchmark.", default="benchmark"),
    ] = None,
    choices_column: Annotated[
        str | None, flag(INPUT, "--choices-column", metavar="NAME", help="Column of the choices.", default="choices")
    ] = None,
    context_column: Annotated[
        str | None, flag(INPUT, "--context-column", metavar="NAME", help="Column of the context.", default="context")
    ] = None,
    request_column: Annotated[
        str | None,
        flag(
            INPUT,
            "--request-column",
            metavar="NAME",
            help="Column of what a row asks for itself: an object with temperature, max_tokens, ...",
            default="none",
        ),
    ] = None,
    check: options.Check = None,
    rubric: options.Rubric = None,
    pool: options.Pool = None,
    models_dir: options.ModelsDir = None,
    max_in_flight: options.MaxInFlight = None,
    require: Annotated[
        str | None,
        flag(
            POOL,
            "--require",
            metavar="POLICY",
            help="Ask only entries whose tables in the pool file say where data is processed and how long it is kept, "
            "and say so: region=eu,retention=none or retention=30d.",
            default="nothing",
        ),
    ] = None,
    lane: options.Lane = None,
    deadline: options.Deadline = None,
    method: Annotated[
        str | None,
        flag(
            ROUTER,
            "--method",
            metavar="NAME",
            help=f"Way to answer: {described()}.",
            default="r2",
        ),
    ] = None,
    decomposer: options.Decomposer = None,
    allocator: options.Allocator = None,
    second_decomposer: Annotated[
        str | None,
        flag(
            ROUTER,
            "--second-decomposer",
            metavar="NAME",
            help="Pool entry that plans again where a plan fails its check, or none.",
            default="the pool file's",
        ),
    ] = None,
    finalizer: Annotated[
        str | None,
        flag(
            ROUTER,
            "--finalizer",
            metavar="NAME",
            help="Pool entry that writes the answer from a plan's results, or last_step.",
            default="the pool file's; a row without a benchmark: the strongest model of its steps",
        ),
    ] = None,
    b: Annotated[float | None, options.cost_knob("", "NUMBER", "0")] = None,
    min_confidence: Annotated[
        float | None,
        flag(
            ROUTER,
            "--min-confidence",
            metavar="SHARE",
            help="A step whose model is less sure of its result goes to the next stronger one. Needs "
            "log-probabilities.",
            default="0",
        ),
    ] = None,
    max_escalations: Annotated[
        int | None,
        flag(
            ROUTER,
            "--max-escalations",
            metavar="N",
            help="Times per question that a failed check may ask a stronger model.",
            default="2",
        ),
    ] = None,
    routing: Annotated[
        str | None, options.routing("rule; allocator with --allocator; with --target-accuracy as the sweep has it")
    ] = None,
    value_usd: options.ValueUsd = None,
    horizon: options.Horizon = None,
    wait_usd_per_hour: options.WaitUsdPerHour = None,
    scorer: Annotated[str | None, options.scorer("", "none: profiles, agreement and confidence")] = None,
    verify: options.Verify = None,
    max_answer_tokens: options.MaxAnswerTokens = None,
    schema: options.Schema = None,
    system: options.System = None,
    model: Annotated[
        str | None,
        flag(
            POOL,
            "--model",
            metavar="NAME",
            help="A pool entry to ask. The only one, by methods that use one; the first, by start and start_steps.",
            default="the strongest",
        ),
    ] = None,
    small_model: Annotated[
        str | None,
        flag(
            POOL,
            "--small-model",
            metavar="NAME",
            help="Pool entry that datashunt, automix and dot ask first.",
            default="the cheapest",
        ),
    ] = None,
    large_model: Annotated[
        str | None,
        flag(
            POOL,
            "--large-model",
            metavar="NAME",
            help="Pool entry they ask where the small model is not sure.",
            default="the strongest",
        ),
    ] = None,
    chain: Annotated[
        str | None,
        flag(
            POOL,
            "--chain",
            metavar="NAME,...",
            help="Models of automix and of the cascades, in the order of asking.",
            default="small and large model",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        flag(
            ROUTER,
            "--threshold",
            metavar="SHARE",
            help="Confidence from which datashunt, automix, dot and confidence_cascade keep an answer; probability of "
            "being right from which query_router takes a model.",
            default="0.8",
        ),
    ] = None,
    query_router: Annotated[
        str | None,
        flag(
            ROUTER,
            "--query-router",
            metavar="FILE",
            help="Fitted router (JSON) of query_router.",
            default="none",
        ),
    ] = None,
    mix: Annotated[
        str | None,
        flag(
            POOL,
            "--mix",
            metavar="NAME=WEIGHT,...",
            help="Models that random draws from, with their weights.",
            default="every solver alike",
        ),
    ] = None,
    random_level: Annotated[
        str | None,
        flag(
            ROUTER,
            "--random-level",
            metavar="LEVEL",
            help="What random draws a model for: query or subtask.",
            default="query",
        ),
    ] = None,
    max_cost_usd: options.MaxCostUsd = None,
    tag: options.Tags = None,
    max_cost_per_question_usd: Annotated[
        float | None,
        flag(
            MONEY,
            "--max-cost-per-question-usd",
            metavar="USD",
            help="Hard cap on what a question may cost.",
            default="no cap",
        ),
    ] = None,
    target_accuracy: options.TargetAccuracy = None,
    delta: options.Delta = None,
    certified: Annotated[
        str | None,
        flag(
            MONEY,
            "--certified",
            metavar="SWEEP",
            help="The sweep that shows it: its id in the lake, or its JSON file.",
            default="the only sweep of this router and pool in the lake",
        ),
    ] = None,
    reuse: Annotated[bool | None, options.reuse("off")] = None,
    retry_failed: Annotated[
        bool,
        flag(
            INPUT,
            RETRY_FAILED,
            help="Ask the questions again that an earlier session settled as failed. What they cost before is kept.",
        ),
    ] = False,
    join: Annotated[
        bool,
        flag(
            INPUT,
            "--join",
            help="Work on the run beside other machines that do the same (docs/many_machines.md).",
        ),
    ] = False,
    runner: options.Runner = None,
    dry_run: options.DryRun = False,
    out: Annotated[
        str | None,
        options.out("Answers in input order, as .jsonl, .csv, .tsv or .parquet.", "beside the input, NAME.answers.*"),
    ] = None,
    more_columns: Annotated[
        str | None,
        flag(
            OUTPUT,
            "--columns",
            metavar="NAME,...",
            help="Further columns of the answers file: plan, models, latency_s, router_cost_usd, n_attempts, "
            "n_escalations, failed_checks, input_tokens, output_tokens.",
        ),
    ] = None,
    lake: options.Lake = None,
    shard_size: Annotated[int | None, options.shard_size("500")] = None,
) -> None:
    """Answer a file of questions.

    The same command continues where it stopped and pays for nothing twice.

    Examples:

        r2 answer questions.jsonl --pool pools/local.toml --dry-run
        r2 answer questions.jsonl --pool pools/local.toml --max-cost-usd 5
        r2 answer questions.jsonl --method cot --model qwen-1.5b-cot
        r2 answer questions.jsonl --check grade.py:ok --verify grade.py:looks_right
        r2 answer questions.jsonl --check judge:qwen-1.5b --rubric rubric.txt
        r2 answer letters.csv --system clerk.txt --schema letter.json
        r2 answer questions.jsonl --pool pool.toml --lane batch --deadline 6h
        r2 answer questions.jsonl --target-accuracy 0.95 --delta 0.05
    """
    settings = load_settings(
        config,
        {
            "input": file,
            "pool": pool,
            "out": out,
            "more_columns": options.names_of(more_columns),
            "lake": lake,
            "default_benchmark": benchmark,
            "limit": limit,
            "sample": sample,
            "max_cost_usd": max_cost_usd,
            "tags": options.tags_of(tag),
            "target_accuracy": target_accuracy,
            "delta": delta,
            "certified": certified,
            "reuse": reuse,
            "shard_size": shard_size,
            "max_in_flight": max_in_flight,
            "lane": lane,
            "require": require,
            "deadline_s": options.seconds_of(deadline, "--deadline"),
            "models_dir": models_dir,
            "columns": {
                "id": id_column,
                "question": question_column,
                "answer": answer_column,
                "benchmark": benchmark_column,
                "choices": choices_column,
                "context": context_column,
                "request": request_column,
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
                "routing": routing,
                "value_usd": value_usd,
                "horizon": horizon,
                "wait_usd_per_hour": wait_usd_per_hour,
                "scorer": scorer,
                "check": check,
                "rubric": rubric,
                "verify": verify,
                "max_answer_tokens": max_answer_tokens,
                "schema_file": schema,
                "system_file": system,
                "seed": seed,
                "max_cost_per_question_usd": max_cost_per_question_usd,
                "small_model": small_model,
                "large_model": large_model,
                "chain": options.names_of(chain),
                "threshold": threshold,
                "query_router": query_router,
                "mix": _weights(mix),
                "random_level": random_level,
            },
        },
    )
    if is_of_hub(settings.input):
        from tasks.answering.hub_input import input_as_file

        settings = input_as_file(settings)
    settings = _routed(_kept(settings))
    refuse_unused(settings.reasoning)
    if runner not in (None, "ray") or (runner and not join):
        raise ConfigError(f"--runner {runner}: with --join, and ray is the only one.")
    if join:
        from r2.pool.coordination.address import named_url

        named_url()
    if join and retry_failed:
        raise ConfigError(f"--join {RETRY_FAILED}: failed questions are asked again by a run that is not joined.")
    if dry_run:
        _print_estimate(settings)
        return
    starting()
    # Here and not above: --help and --dry-run need not wait for it.
    import uvloop

    from r2.methods.router import make_router
    from r2.pool.batch.choosing import batch_choices
    from r2.pool.file.config import load_pool
    from r2.pool.file.data_policy import left_out, pool_of
    from storage.runs.answers import check_out
    from storage.sources.questions import check_readable
    from tasks.answering.finished import finished_run

    loaded = pool_of(settings)
    if settings.require and (skipped := left_out(load_pool(settings.pool), loaded)):
        say(f"r2: --require {settings.require}: not asked: {', '.join(skipped)}")
    loaded.check_keys()
    make_router(loaded, settings)
    batch_choices(loaded, settings.lane, settings.deadline_s)
    check_readable(Path(settings.input))
    check_out(settings.out, Path(settings.input), settings.more_columns)
    check_lake(settings.lake)
    if runner:
        from flows.cli.on_ray import run_on_ray
        from tasks.answering.plan_file import plan_file

        raise typer.Exit(run_on_ray(settings.lake, plan_file(settings).name, settings.pool))
    result = uvloop.run(_joined(settings)) if join else finished_run(settings, retry_failed=retry_failed)
    if result is None:
        result = uvloop.run(_answered(settings, loaded, retry_failed=retry_failed))
    raise typer.Exit(print_result(result))


async def _answered(settings: AnswerSettings, pool: "PoolConfig", *, retry_failed: bool) -> "RunResult":
    from flows.support.head_start import head_start
    from flows.support.ready import api_and_models

    module = "flows.answer_questions"
    async with AsyncExitStack() as stack:
        # A server that is there keeps nobody waiting. --retry-failed: the flow's first step opens the questions again.
        if retry_failed or os.environ.get("PREFECT_API_URL"):
            stack.enter_context(api_and_models(pool, importing=module))
        elif stopped := await stack.enter_async_context(head_start(settings, pool, importing=module)):
            return stopped
        from flows.answer_questions import answer_questions  # imports Prefect, which takes seconds

        return await answer_questions(settings, retry_failed=retry_failed)


async def _joined(settings: AnswerSettings) -> "RunResult":
    """By a flow where an API is there to be told. None is started for it: nothing of a join is Prefect's."""
    if os.environ.get("PREFECT_API_URL"):
        from flows.join_run import join_run  # imports Prefect, which takes seconds
        from flows.support.embedded_api import embedded_api

        with embedded_api():
            return await join_run(settings)
    from flows.support.joined_run import joined_file

    return await joined_file(settings)


def _routed(settings: AnswerSettings) -> AnswerSettings:
    """The settings with the way to route that holds where none is named; said where it is not the usual one."""
    from tasks.answering.routing import routed_run

    settings, said = routed_run(settings)
    if said:
        say(f"r2: {said}")
    return settings


def _kept(settings: AnswerSettings) -> AnswerSettings:
    """The settings with the b that keeps the promised accuracy, which is said."""
    if settings.target_accuracy is None and settings.certified is None:
        return settings
    from storage.evaluations.promise import promised

    promise = promised(settings)
    if promise is None:
        return settings
    say(f"r2: {promise.said}")
    return promise.settings


def _weights(listed: str | None) -> dict[str, float] | None:
    """The table of `A=0.7,B=0.3`. ConfigError for a part that is not MODEL=WEIGHT."""
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


def print_result(result: Any) -> int:
    """The run in one table, and the exit code it deserves."""
    summary, progress = result.summary, result.progress
    if progress.n_requested == 0:
        say("The file holds no questions; nothing was asked and nothing was paid.")
        return 0
    table = figures(f"run {summary.run_id}")
    table.add_row("requested", str(progress.n_requested))
    table.add_row("answered", str(summary.n_answered))
    table.add_row("failed", str(summary.n_failed))
    if result.n_reopened:
        table.add_row("  failed before and asked again", str(result.n_reopened))
    table.add_row("deferred", str(progress.n_deferred))
    if summary.accuracy is not None:
        low, high = summary.accuracy_interval
        table.add_row("accuracy", f"{summary.accuracy:.1%}  (95 % {low:.1%} to {high:.1%}, n = {summary.n_judged})")
    for what, figure in checked(summary.check):
        table.add_row(f"  {what}", figure)
    table.add_row("USD", f"{summary.cost_usd:.6f}")
    table.add_row("  of it router", f"{summary.router_cost_usd:.6f}")
    if summary.check is not None and summary.check.judge_usd:
        table.add_row("  of it judge", f"{summary.check.judge_usd:.6f}")
    if progress.unsettled_cost_usd > 1e-12:
        table.add_row("  paid beside: deferred questions, lost calls", f"{progress.unsettled_cost_usd:.6f}")
    table.add_row("  this session", f"{progress.session_cost_usd:.6f}")
    add_batch_rows(table, result)
    if summary.n_cached_tokens or summary.n_cache_write_tokens:
        table.add_row("  saved by the providers' caches", f"{summary.cache_saved_usd:.6f}")
        said = f"{summary.n_cached_tokens:,} read, {summary.n_cache_write_tokens:,} written"
        table.add_row("  prompt tokens of their caches", said)
    if summary.n_reused:
        table.add_row("  saved: paid by earlier runs", f"{summary.saved_usd:.6f}")
        table.add_row("  calls used again", str(summary.n_reused))
    table.add_row("USD per 1k questions", f"{summary.usd_per_1k:.4f}")
    table.add_row("calls per question", f"{summary.calls_per_question:.2f}")
    table.add_row("seconds", f"{result.wall_s:.1f}")
    for name, n_calls in summary.calls_by_model.items():
        table.add_row(f"calls to {name}", f"{n_calls}  ({n_calls / max(1, sum(summary.calls_by_model.values())):.0%})")
    if progress.n_calls_lost:
        table.add_row(
            "answers lost by a kill or a damaged journal", f"{progress.n_calls_lost} (may have been paid twice)"
        )
    results().print(table)
    for path in result.out:
        print(path)
    say("See it as one page: " + shlex.join(["r2", "report", summary.run_id, "--lake", named(result.lake)]))
    if result.warning:
        say(f"r2: {result.warning}")
    if progress.n_deferred or progress.stop_reason:
        say(what_is_deferred(progress, "questions"))
    if progress.stop_reason == "interrupted":
        return INTERRUPTED
    for line in progress.said:
        say(f"r2: {line}")
    if summary.n_failed:
        ask = f"r2 sql --lake {named(result.lake)}"
        say(f"{summary.n_failed} rows failed. See why: {ask} --view errors, or --view bad_rows")
        say(f"{RETRY_FAILED} asks the questions among them again.")
    if summary.n_cut:
        say(f"{summary.n_cut} answers end at their token limit and nobody stronger had a whole one: finish = length.")
    if summary.n_doubtful_bills:
        say(
            f"{summary.n_doubtful_bills} bills cannot be true of what was asked, and count as they came: r2 sql --lake "
            f"{named(result.lake)} --view errors, doubtful_usage."
        )
    if summary.n_without_logprobs:
        say(
            f"{summary.n_without_logprobs} questions got no log-probabilities from entries whose pool table promises "
            "them (logprobs = true): --b and --min-confidence had nothing to go by there. `r2 pool check` says which."
        )
    n_unjudged = 0 if summary.check is None else summary.check.n_errors
    if n_unjudged:
        say(f"Your check gave no verdict on {n_unjudged} answers: column check_error of the answers says why.")
    return 1 if summary.n_failed or progress.n_deferred or summary.n_cut or n_unjudged else 0


def _questions(settings: AnswerSettings) -> Iterator[str]:
    from r2.problem import Problem
    from storage.sources.questions import read_questions

    rows = read_questions(Path(settings.input), settings.columns, settings.default_benchmark, settings.limit)
    return (row.question for row in rows if isinstance(row, Problem))


def _print_estimate(settings: AnswerSettings) -> None:
    from r2.methods.estimate import estimate_calls, rows_of
    from r2.methods.expected import FREE_ASSUMED
    from r2.methods.router import make_router
    from r2.pool.batch.choosing import batch_choices
    from r2.pool.file.data_policy import pool_of
    from r2.problem import Problem
    from storage.sources.column_names import columns_in, told
    from storage.sources.first_rows import why_none
    from storage.sources.questions import detect_format, read_questions

    pool = pool_of(settings)
    batch_choices(pool, settings.lane, settings.deadline_s)
    router = make_router(pool, settings)
    n_bad = 0
    source = Path(settings.input)
    columns = columns_in(source, settings.columns)
    if said := told(settings.columns, columns):
        say(f"r2: {said}")
    if refused := why_none(source, read_questions(source, columns, limit=settings.limit), detect_format(source)):
        say(f"r2: {refused}")
        raise typer.Exit(1)

    def good_rows() -> Iterator[Problem]:
        nonlocal n_bad
        for row in read_questions(source, columns, settings.default_benchmark, settings.limit):
            if isinstance(row, Problem):
                yield row
            else:
                n_bad += 1

    rows = rows_of(good_rows(), router)
    n_questions = sum(part.n for part in rows)
    if settings.sample is not None and n_questions > settings.sample:
        rows = [part.times(settings.sample / n_questions) for part in rows]
        n_questions = settings.sample
    prices = {name: pool.price(name) for name in pool.models}
    calls = estimate_calls(router, prices, rows)
    n_shards = -(-(n_questions + n_bad) // settings.shard_size)
    print(f"{settings.input}: {n_questions} questions, {n_bad} bad rows, {n_shards} shards")
    print_calls(pool, calls)
    print_batch(pool, settings, calls, n_questions)
    print_reusable(settings, pool, _questions(settings))
    if assumed := "; ".join(
        filter(
            None, [method_named(settings.reasoning.method).assumes, FREE_ASSUMED * any(part.is_free for part in rows)]
        )
    ):
        print(f"Assumed: {assumed}. --max-cost-usd sets a hard cap.")
