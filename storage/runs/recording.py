"""A run's calls as a recording: what `r2 lake record` writes and `--pool recording:FILE` replays without a model."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from r2.call import Attempt, Completion
from r2.errors import LakeError, failure
from r2.ledger import Usage
from r2.pool.client.wire import ParsedReply, parse_body
from r2.pool.file.recording import write_recording
from storage.lake.lake import Lake
from storage.runs.plan import run_dir_of

_COLUMNS = (
    "problem_id",
    "rollout",
    "call_index",
    "attempt",
    "request_sha",
    "request_model",
    "response_model",
    "response_id",
    "status",
    "finish_reason",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "usage_source",
    "cost_usd",
    "price_version",
    "latency_s",
    "queue_s",
    "retry_after_s",
    "error_type",
    "error_message",
    "output_text",
    "raw_body",
    "started_at",
    "cache_write_tokens",
    "reasoning_tokens",
    "thinking",
)


def record_run(lake: Lake, run_id: str, out: Path) -> int:
    """Writes the run's settled calls and its pool file to `out` (gzipped if it ends in `.gz`); returns how many calls.

    Raises LakeError for a run that the lake does not have, or whose plan keeps no copy of the pool file.
    """
    pool_file = run_dir_of(lake.root, run_id) / "pool.toml"
    if not pool_file.exists():
        known = ", ".join(lake.manifest.run_ids()) or "none"
        raise LakeError(
            f"{pool_file}: missing; without the pool file a run cannot be replayed. Runs of this lake: {known}."
        )
    return write_recording(out, recorded_calls(lake, run_id), pool_file.read_text("utf-8"))


def recorded_calls(lake: Lake, run_id: str) -> Iterator[tuple[str, Completion]]:
    """(request_sha, completion) of every call that ended with an answer or with a failure of a model, in the order of
    the input. Left out are calls that ended without being sent (a budget, a stop, an open breaker)."""
    rows = (row for batch in lake.iter_rows("calls", run_id, _COLUMNS) for row in batch.to_pylist())
    for _, attempts in groupby(rows, key=lambda row: (row["problem_id"], row["rollout"], row["call_index"])):
        call = sorted(attempts, key=lambda row: row["attempt"])
        error_type = call[-1]["error_type"]
        if error_type is None or failure(error_type).sign is not None:
            yield call[-1]["request_sha"], _completion(call)


def _completion(call: list[dict[str, Any]]) -> Completion:
    last, attempts = call[-1], tuple(_attempt(row) for row in call)
    if last["error_type"] is not None:
        return Completion(
            "", last["request_model"], attempts, "", error_type=last["error_type"], error_message=last["error_message"]
        )
    parsed = parse_body(last["raw_body"])
    token_logprobs = parsed.token_logprobs if isinstance(parsed, ParsedReply) else ()
    return Completion(last["output_text"] or "", last["request_model"], attempts, last["finish_reason"], token_logprobs)


def _attempt(row: dict[str, Any]) -> Attempt:
    return Attempt(
        model=row["request_model"],
        attempt=row["attempt"],
        status=row["status"],
        started_at=row["started_at"].timestamp(),
        latency_s=row["latency_s"],
        queue_s=row["queue_s"],
        usage=Usage(
            row["input_tokens"],
            row["cached_input_tokens"],
            row["output_tokens"],
            row["usage_source"],
            row["cache_write_tokens"] or 0,
            row["reasoning_tokens"] or 0,
        ),
        cost_usd=row["cost_usd"],
        price_version=row["price_version"],
        response_model=row["response_model"],
        response_id=row["response_id"],
        finish_reason=row["finish_reason"],
        error_type=row["error_type"],
        error_message=row["error_message"],
        retry_after_s=row["retry_after_s"],
        raw_body=row["raw_body"],
        thinking=row["thinking"] or "",
    )
