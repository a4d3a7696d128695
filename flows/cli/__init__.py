"""The command `r2`, one module per command; `flows/cli/app.py` joins them."""


def main() -> None:
    """Entry point of the installed command `r2`. The commands' modules are loaded only here, when Ctrl-C is heard."""
    from flows.support.ending import as_command

    as_command(_command)


def _command() -> None:
    """With no more of `r2` than the words need: only a shell's completion and a wrong word need the whole of it."""
    import os
    import sys

    from flows.cli.root import COMMANDS, bare, overview, with_command

    first = sys.argv[1] if len(sys.argv) > 1 else "--help"
    is_completed = any(name.endswith("_COMPLETE") for name in os.environ)
    if first in ("--help", "--version") and not is_completed:
        app = overview()
    elif first in COMMANDS and not is_completed:
        app = with_command(bare(), first)
    else:
        from flows.cli.app import app
    app()
