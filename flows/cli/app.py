"""The command `r2`, whole: a thin face on the flows. Results on stdout, progress and errors on stderr.

How it ends, with which exit code: `flows/support/ending.py`.
"""

from collections.abc import Callable

import typer

from flows.cli import lake, ops, policy, pool, pool_add, pool_init, sweep
from flows.cli.command import command_class
from flows.cli.root import COMMANDS, GROUPS, JOBS, bare, with_command


def _group(name: str, functions: dict[str, Callable[..., None]]) -> typer.Typer:
    """`r2 NAME ...`: commands that belong together."""
    group = typer.Typer(help=GROUPS[name], no_args_is_help=True)
    for subcommand, function in functions.items():
        group.command(name=subcommand, cls=command_class(f"{name} {subcommand}"))(function)
    return group


app = bare()
for _name in COMMANDS:
    with_command(app, _name)
_GROUPED = {
    "pool": _group(
        "pool",
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
        {
            "compact": lake.compact,
            "vacuum": lake.vacuum,
            "verify": lake.verify,
            "record": lake.record,
            "export": lake.export,
            "refresh": lake.refresh,
            "forget": lake.forget,
        },
    ),
    "ops": _group("ops", {"setup": ops.setup}),
}
for _name, _typer in _GROUPED.items():
    app.add_typer(_typer, name=_name, rich_help_panel=JOBS[_name])
