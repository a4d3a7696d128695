"""What the commit before the move of the packages wrote: tests/support/data/before_the_move.tar.xz, described beside
it."""

import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).parent / "data" / "before_the_move.tar.xz"
FINISHED_RUN = "r2-62334d7bfb86"
STOPPED_RUN = "r2-218b1aa08e66"
"""Stopped by its money cap: 4 of 15 questions settled, calls of others in its journals."""
LABEL_RUN = "label-e62963988238"
EVALUATION = "evaluation-9b5386fb3090"
SWEEP = "sweep-505fad6e6291"
SFT_RUN = "sft-04e3b46ddd89"
GRPO_RUN = "grpo-8bcb71abf64e"


def unpack(folder: Path) -> Path:
    """The files in a folder of the test's own; the folder."""
    with tarfile.open(ARCHIVE, "r:xz") as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(folder, filter="data")
        else:  # Python before 3.11.4, as Debian 12 has it; the archive is ours
            archive.extractall(folder)
    return folder
