"""Where the processes of one host share limits and budgets."""

import os
from pathlib import Path


def state_dir() -> Path:
    """Where limits and budgets are shared by the processes of this host: $R2_STATE_DIR, else ~/.local/state/r2."""
    return Path(os.environ.get("R2_STATE_DIR") or Path.home() / ".local" / "state" / "r2")
