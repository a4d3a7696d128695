"""The headline table from a recorded evaluation: every call replayed, every figure computed anew, no model and no
network.

    python benchmarks/headline.py                                the shipped recording, benchmarks/headline.jsonl.gz
    python benchmarks/headline.py --recording FILE               another one, made by `r2 lake record EVALUATION`

Prints the table and whether it is the one that was recorded; exit 1 if a figure differs.
"""

import argparse
import asyncio
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r2.evaluation.compare import Comparison
    from storage.evaluations.store import Evaluation

HERE = Path(__file__).parent
SHIPPED = HERE / "headline.jsonl.gz"
RULE = """
    with chosen as (
        select benchmark, allocated_model, count(*) as n
        from subtasks where run_id in (select unnest(?)) group by all
    )
    select benchmark, arg_max(allocated_model, n), max(n), sum(n)::bigint from chosen group by benchmark order by 1
"""
"""(benchmark, the model that most of its steps are allocated to, those steps, all its steps)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recording", type=Path, default=SHIPPED)
    parser.add_argument(
        "--lake", type=Path, help="folder that keeps the replayed evaluation, for `r2 report`; none: it is not kept"
    )
    arguments = parser.parse_args()
    recording: Path = arguments.recording
    if not recording.exists():
        sys.stderr.write(f"{recording}: no such recording. `r2 lake record EVALUATION --out {recording}` makes one.\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="r2-headline-") as folder:
        os.environ.setdefault("PREFECT_HOME", f"{folder}/prefect")
        os.environ.setdefault("R2_STATE_DIR", f"{folder}/state")
        return replay(recording, arguments.lake or Path(folder) / "lake", is_kept=arguments.lake is not None)


def replay(recording: Path, lake: Path, *, is_kept: bool) -> int:
    """Evaluates from the recording and compares with what was recorded."""
    from flows.cli.evaluate import print_result, recorded_settings
    from flows.evaluate_methods import evaluate_methods
    from flows.support.embedded_api import embedded_api
    from r2.evaluation.comparison import from_json
    from r2.evaluation.settings import EvaluateSettings
    from r2.pool.file.recording import recorded_evaluation

    began = time.monotonic()
    settings = EvaluateSettings.model_validate(recorded_settings({"pool": f"recording:{recording}", "lake": str(lake)}))
    with embedded_api():
        result = asyncio.run(evaluate_methods(settings))
    code = print_result(result, is_kept=is_kept)
    for line in rules(result.lake, result.evaluation, result.comparison):
        print(line)
    header = recorded_evaluation(recording) or {}
    print(f"{time.monotonic() - began:.0f} s, no model was asked")
    if "comparison" not in header or result.comparison is None:
        return code
    was = from_json(header["comparison"])
    if is_same(was, result.comparison):
        print("Every figure is the one that was recorded.")
        return code
    now = {m.label: m for m in result.comparison.methods}
    differing = [m.label for m in was.methods if not is_same(now.get(m.label), m)]
    sys.stderr.write(f"Figures differ from the recorded ones in: {', '.join(differing) or 'the summary'}\n")
    return 1


def is_same(one: object, other: object) -> bool:
    """Equal, numbers to nine digits: the last ones depend on the processor that adds them up."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    if is_dataclass(one) and type(one) is type(other):
        compared = [field.name for field in fields(one) if field.compare]
        return all(is_same(getattr(one, name), getattr(other, name)) for name in compared)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return one == other


def rules(lake: Path, evaluation: "Evaluation", comparison: "Comparison | None") -> Iterator[str]:
    """How far the subject's allocations are those of a rule that knows the benchmark alone: one model for each."""
    from storage.sql.query import connect

    rows = {row.name: row for row in evaluation.rows}
    subject = None if comparison is None or comparison.subject is None else rows[comparison.subject]
    if subject is None:
        return
    with connect(lake) as db:
        found = db.execute(RULE, [list(subject.test_runs)]).fetchall()
    n_steps, n_same = sum(n for _, _, _, n in found), sum(n for _, _, n, _ in found)
    rule = ", ".join(f"{benchmark} to {model}" for benchmark, model, _, _ in found)
    yield f"{subject.name}: {n_same} of {n_steps} steps are allocated as by the rule: {rule}"


if __name__ == "__main__":
    ended = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(
        ended
    )  # all is closed; the interpreter's own way out complains of DuckDB objects that Prefect's threads keep alive
