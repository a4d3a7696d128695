"""One rank of a GRPO training on several processes; tests/r2/training/test_launch.py starts two. `python -m
tests.support.grpo_ranks FOLDER` under torchrun."""

import json
import sys
from pathlib import Path

from r2.training import ranks
from r2.training.grpo.batch import Rollout
from r2.training.sampling import LocalPolicy
from tests.r2.training.test_grpo import settings, trained


def main(folder: Path) -> None:
    """Each rank leaves what it was given to keep, and the digest of its weights."""
    kept: list[Rollout] = []
    done = trained(folder / "work", settings(4), kept=kept)
    seen = [(one.step, one.draw.prompt.place, one.draw.rollout) for one in kept]
    left = {
        "kept": seen,
        "digest": LocalPolicy(done.model, done.tokenizer).digest(),
        "weights": sorted(done.weights or {}),
    }
    (folder / f"rank{ranks.rank()}.json").write_text(json.dumps(left))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
