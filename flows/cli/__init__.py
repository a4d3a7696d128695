"""The command `r2`, one module per command; `flows/cli/app.py` joins them."""


def main() -> None:
    """Entry point of the installed command `r2`. The commands' modules are loaded only here, when Ctrl-C is heard."""
    from flows.support.ending import as_command

    as_command(_command)


def _command() -> None:
    from flows.cli.app import app

    app()
