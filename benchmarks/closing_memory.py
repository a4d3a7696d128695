"""How much memory each step takes that ends a run of many shards: the peak of the process while it lasts.

    python benchmarks/closing_memory.py [--questions 10000] [--shard-size 10]

Simulated models, in this process's own flow without Prefect's API. Linux: peaks are read from /proc and set back.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import uvloop  # noqa: E402

import flows  # noqa: E402, F401  settings of pyarrow's allocator, as in every command
from benchmarks.bench_flow import settings_for, without_prefect, write_questions  # noqa: E402
from benchmarks.figures import forget_peak, memory_mb  # noqa: E402
from storage.lake.lake import Lake  # noqa: E402
from storage.runs import answers  # noqa: E402
from tasks.answering import finish_run  # noqa: E402

STEPS: tuple[tuple[Any, str], ...] = (
    (finish_run, "summarize"),
    (finish_run, "record_session"),
    (Lake, "compact"),
    (finish_run, "refresh_database"),
    (answers, "write_answers"),
)


def told(step: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The step, which prints what it took."""

    def run(*args: Any, **named: Any) -> Any:
        forget_peak()
        before, _ = memory_mb()
        try:
            return step(*args, **named)
        finally:
            print(f"{name}: {before:.0f} MB before, {memory_mb()[1]:.0f} MB at most", flush=True)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description="The peak of memory in each step that ends a run.")
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--shard-size", type=int, default=10)
    given = parser.parse_args()
    for place, name in STEPS:
        setattr(place, name, told(getattr(place, name), name))
    with tempfile.TemporaryDirectory(prefix="closing-") as folder:
        os.environ["R2_STATE_DIR"] = str(Path(folder) / "state")
        write_questions(Path(folder) / f"q{given.questions}.jsonl", given.questions)
        settings = settings_for(Path(folder), given.questions, "cot").model_copy(
            update={"shard_size": given.shard_size}
        )
        uvloop.run(without_prefect(settings))


if __name__ == "__main__":
    main()
