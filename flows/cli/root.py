"""What every command line of `r2` begins with: the group of commands, its own flags, and what each command is for.

Light, so that `r2 --help` is there at once: it loads no command, and a command loads no other.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Annotated

import typer
from typer.core import TyperGroup

ANSWERING, LABELLING, TRAINING, EVALUATION, KEEPING = "Answer", "Label", "Train", "Evaluate", "Look and keep"
JOBS = {
    "demo": ANSWERING,
    "pool": ANSWERING,
    "answer": ANSWERING,
    "join": ANSWERING,
    "label": LABELLING,
    "plans": LABELLING,
    "sft": TRAINING,
    "grpo": TRAINING,
    "refresh": TRAINING,
    "policy": TRAINING,
    "evaluate": EVALUATION,
    "report": EVALUATION,
    "rescore": EVALUATION,
    "feedback": EVALUATION,
    "sql": KEEPING,
    "lake": KEEPING,
    "ops": KEEPING,
    "doctor": KEEPING,
}
"""Command -> job, both in the order in which `r2 --help` lists them."""
GROUPS = {
    "pool": "Know the pool: init, add, prices, fetch, check, calibrate, serve.",
    "policy": "Trained policies: list, show, promote, roll back, sweep the cost knob.",
    "lake": "Keep a lake fast and whole.",
    "ops": "Set up what a Prefect server does by itself: the nightly loop's chain, and alerts.",
}
"""Commands with commands of their own -> what they are for."""
COMMANDS = {
    "demo": "Answer the bundled questions with the router, the largest model alone, and programs; compare.",
    "answer": "Answer a file of questions.",
    "join": "Join a run beside other machines.",
    "label": "Label problems for training: plans and allocations that led to the right answer.",
    "plans": "Compare a decomposer's plans with gold plans: step count, coverage, order, coherence.",
    "sft": "Train a decomposer and an allocator on label sets, a specialist on subtasks, or a scorer on checked "
    "answers.",
    "grpo": "Train the router by GRPO: one policy learns, the other is frozen, then the reverse.",
    "refresh": "Train a scorer on with new traffic, and promote it only where it wins.",
    "evaluate": "Compare methods on the same problems, in one table with intervals and a verdict.",
    "report": "Write a report as one HTML file that opens offline.",
    "rescore": "Score stored answers again, without a call.",
    "feedback": "Bring in what people say of a run's answers: right or wrong.",
    "sql": "Ask the lake in SQL, read-only. Without a query, list its tables and views.",
    "doctor": "Look whether all that runs need is there: versions, disk, limits, server, keys, sandbox, clock.",
}
"""The other commands -> the first line of their help. Each is the function of its name in the module of its name."""


class _InOrder(TyperGroup):
    """Lists the commands in the order of the jobs; Typer would list groups of commands first."""

    def list_commands(self, ctx: object) -> list[str]:
        return [name for name in JOBS if name in self.commands]


def bare() -> typer.Typer:
    """`r2` without its commands."""
    app = typer.Typer(
        cls=_InOrder,
        help="Answers large files of questions with a router over a pool of models, and shows what it cost.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    return app


def overview() -> typer.Typer:
    """`r2` with what it says of its commands, and without what they do: for its own help and flags."""
    app = bare()
    for name, job in JOBS.items():
        app.command(name=name, help=GROUPS.get(name) or COMMANDS[name], rich_help_panel=job)(_nothing)
    return app


def with_command(app: typer.Typer, name: str) -> typer.Typer:
    """The same with one of `COMMANDS`."""
    from flows.cli.command import command_class

    function: Callable[..., None] = getattr(import_module(f"flows.cli.{name}"), name)
    app.command(name=name, cls=command_class(name), rich_help_panel=JOBS[name])(function)
    return app


def _nothing() -> None:
    """Stands for a command."""


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        print(f"r2 {version('r2-reasoner')}")
        raise typer.Exit


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
