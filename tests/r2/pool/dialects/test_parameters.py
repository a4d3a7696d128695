"""Refusals that name a parameter, in the vendors' own words."""

import orjson
import pytest

from r2.pool.client.parameters import Habit, named_parameter, pool_key, pool_line, refused_parameter, sent_fields

SENT = frozenset({"model", "messages", "temperature", "max_tokens", "seed", "stop", "logprobs", "top_logprobs"}) | {
    "reasoning_effort"
}


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
        (
            400,
            orjson.dumps([{"error": {"message": "Logprobs is not enabled for models/gemini-3.8-flash", "code": 400}}]),
            Habit(frozenset({"logprobs", "top_logprobs"}), named="logprobs"),
        ),
        (
            400,
            refusal(
                message="Provider returned error",
                metadata={"raw": "Unsupported parameter: 'temperature' is not supported with this model."},
            ),
            Habit(frozenset({"temperature"}), named="temperature"),
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
        (400, refusal(code="unsupported_value", param="reasoning_effort")),  # without it the entry would be another
        (400, b"<html>no</html>"),
        (400, b""),
    ],
)
def test_any_other_refusal_changes_nothing(status: int, body: bytes):
    assert refused_parameter(status, body, SENT) is None


def test_the_fields_of_a_request_are_those_within_its_configuration_too():
    gemini = b'{"contents": [], "generationConfig": {"temperature": 0, "maxOutputTokens": 5}}'
    assert sent_fields(gemini) == {"contents", "generationConfig", "temperature", "maxOutputTokens"}
    assert sent_fields(b'{"output_config": {"format": {}}}') == {"output_config"}
    assert sent_fields(b'{"output_config": {"format": {}, "effort": "low"}}') == {"effort"}
    assert sent_fields(b"[]") == frozenset()


def test_a_refusal_that_cannot_be_healed_still_names_its_field():
    said = refusal(message="Invalid value", param="reasoning_effort", code="invalid_value")
    assert named_parameter(said, SENT) == "reasoning_effort"
    assert named_parameter(refusal(message="no"), SENT) == ""


@pytest.mark.parametrize(
    ("habit", "omit", "line"),
    [
        (Habit(limit_field="max_completion_tokens", named="max_tokens"), (), 'limit_field = "max_completion_tokens"'),
        (Habit(frozenset({"temperature"}), named="temperature"), (), "sampling = false"),
        (Habit(frozenset({"logprobs", "top_logprobs"}), named="logprobs"), (), "logprobs = false"),
        (Habit(frozenset({"response_format"}), named="response_format"), (), "guided = false"),
        (Habit(frozenset({"stop"}), named="stop"), ("seed",), 'omit = ["seed", "stop"]'),
    ],
)
def test_a_habit_has_its_line_in_the_pool_file(habit: Habit, omit: tuple[str, ...], line: str):
    assert pool_line(habit, omit) == line


def test_a_field_comes_from_a_key_of_the_pool_file():
    keys = {name: pool_key(name) for name in ("temperature", "stop", "thinkingConfig", "model", "response_format")}
    assert keys == {
        "temperature": "sampling",
        "stop": "omit",
        "thinkingConfig": "reasoning_effort",
        "model": "served_model",
        "response_format": "guided",
    }
