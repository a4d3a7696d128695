"""A call of the lake as the completion it was: what a recording writes down, and what another run uses again."""

from collections.abc import Sequence
from typing import Any

from r2.call import Attempt, Completion, TokenLogprob
from r2.ledger import Usage
from r2.pool.client.wire import ParsedReply, parse_body

COLUMNS = (
    "attempt",
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
    "reused_from",
    "saved_usd",
)
"""Of the table `calls`, what `completion_of` reads."""


def completion_of(call: Sequence[dict[str, Any]]) -> Completion:
    """The completion of a call, from its attempts in order. The body, which is stored as it came, is read again for
    what the table has no columns for: log-probabilities, and whether the text was cut."""
    last, attempts = call[-1], tuple(_attempt(row) for row in call)
    if last["error_type"] is not None:
        return Completion(
            "", last["request_model"], attempts, "", error_type=last["error_type"], error_message=last["error_message"]
        )
    finish_reason = last["finish_reason"]
    token_logprobs: tuple[TokenLogprob, ...] = ()
    parsed = parse_body(last["raw_body"])
    if isinstance(parsed, ParsedReply):
        finish_reason = "length" if parsed.is_cut else finish_reason
        token_logprobs = parsed.token_logprobs
    return Completion(
        last["output_text"] or "",
        last["request_model"],
        attempts,
        finish_reason,
        token_logprobs,
        reused_from=last["reused_from"] or "",
        saved_usd=last["saved_usd"] or 0.0,
    )


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
