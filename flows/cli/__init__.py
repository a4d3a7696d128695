"""The command `r2`, one module per command; `flows/cli/app.py` joins them."""


def main() -> None:
    """Entry point of the installed command `r2`; the command's modules are loaded only here."""
    from flows.cli.app import main as run

    run()
