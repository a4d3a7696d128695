"""A run's calls as a recording: what `r2 lake record` writes and `--pool recording:FILE` replays without a model."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from r2.call import Completion
from r2.errors import LakeError, failure
from r2.pool.file.recording import write_recording
from storage.lake.lake import Lake
from storage.runs.plan import read_plan, run_dir_of
from storage.runs.stored_call import COLUMNS, completion_of

_COLUMNS = ("problem_id", "rollout", "call_index", "request_sha", *COLUMNS)


def record_run(lake: Lake, run_id: str, out: Path) -> int:
    """Writes the run's settled calls and its pool file to `out` (gzipped if it ends in `.gz`); returns how many calls.

    Raises LakeError for a run that the lake does not have, or whose plan keeps no copy of the pool file.
    """
    pool_file = run_dir_of(lake.root, run_id) / "pool.toml"
    lake.store.receive_once(pool_file)
    if not pool_file.exists():
        known = ", ".join(lake.manifest.run_ids()) or "none"
        raise LakeError(
            f"{pool_file}: missing; without the pool file a run cannot be replayed. Runs of this lake: {known}."
        )
    routing = read_plan(run_dir_of(lake.root, run_id)).settings.reasoning.routing
    return write_recording(out, recorded_calls(lake, run_id), pool_file.read_text("utf-8"), routing=routing)


def recorded_calls(lake: Lake, run_id: str) -> Iterator[tuple[str, Completion]]:
    """(request_sha, completion) of every call that ended with an answer or with a failure of a model, in the order of
    the input. Left out are calls that ended without being sent (a budget, a stop, an open breaker)."""
    rows = (row for batch in lake.iter_rows("calls", run_id, _COLUMNS) for row in batch.to_pylist())
    for _, attempts in groupby(rows, key=lambda row: (row["problem_id"], row["rollout"], row["call_index"])):
        call = sorted(attempts, key=lambda row: row["attempt"])
        error_type = call[-1]["error_type"]
        if error_type is None or failure(error_type).sign is not None:
            yield call[-1]["request_sha"], completion_of(call)
