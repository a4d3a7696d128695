"""The command `r2`: a thin face on the flows. Results on stdout, progress and errors on stderr.

Exit codes: 0 done, 1 some work failed or was left over, 2 wrong usage or configuration, 130 interrupted.
"""

import os
import sys

import typer

from flows.cli import answer as cli_answer
from flows.cli import demo as cli_demo
from flows.cli import evaluate as cli_evaluate
from flows.cli import grpo as cli_grpo
from flows.cli import label as cli_label
from flows.cli import lake as cli_lake
from flows.cli import plans as cli_plans
from flows.cli import policy as cli_policy
from flows.cli import pool as cli_pool
from flows.cli import report as cli_report
from flows.cli import sft as cli_sft
from flows.cli import sql as cli_sql
from flows.cli.console import say
from r2.errors import ConfigError, R2Error

app = typer.Typer(
    help="Answers large files of questions with a router over a pool of models, and shows what it cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def _root() -> None:
    """Answers large files of questions with a router over a pool of models, and shows what it cost."""


# In the order of the jobs, as `r2 --help` lists them.
cli_answer.register(app)
cli_label.register(app)
cli_sft.register(app)
cli_grpo.register(app)
cli_evaluate.register(app)
cli_report.register(app)
cli_sql.register(app)
cli_lake.register(app)
cli_pool.register(app)
cli_policy.register(app)
cli_plans.register(app)
cli_demo.register(app)


def main() -> None:
    """Entry point: errors that the user can act on are one message, without a traceback."""
    code: int | str | None
    try:
        app()
        code = 0
    except SystemExit as end:
        code = end.code
    except ConfigError as error:
        say(f"r2: {error}")
        code = 2
    except R2Error as error:
        say(f"r2: {error}")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is closed by now. The interpreter's own way out prints dozens of lines about DuckDB objects that
    # Prefect's threads keep alive.
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
