"""Refusals that name a parameter, in the vendors' own words."""

import orjson
import pytest

from r2.pool.client.parameters import Habit, refused_parameter

SENT = frozenset({"model", "messages", "temperature", "max_tokens", "seed", "stop", "logprobs", "top_logprobs"})


def refusal(**fields: object) -> bytes:
    return orjson.dumps({"error": fields})


@pytest.mark.parametrize(
    ("status", "body", "habit"),
    [
        (
            400,
            refusal(
                message="Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead.",
                param="max_tokens",
                code="unsupported_parameter",
            ),
            Habit(limit_field="max_completion_tokens", named="max_tokens"),
        ),
        (
            400,
            refusal(
                message="Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) "
                "value "
                "is supported.",
                param="temperature",
                code="unsupported_value",
            ),
            Habit(frozenset({"temperature"}), named="temperature"),
        ),
        (
            400,
            orjson.dumps(
                {
                    "type": "error",
                    "error": {
                        "type": "invalid_request_error",
                        "message": "`temperature` is deprecated for this model.",
                    },
                }
            ),
            Habit(frozenset({"temperature"}), named="temperature"),
        ),
        (
            422,
            orjson.dumps(
                {
                    "object": "error",
                    "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "no"}]},
                    "type": "invalid_request_error",
                }
            ),
            Habit(frozenset({"seed"}), named="seed"),
        ),
        (
            400,
            refusal(message=("logprobs is not supported with this model")),
            Habit(frozenset({"logprobs", "top_logprobs"}), named="logprobs"),
        ),
        (
            400,
            orjson.dumps(
                {
                    "code": "Client specified an invalid argument",
                    "error": ("Argument not supported on this model: stop"),
                }
            ),
            Habit(frozenset({"stop"}), named="stop"),
        ),
    ],
)
def test_a_refusal_that_names_a_parameter_says_what_to_do(status: int, body: bytes, habit: Habit):
    assert refused_parameter(status, body, SENT) == habit


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, refusal(code="unsupported_parameter", param="temperature")),
        (400, refusal(message="maximum context length is 4096 tokens")),
        (400, refusal(code="unsupported_parameter", param="messages")),
        (400, refusal(code="unsupported_parameter", param="top_p")),  # was not sent
        (400, b"<html>no</html>"),
        (400, b""),
    ],
)
def test_any_other_refusal_changes_nothing(status: int, body: bytes):
    assert refused_parameter(status, body, SENT) is None
