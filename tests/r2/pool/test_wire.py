"""Words of OpenAI-compatible servers, as values: nothing a server sends may crash the client or be taken for what it is
not."""

import json
from email.utils import formatdate

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2.call import Call
from r2.ledger import Usage
from r2.pool.client.wire import (
    MAX_RETRY_AFTER_S,
    BadBody,
    ParsedReply,
    classify,
    parse_body,
    parse_retry_after,
    provider_message,
    request_body,
    scrub,
)
from r2.pool.file.config import ModelTable

NOW = 1_700_000_000.0


def table(**options: object) -> ModelTable:
    price = {"input": 1.0, "cached_input": 0.5, "output": 2.0, "date": "2026-11-01", "source": "a test"}
    return ModelTable.model_validate(
        {"endpoint": "http://h/v1", "tier": "small", "price_usd_per_mtok": price, **options}
    )


def asked(call: Call, **options: object) -> dict[str, object]:
    return orjson.loads(request_body(call, table(**options), "served"))


def test_a_plain_call_asks_for_nothing_more_than_it_needs():
    body = asked(Call("m", (("system", "s"), ("user", "u")), "solve", 16))
    assert body == {
        "model": "served",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "temperature": 0.0,
        "max_tokens": 16,
    }


def test_logprobs_and_schemas_are_asked_for_only_where_the_server_has_them():
    call = Call("m", (("user", "u"),), "solve", 16, top_logprobs=5, json_schema='{"type":"object"}')
    assert not {"logprobs", "top_logprobs", "response_format"} & asked(call, logprobs=False, guided=False).keys()
    body = asked(call, logprobs=True, guided=True)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 5)
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": {"type": "object"}, "strict": True},
    }


def test_samples_of_one_request_have_seeds_of_their_own():
    seeds = [asked(Call("m", (("user", "u"),), "solve", 16, seed=7, sample_index=i)).get("seed") for i in range(3)]
    assert seeds == [7, 8, 9]
    assert "seed" not in asked(Call("m", (("user", "u"),), "solve", 16))


def test_extra_fields_win_but_cannot_turn_the_reply_into_a_stream():
    body = asked(Call("m", (("user", "u"),), "solve", 16), extra_body={"stream": True, "max_tokens": 9, "top_k": 1})
    assert "stream" not in body
    assert (body["max_tokens"], body["top_k"]) == (9, 1)


def test_a_lone_surrogate_of_a_broken_file_is_sent_as_a_question_mark():
    assert asked(Call("m", (("user", "a\ud800b"),), "solve", 16))["messages"] == [{"role": "user", "content": "a?b"}]


def completion(**choice: object) -> bytes:
    return orjson.dumps({"id": "i", "model": "m", "choices": [{"message": {"content": "4"}, **choice}]})


def test_a_reply_without_usage_or_reason_has_none_and_stop():
    assert parse_body(completion()) == ParsedReply("4", "stop", "m", "i", None)


def test_content_may_be_null_or_parts():
    assert parse_body(completion(message={"content": None})).text == ""  # type: ignore[union-attr]
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert parse_body(completion(message={"content": parts})).text == "ab"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 3}, Usage(10, 0, 3)),
        ({"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(10, 4, 3)),
        (
            {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 40}},
            Usage(10, 10, 3),
        ),
        ({"prompt_tokens": -1, "completion_tokens": 3}, None),
        ({"prompt_tokens": True, "completion_tokens": 3}, None),
        ({"prompt_tokens": "10", "completion_tokens": 3}, None),
        ({}, None),
        ("10", None),
    ],
)
def test_usage_is_taken_only_where_it_can_be_true(usage: object, read: Usage | None):
    body = orjson.dumps({"choices": [{"message": {"content": "4"}}], "usage": usage})
    assert parse_body(body).usage == read  # type: ignore[union-attr]


