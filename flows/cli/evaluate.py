"""`r2 evaluate`: methods on the same problems, in one table with intervals and a verdict. Results on stdout, progress
on stderr."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.cli import options
from flows.cli.checked import checked
from flows.cli.console import results, say, say_columns, starting
from flows.cli.options import INPUT, ROUTER, flag
from flows.support.terminal import INTERRUPTED, this_command
from r2.errors import ConfigError
from r2.methods import described
from storage.lake.address import named
from storage.lake.stores import check_lake

if TYPE_CHECKING:  # not when the command starts: --help need not wait for numpy
    from r2.evaluation.comparison import Comparison, Estimate
    from r2.evaluation.settings import EvaluateSettings
    from storage.evaluations.store import EvaluatedRow, Evaluation


TABLE_WIDTH = 170
MOST_RULES = 5
"""Simpler methods that win over the judged one, and are named below the table."""


def evaluate(
    config: options.Config = None,
    problems: options.Problems = None,
    limit: options.Limit = None,
    seed: options.Seed = None,
    held_out: options.HeldOut = None,
    split_seed: options.SplitSeed = None,
    dev_share: Annotated[
        float | None,
        flag(
            INPUT,
            "--dev-share",
            metavar="SHARE",
            help="Share of the problems that choose operating points, between 0 and 1. The others give the table.",
            default="0.3",
        ),
    ] = None,
    train_labels: Annotated[
        str | None,
        flag(
            INPUT,
            "--train-labels",
            metavar="FOLDER",
            help="Label sets the router was trained on, for the leakage check.",
            default="none",
        ),
    ] = None,
    outcomes: Annotated[list[Path] | None, options.outcomes("none: the pool is asked")] = None,
    test: Annotated[
        list[Path] | None,
        flag(
            INPUT,
            "--test",
            metavar="FILE...",
            help="With --outcomes: recorded answers to other questions. All of --outcomes is fitted on, these are "
            "played once. Without it every question is played by methods fitted on others. Repeatable; several files "
            "may follow one flag.",
            default="none",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        flag(
            INPUT,
            "--folds",
            metavar="N",
            help="With --outcomes: each of so many parts is played by methods fitted on the others. 1: one half of the "
            "questions is fitted on, the other played.",
            default="5",
        ),
    ] = None,
    data_dir: options.DataDir = None,
    check: options.Check = None,
    rubric: options.Rubric = None,
    pool: options.Pool = None,
    models_dir: options.ModelsDir = None,
    max_in_flight: options.MaxInFlight = None,
    methods: Annotated[
        str | None,
        flag(
            ROUTER,
            "--methods",
            metavar="NAME,...",
            help="Methods to compare: direct (each solver, asked as its prompt mode says), direct:MODEL, cot:MODEL, "
            f"{described()}. NAME:MODEL and NAME:all where a method uses one model; all for every method.",
            default="all that are compared by default",
        ),
    ] = None,
    methods_in_flight: Annotated[
        int | None,
        flag(ROUTER, "--methods-in-flight", metavar="N", help="Methods worked on at once.", default="8"),
    ] = None,
    router: Annotated[
        list[str] | None,
        flag(
            ROUTER,
            "--router",
            metavar="NAME=DECOMPOSER:ALLOCATOR",
            help="A router of the pool's entries, a row of method r2 each. Repeatable.",
            default="the pool file's",
        ),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        options.scorer("A row of method r2 each; none for the untrained rule. Repeatable.", "no such row"),
    ] = None,
    b: Annotated[
        str | None, options.cost_knob("Each value is tried on dev problems.", "NUMBER,...", "0,0.05,0.1,0.2,0.4")
    ] = None,
    verify: options.Verify = None,
    max_answer_tokens: options.MaxAnswerTokens = None,
    schema: options.Schema = None,
    system: options.System = None,
    subject: Annotated[
        str | None,
        flag(
            ROUTER,
            "--subject",
            metavar="ROW",
            help="Row that the verdict is about.",
            default="the last of method r2",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        flag(
            ROUTER,
            "--seeds",
            metavar="N",
            help="Repetitions on test problems. With --outcomes: how often each trained method is trained.",
            default="1",
        ),
    ] = None,
    max_cost_usd: options.MaxCostUsd = None,
    reuse: Annotated[bool | None, options.reuse("on")] = None,
    dry_run: options.DryRun = False,
    lake: options.Lake = None,
) -> None:
    """Compare methods on the same problems, in one table with intervals and a verdict.

    Dev problems choose each method's operating point, test problems give the table.
    Calls that several methods share are paid once. The same command continues where
    it stopped.

    Examples:

        r2 evaluate --problems scan --problems arithmetic --limit 100 --pool pools/simulated.toml --dry-run
        r2 evaluate --config configs/local/3_evaluate.toml
        r2 evaluate --problems file:questions.jsonl --check grade.py:ok
        r2 evaluate --pool recording:benchmarks/headline.jsonl.gz
        r2 evaluate --outcomes gsm8k.parquet mmlu.parquet --test other.parquet
    """
    given = dict(locals())
    if outcomes or test:
        from flows.cli.recorded import evaluate_recorded

        raise typer.Exit(evaluate_recorded(given))
    from r2.evaluation.settings import EvaluateSettings
    from r2.pool.file.config import load_pool
    from r2.settings import load

    own = {
        "check": check,
        "rubric": rubric,
        "verify": verify,
        "max_answer_tokens": max_answer_tokens,
        "schema_file": schema,
        "system_file": system,
    }
    flags: dict[str, Any] = {
        "problems": tuple(problems) if problems else None,
        "limit": limit,
        "pool": pool,
        "methods": options.rows_of(methods),
        "routers": tuple(router) if router else None,
        "scorers": tuple(scorer) if scorer else None,
        "subject": subject,
        "b": options.numbers_of("--b", b),
        "seeds": seeds,
        "dev_share": dev_share,
        "held_out": held_out,
        "seed": seed,
        "split_seed": split_seed,
        "lake": lake,
        "train_labels": train_labels,
        "max_cost_usd": max_cost_usd,
        "reuse": reuse,
        "max_in_flight": max_in_flight,
        "methods_in_flight": methods_in_flight,
        "data_dir": data_dir,
        "models_dir": models_dir,
        "reasoning": {name: value for name, value in own.items() if value is not None} or None,
    }
    settings = load(EvaluateSettings, config, recorded_settings(flags))
    if not settings.pool.startswith("recording:"):
        say_columns(settings.problems)
    if dry_run:
        _print_estimate(settings)
        return
    starting()
    # Here and not above: --help and --dry-run need not wait for it.
    import uvloop

    from flows.support.ready import api_and_models
    from r2.evaluation.operating_points import variants_of
    from tasks.evaluation.finished import finished_evaluation

    loaded = load_pool(settings.pool)
    loaded.check_keys()
    variants_of(settings, loaded.roster(), loaded.router.decomposer, loaded.router.allocator)
    check_lake(settings.lake)
    result = finished_evaluation(settings)
    if result is None:
        with api_and_models(loaded, importing="flows.evaluate_methods"):
            from flows.evaluate_methods import evaluate_methods  # imports Prefect, which takes seconds

            result = uvloop.run(evaluate_methods(settings))
    raise typer.Exit(print_result(result))


def recorded_settings(flags: dict[str, Any]) -> dict[str, Any]:
    """For the recording of an evaluation: what it was asked, with the flags that were given in their place."""
    from r2.pool.file.recording import recorded_evaluation

    pool = flags.get("pool") or ""
    if not pool.startswith("recording:") or flags.get("problems"):
        return flags
    recorded = recorded_evaluation(Path(pool.partition(":")[2]))
    if recorded is None:
        raise ConfigError(f"--pool {pool}: the recording of a run, not of an evaluation; name --problems too.")
    asked = {
        key: value
        for key, value in recorded["settings"].items()
        if key not in ("pool", "lake", "max_cost_usd", "models_dir", "data_dir")
    }
    given = {key: value for key, value in flags.items() if value is not None}
    return asked | given | {"reasoning": asked.get("reasoning", {}) | given.get("reasoning", {})}


def _print_estimate(settings: "EvaluateSettings") -> None:
    """Rows with the runs they need, and calls as if nothing were shared between them."""
    from flows.cli.console import print_calls, print_reusable
    from r2.evaluation.estimate import estimate_evaluation
    from r2.methods.router import make_router
    from r2.pool.file.config import load_pool
    from storage.evaluations.problems import evaluated_problems

    pool = load_pool(settings.pool)
    found = evaluated_problems(settings)
    router = make_router(pool, settings.answering("", settings.reasoning))
    print(f"{len(found.dev)} dev problems, {len(found.test)} test problems, {settings.seeds} seeds")
    rows, calls = estimate_evaluation(settings, router, found.dev, found.test)
    for name, n_dev, n_test in rows:
        print(f"  {name}: {n_dev} runs on dev, {n_test} on test problems")
    print_calls(pool, calls)
    if settings.reuse:
        asked = (problem.question for problem in (*found.dev, *found.test))
        print_reusable(settings.answering("", settings.reasoning), pool, asked)
    print(
        "An upper estimate: calls that methods or operating points share are paid once. --max-cost-usd sets a hard cap."
    )


def print_result(result: Any, *, is_kept: bool = True) -> int:
    """The table, the verdict, the counts and the money, and where it is kept; the exit code: 0 done, 130 interrupted,
    else 1."""
    evaluation, comparison = result.evaluation, result.comparison
    if comparison is not None:
        console = results()
        if not console.is_terminal:
            console.width = TABLE_WIDTH
        console.print(comparison_table(evaluation, comparison))
        print_remarks(evaluation, comparison)
    check = evaluation.check
    for what, figure in checked(check):
        print(f"{what}: {figure}")
    if check is not None and check.judge_usd:
        print(f"judging: {check.judge_usd:.6f} USD of what is charged below, and no part of the rows above")
    print(evaluation.verdict)
    print(
        f"charged {evaluation.charged_usd:.6f} USD for {evaluation.n_calls_charged} calls; paid "
        f"{evaluation.paid_usd:.6f} USD for "
        f"{evaluation.n_calls_paid} ({result.session_paid_usd:.6f} USD in this session, {evaluation.wall_s:.1f} s)"
    )
    if evaluation.n_calls_charged > evaluation.n_calls_paid:
        print(
            f"saved {max(0.0, evaluation.charged_usd - evaluation.paid_usd):.6f} USD and "
            f"{evaluation.n_calls_charged - evaluation.n_calls_paid} calls: several methods share them, or earlier "
            "runs paid for them"
        )
    if evaluation.leaks is not None:
        leaks = evaluation.leaks
        print(
            f"leakage: of {leaks.n_train} training questions {leaks.n_same} are among the test problems and "
            f"{leaks.n_near} nearly so"
        )
    if is_kept:
        print(result.lake / "_evaluations" / evaluation.evaluation_id / "summary.json")
        print(f"r2 report {evaluation.evaluation_id} --lake {named(result.lake)}")
    if left := evaluation.unfinished:
        why = {"budget_stopped": "Stopped at the money budget", "interrupted": "Interrupted"}.get(
            evaluation.status, "Some calls could not be made"
        )
        say(f"{why}; not finished: {', '.join(left)}. The same command resumes it:\n  {this_command()}")
    n_unjudged = 0 if check is None else check.n_errors
    if n_unjudged:
        say(f"Your check gave no verdict on {n_unjudged} answers; they count as wrong.")
    return INTERRUPTED if evaluation.status == "interrupted" else 1 if left or n_unjudged else 0


def comparison_table(evaluation: "Evaluation", comparison: "Comparison") -> Table:
    """One line per row, in the order asked for."""
    chosen = {row.name: row for row in evaluation.rows}
    n_seeds = max((m.n_seeds for m in comparison.methods), default=1)
    table = Table(
        title=f"{evaluation.evaluation_id}: {comparison.n_problems} test problems, {n_seeds} "
        f"seed{'s' * (n_seeds > 1)}; points chosen on "
        f"{evaluation.n_dev} dev problems; brackets: 95 % intervals",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
    )
    for heading in ("row", "point"):
        table.add_column(heading, no_wrap=True)
    for heading in ("accuracy", "USD per 1k", "saved*", "calls", "p50 s", "p95 s", "router", "top model"):
        table.add_column(heading, justify="right", no_wrap=True)
    for m in comparison.methods:
        row = chosen[m.label]
        table.add_row(
            ("> " if m.label == comparison.subject else "") + m.label,
            _point(row),
            f"{m.accuracy.value:.1%} {_spread(m.accuracy, percent=True)}",
            f"{m.usd_per_1k.value:.4g} {_spread(m.usd_per_1k, percent=False)}",
            f"{m.cost_saved.value:.1%}" if m.cost_saved else "-",
            f"{m.calls_per_problem:.1f}",
            f"{m.latency_p50_s:.2f}",
            f"{m.latency_p95_s:.2f}",
            "-" if m.router_share is None else f"{m.router_share:.0%}",
            "-" if m.top_model is None else f"{m.top_model} {m.top_model_share:.0%}",
            style="bold" if m.label == comparison.subject else "",
        )
    if comparison.oracle_accuracy is not None and comparison.oracle_usd_per_1k is not None:
        table.add_row(
            "oracle", "hindsight", f"{comparison.oracle_accuracy:.1%}", f"{comparison.oracle_usd_per_1k:.4g}", *[""] * 6
        )
    return table


def _point(row: "EvaluatedRow") -> str:
    """The knob's value, as a threshold `at 0.8`, else `b = 0.2`; "" for a row without a knob."""
    if row.value is None:
        return ""
    return f"at {row.value:g}" if row.knob == "threshold" else f"{row.knob} = {row.value:g}"


