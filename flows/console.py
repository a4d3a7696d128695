"""The console results are printed on: as wide as the terminal, and wide enough for a table where there is none."""

from rich.console import Console

WIDTH_IN_A_FILE = 140


def results() -> Console:
    """For stdout. A pipe or a file has no width of its own."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_IN_A_FILE)