def test_alternatives_come_likeliest_first_and_minus_infinity_is_a_number():
    body = (
        b'{"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"token": "A", "logprob": -0.5, '
        b'"top_logprobs": [{"token": "B", "logprob": -Infinity}, {"token": "A", "logprob": -0.5}, {"logprob": 1}]}]}}]}'
    )
    (token,) = parse_body(body).token_logprobs  # type: ignore[union-attr]
    assert (token.token, token.logprob) == ("A", -0.5)
    assert token.alternatives == (("A", -0.5), ("B", -9999.0))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"<html>",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": {"content": 4}}]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_completion_is_a_bad_body_that_says_why(body: bytes):
    parsed = parse_body(body)
    assert isinstance(parsed, BadBody)
    assert parsed.reason and len(parsed.reason) < 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
shaped = st.fixed_dictionaries(
    {},
    optional={
        "choices": json_values
        | st.lists(
            st.fixed_dictionaries(
                {}, optional={"message": json_values, "logprobs": json_values, "finish_reason": json_values}
            ),
            max_size=2,
        ),
        "usage": json_values,
        "id": json_values,
        "error": json_values,
    },
)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300) | shaped.map(lambda document: json.dumps(document).encode()), st.integers(100, 599))
def test_nothing_a_server_sends_raises(body: bytes, status: int):
    parsed = parse_body(body)
    if isinstance(parsed, ParsedReply):
        parsed.text.encode()  # it can be stored
    assert len(provider_message(body)) <= 300
    assert (classify(status, body) is None) == (200 <= status < 300)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, "", None),
        (400, "This model's maximum context length is 4096 tokens", "context_length"),
        (500, "the request exceeds the available context size", "context_length"),
        (400, "temperature must be below 2", "bad_request"),
        (404, "no such model", "bad_request"),
        (401, "", "auth"),
        (402, "", "auth"),
        (429, '{"error": {"code": "insufficient_quota"}}', "auth"),
        (429, "slow down", "rate_limited"),
        (503, "", "rate_limited"),
        (529, "", "rate_limited"),
        (408, "", "timeout"),
        (500, "oops", "server_error"),
        (502, "", "server_error"),
    ],
)
def test_each_refusal_has_its_kind(status: int, body: str, kind: str | None):
    assert classify(status, body.encode()) == kind


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "Retry-After": "7"}, 0.25),
        ({"Retry-After": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"Retry-After": formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"Retry-After": "999999999"}, MAX_RETRY_AFTER_S),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, 0.0),
        ({"Retry-After": "1e400"}, None),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-reset": str(NOW + 12)}, 12.0),
        ({"x-ratelimit-reset": str(int((NOW + 12) * 1000))}, 12.0),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "40"}, None),
        (
            {
                "x-ratelimit-reset-requests": "9s",
                "x-ratelimit-remaining-requests": "3",
                "x-ratelimit-reset-tokens": "2s",
                "x-ratelimit-remaining-tokens": "0",
            },
            2.0,
        ),
    ],
)
def test_every_way_to_say_wait_is_understood(headers: dict[str, str], seconds: float | None):
    assert parse_retry_after(headers, NOW) == (None if seconds is None else pytest.approx(seconds))


@settings(deadline=None)
@given(st.text(max_size=40), st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset-requests"]))
def test_a_wait_is_none_or_within_an_hour(value: str, name: str):
    seconds = parse_retry_after({name: value}, NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_S


def test_a_key_is_taken_out_in_every_form_a_server_may_quote_it():
    key = 'sk-"ab/cd\u00e9'
    for quoted in (key, json.dumps(key), json.dumps(key).replace("/", "\\/"), json.dumps(key, ensure_ascii=False)):
        said = scrub(f'{{"error": "bad key {quoted}"}}'.encode(), key)
        assert b"[key]" in said and b"ab" not in said
    assert scrub(b"the answer is none", "none") == b"the answer is none", "placeholders are words of answers"