def print_remarks(evaluation: "Evaluation", comparison: "Comparison") -> None:
    """What the figures can and cannot tell, what was chosen on dev problems, and which simpler methods win."""
    from r2.evaluation.verdict import rules_ahead

    bands = ", ".join(f"{n} {name}" for name, n in comparison.n_by_difficulty.items())
    print("* at equal accuracy, against the best constant model; - where that accuracy is not reached")
    print(
        f"{comparison.n_problems} problems tell apart accuracies that differ by more than about "
        f"{100 * comparison.accuracy_half_width:.0f} points. Difficulty: {bands} ({evaluation.difficulty_source})."
    )
    if comparison.best_constant is not None and comparison.cheap_constant is not None:
        within = f"cheapest within {100 * comparison.margin:g} points of it"
        first = f"{_figures(comparison, comparison.best_constant)}, the most accurate constant"
        if comparison.cheap_constant == comparison.best_constant:
            print(f"Reference: {first} and the {within}.")
        else:
            print(f"References: {first}; {_figures(comparison, comparison.cheap_constant)}, the {within}.")
    for row in evaluation.rows:
        if row.rule and not row.knob and row.dev:
            print(f"{row.name}: chosen on dev problems: {row.rule}")
    ahead = rules_ahead(comparison, evaluation.settings.get("cost_weight", 0.0))
    for one in ahead[:MOST_RULES]:
        print(one.said)
    if len(ahead) > MOST_RULES:
        print(f"So do {len(ahead) - MOST_RULES} more rows; the report has them all.")


def _figures(comparison: "Comparison", label: str) -> str:
    m = comparison[label]
    return f"{label} ({m.accuracy.value:.1%} at {m.usd_per_1k.value:.4g} USD per 1k)"


def _spread(estimate: "Estimate", *, percent: bool) -> str:
    interval = estimate.interval
    if interval is None:
        return ""
    low, high = (f"{100 * value:.0f}" if percent else f"{value:.3g}" for value in (interval.low, interval.high))
    return f"\\[{low}, {high}]"
