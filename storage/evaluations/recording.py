"""An evaluation as a recording: every call of its runs once, its problems and what it was asked, in a file small enough
to ship.

`r2 lake record EVALUATION` writes it, `r2 evaluate --pool recording:FILE` replays it without a model. Response bodies
are left out: what was read from them is there, and so is the comparison, so that the replay can be compared with it.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import orjson

from r2.call import Completion
from r2.errors import LakeError
from r2.evaluation.comparison import to_json
from r2.pool.file.recording import write_recording
from storage.evaluations.store import Evaluation, evaluation_dir, read_comparison, read_evaluation
from storage.lake.lake import Lake
from storage.runs.plan import run_dir_of
from storage.runs.recording import recorded_calls

_OF_A_PLACE = ("pool", "lake", "data_dir", "models_dir", "train_labels", "max_cost_usd", "max_in_flight")
"""Settings that belong to where and when it ran, not to what it asked."""


def record_evaluation(lake: Lake, evaluation_id: str, out: Path) -> int:
    """Writes the recording (gzipped if `out` ends in `.gz`) and returns how many calls it has. LakeError for one
    without finished runs."""
    evaluation = read_evaluation(lake.root, evaluation_id)
    if not evaluation.runs():
        raise LakeError(f"{evaluation_id}: has no runs yet; finish it with the same `r2 evaluate` command.")
    pool_file = run_dir_of(lake.root, evaluation.runs()[0]) / "pool.toml"
    lake.store.receive_once(pool_file)
    pool_text = pool_file.read_text("utf-8")
    asked = {
        "settings": {key: value for key, value in evaluation.settings.items() if key not in _OF_A_PLACE},
        "problems": {side: _problem_rows(lake.root, evaluation, side) for side in ("dev", "test")}
        | {"bands": evaluation.gold_difficulty},
        "comparison": to_json(read_comparison(lake.root, evaluation_id)).decode(),
    }
    return write_recording(out, _calls(lake, evaluation), pool_text, asked)


def _calls(lake: Lake, evaluation: Evaluation) -> Iterator[tuple[str, Completion]]:
    seen: set[str] = set()
    for run_id in evaluation.runs():
        for request_sha, completion in recorded_calls(lake, run_id):
            if request_sha not in seen:
                seen.add(request_sha)
                attempts = tuple(dataclasses.replace(attempt, raw_body=b"") for attempt in completion.attempts)
                yield request_sha, dataclasses.replace(completion, attempts=attempts)


def _problem_rows(lake: Path, evaluation: Evaluation, side: str) -> list[dict[str, object]]:
    with (evaluation_dir(lake, evaluation.evaluation_id) / f"{side}.jsonl").open("rb") as file:
        return [orjson.loads(line) for line in file]
