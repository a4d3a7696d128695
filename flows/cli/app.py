"""The command `r2`: a thin face on the flows. Results on stdout, progress and errors on stderr.

How it ends, with which exit code: `flows/support/ending.py`.
"""

from collections.abc import Callable
from typing import Annotated

import typer
from typer.core import TyperGroup

from flows.cli import (
    answer,
    demo,
    evaluate,
    grpo,
    label,
    lake,
    plans,
    policy,
    pool,
    pool_add,
    pool_init,
    report,
    rescore,
    sft,
    sql,
    sweep,
)
from flows.cli.command import command_class

ANSWERING, LABELLING, TRAINING, EVALUATION, KEEPING = "Answer", "Label", "Train", "Evaluate", "Look and keep"
JOBS = {
    "demo": ANSWERING,
    "pool": ANSWERING,
    "answer": ANSWERING,
    "label": LABELLING,
    "plans": LABELLING,
    "sft": TRAINING,
    "grpo": TRAINING,
    "policy": TRAINING,
    "evaluate": EVALUATION,
    "report": EVALUATION,
    "rescore": EVALUATION,
    "sql": KEEPING,
    "lake": KEEPING,
}
"""Command -> job, both in the order in which `r2 --help` lists them."""


class _InOrder(TyperGroup):
    """Lists the commands in the order of the jobs; Typer would list groups of commands first."""

    def list_commands(self, ctx: object) -> list[str]:
        return [name for name in JOBS if name in self.commands]


def _group(name: str, about: str, functions: dict[str, Callable[..., None]]) -> typer.Typer:
    """`r2 NAME ...`: commands that belong together."""
    group = typer.Typer(help=about, no_args_is_help=True)
    for subcommand, function in functions.items():
        group.command(name=subcommand, cls=command_class(f"{name} {subcommand}"))(function)
    return group


app = typer.Typer(
    cls=_InOrder,
    help="Answers large files of questions with a router over a pool of models, and shows what it cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "answer": answer.answer,
    "label": label.label,
    "plans": plans.plans,
    "sft": sft.sft,
    "grpo": grpo.grpo,
    "evaluate": evaluate.evaluate,
    "report": report.report,
    "rescore": rescore.rescore,
    "sql": sql.sql,
}
GROUPS = {
    "pool": _group(
        "pool",
        "Know the pool: init, add, prices, fetch, check, calibrate, serve.",
        {
            "init": pool_init.init,
            "add": pool_add.add,
            "prices": pool_init.prices,
            "fetch": pool.fetch,
            "check": pool.check,
            "calibrate": pool.calibrate,
            "serve": pool.serve,
        },
    ),
    "policy": _group(
        "policy",
        "Trained policies: list, show, promote, roll back, sweep the cost knob.",
        {
            "list": policy.list_policies,
            "show": policy.show,
            "promote": policy.promote,
            "rollback": policy.rollback,
            "sweep": sweep.sweep,
        },
    ),
    "lake": _group(
        "lake",
        "Keep a lake fast and whole.",
        {
            "compact": lake.compact,
            "vacuum": lake.vacuum,
            "verify": lake.verify,
            "record": lake.record,
            "refresh": lake.refresh,
        },
    ),
}
for _name, _function in COMMANDS.items():
    app.command(name=_name, cls=command_class(_name), rich_help_panel=JOBS[_name])(_function)
for _name, _typer in GROUPS.items():
    app.add_typer(_typer, name=_name, rich_help_panel=JOBS[_name])


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        print(f"r2 {version('r2-reasoner')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show where an error arose. May stand anywhere. Also: R2_DEBUG=1.", is_eager=True),
    ] = False,
) -> None:
    """Answers large files of questions with a router over a pool of models, and shows what it cost."""
