"""`r2 demo`: the bundled questions answered on real local models, routed, by chain of thought and by programs, and
these beside each other."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.cli import options
from flows.cli.console import results, starting
from flows.support.terminal import INTERRUPTED
from r2.settings import AnswerSettings, load_settings, routed

if TYPE_CHECKING:  # not when the command starts: --help need not wait for DuckDB
    from r2.roster import Roster
    from storage.runs.summary import RunSummary
    from tasks.answering.finished import RunResult


def demo(
    pool: options.PlainPool = options.DEFAULT_POOL,
    models_dir: options.PlainModelsDir = options.DEFAULT_MODELS,
    out: Annotated[
        Path, options.out("A folder for each demo, with questions, answers and lake.", metavar="FOLDER")
    ] = Path("demo"),
) -> None:
    """Answer the bundled questions with the router, the largest model alone, and programs; compare.

    Missing weights are downloaded first.

    Examples:

        r2 demo
        r2 demo --pool pools/specialists.toml
    """
    starting()
    from importlib.resources import as_file, files

    import uvloop

    from flows.cli.pool import fetch_for_pool
    from flows.support.embedded_api import embedded_api
    from r2.pool.file.config import load_pool

    fetch_for_pool(pool, models_dir)
    ways = ways_of(load_pool(pool).roster(), is_default=pool == options.DEFAULT_POOL)
    here = out / time.strftime("%Y%m%d-%H%M%S")
    here.mkdir(parents=True)
    questions = here / "questions.jsonl"
    with as_file(files("flows") / "demo_questions.jsonl") as bundled:
        shutil.copyfile(bundled, questions)
    ended: list[tuple[AnswerSettings, RunResult]] = []
    with embedded_api(importing="flows.answer_questions"):
        from flows.answer_questions import answer_questions

        for reasoning in ways:
            settings = routed(
                load_settings(
                    None,
                    {
                        "input": str(questions),
                        "pool": pool,
                        "lake": str(here / "lake"),
                        "out": str(here / f"answers.{reasoning['method']}.jsonl"),
                        "models_dir": str(models_dir),
                        "reasoning": reasoning,
                    },
                )
            )
            ended.append((settings, uvloop.run(answer_questions(settings))))
            if ended[-1][1].progress.stop_reason == "interrupted":
                raise typer.Exit(INTERRUPTED)
    results().print(comparison([(s.reasoning.method, r.summary, r.wall_s) for s, r in ended]))
    print("Examples in the prompts: a program's, five of one line; all others none.")
    print(f"Every question with its answers, and every call: {here}. What next:")
    print(f"    r2 report --lake {here / 'lake'}                         # the newest run as one HTML file")
    print(f"    r2 sql --lake {here / 'lake'} --view cost_by_model")
    print(f"    r2 answer your_questions.jsonl --pool {pool} --dry-run   # your own: a .jsonl with question and answer")


SCORER = "local-scorer"
"""What the rule believes of the default pool: trained on other questions of these kinds (docs/results.md)."""
VALUE_USD = 0.0003
"""What a right answer is worth here: some ten times what one costs. Found on 150 other questions, of two values that
were tried (docs/results.md)."""


def ways_of(roster: "Roster", *, is_default: bool = False) -> list[dict[str, object]]:
    """The rule, the chain of thought on the largest model, and its programs where the pool has such an entry and this
    machine can run them. The rule has the shipped scorer where the pool `is_default`."""
    from r2.problems.sandbox import can_run_programs

    routed: dict[str, object] = {"method": "r2"}
    if is_default:
        routed |= {"scorer": SCORER, "value_usd": VALUE_USD}
    ways: list[dict[str, object]] = [routed, {"method": "cot", "model": roster.step_by_step(roster.strongest)}]
    writing = roster.asked_in("program", roster.strongest)
    if roster[writing].prompt_mode == "program" and can_run_programs():
        ways.append({"method": "program", "model": writing})
    return ways


def comparison(runs: "list[tuple[str, RunSummary, float]]") -> Table:
    """One row per method: accuracy with its interval, money, calls, seconds, who answered."""
    table = Table(title=f"the same questions, {len(runs)} ways", title_justify="left")
    table.add_column("method")
    for heading in (
        "accuracy",
        "95 % interval",
        "USD per 1k",
        "of it router",
        "calls per question",
        "seconds",
        "calls by model",
    ):
        table.add_column(heading, justify="right" if heading != "calls by model" else "left")
    for name, summary, wall_s in runs:
        low, high = summary.accuracy_interval or (0.0, 0.0)
        total = max(1, sum(summary.calls_by_model.values()))
        shares = ", ".join(f"{model} {n / total:.0%}" for model, n in summary.calls_by_model.items())
        router_share = summary.router_cost_usd / summary.cost_usd if summary.cost_usd else 0.0
        table.add_row(
            name,
            f"{summary.n_correct}/{summary.n_judged}",
            f"{low:.0%} to {high:.0%}",
            f"{summary.usd_per_1k:.4f}",
            f"{router_share:.0%}",
            f"{summary.calls_per_question:.1f}",
            f"{wall_s:.0f}",
            shares,
        )
    return table
