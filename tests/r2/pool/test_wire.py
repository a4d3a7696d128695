"""Words of OpenAI-compatible servers, as values: nothing a server sends may crash the client or be taken for what it is
not."""

import json

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from r2.call import Call
from r2.ledger import Usage
from r2.pool.client.dialects import DIALECTS
from r2.pool.client.endings import ending
from r2.pool.client.refusals import Refusal, classify, provider_message
from r2.pool.client.wire import BadBody, ParsedReply, not_sent, parse_body, request_body, scrub
from r2.pool.file.tables import ModelTable


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


ROWS_OWN = Call(
    "m",
    (("user", "u"),),
    "solve",
    16,
    temperature=0.3,
    top_p=0.9,
    seed=0,
    stop=("END",),
    effort="low",
    json_object=True,
    top_logprobs=2,
    asked_for=frozenset({"temperature", "top_p", "seed", "stop", "reasoning_effort", "logprobs", "max_tokens"}),
)


def test_what_a_row_asks_for_reaches_the_wire_and_its_effort_goes_before_the_entrys():
    body = asked(ROWS_OWN, guided=True, logprobs=True, reasoning_effort="high")
    assert {name: body[name] for name in ("temperature", "top_p", "seed", "stop", "reasoning_effort")} == {
        "temperature": 0.3,
        "top_p": 0.9,
        "seed": 0,
        "stop": ["END"],
        "reasoning_effort": "low",
    }
    assert body["response_format"] == {"type": "json_object"}
    assert not_sent(ROWS_OWN, table(guided=True, logprobs=True), "served") == ()


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"sampling": False}, ("logprobs", "temperature", "top_p")),
        ({"logprobs": True, "extra_body": {"temperature": 1}}, ("temperature",)),
        ({"logprobs": True, "extra_body": {"max_tokens": 9}}, ("max_tokens",)),
    ],
)
def test_what_an_entry_cannot_be_sent_of_a_rows_own_parameters_is_named(options: dict[str, object], missing: object):
    assert not_sent(ROWS_OWN, table(**options), "served") == missing


def test_a_dialect_without_a_seed_and_a_learned_refusal_are_named_too():
    found = not_sent(
        ROWS_OWN, table(logprobs=True), "served", dialect=DIALECTS["anthropic"], omitted=frozenset({"top_p"})
    )
    assert found == ("logprobs", "seed", "top_p")


def test_a_temperature_that_is_cut_to_what_the_provider_takes_is_named():
    hot = Call("m", (("user", "u"),), "solve", 16, temperature=1.5, asked_for=frozenset({"temperature"}))
    assert not_sent(hot, table(), "served", dialect=DIALECTS["anthropic"]) == ("temperature",)
    assert not_sent(hot, table(), "served", dialect=DIALECTS["gemini"]) == ()


def test_extra_fields_win_but_cannot_turn_the_reply_into_a_stream():
    body = asked(Call("m", (("user", "u"),), "solve", 16), extra_body={"stream": True, "max_tokens": 9, "top_k": 1})
    assert "stream" not in body
    assert (body["max_tokens"], body["top_k"]) == (9, 1)


@pytest.mark.parametrize("name", ["max_completion_tokens", "max_tokens", "n_predict"])
def test_a_limit_among_the_further_fields_is_the_only_one_sent(name: str):
    body = asked(Call("m", (("user", "u"),), "solve", 16), extra_body={name: 8000})
    assert {key: value for key, value in body.items() if "max" in key or "predict" in key} == {name: 8000}


def test_what_the_pool_file_leaves_out_is_not_sent_and_a_limit_is_cut_to_the_model_s():
    call = Call("m", (("user", "u"),), "solve", 9000, seed=7)
    body = asked(call, omit=["seed", "temperature"], max_output_tokens=4096, extra_body={"seed": 1, "top_k": 2})
    assert body == {
        "model": "served",
        "messages": [{"role": "user", "content": "u"}],
        "max_tokens": 4096,
        "top_k": 2,
    }


def test_an_output_limit_that_changed_its_name_is_sent_under_the_new_one():
    call = Call("m", (("user", "u"),), "solve", 16)
    body = orjson.loads(request_body(call, table(), "served", limit_field="max_completion_tokens"))
    assert (body["max_completion_tokens"], "max_tokens" in body) == (16, False)


def test_geminis_configuration_among_the_further_fields_keeps_the_output_limit():
    extra = {"generationConfig": {"topK": 3, "temperature": 0.5}}
    call = Call("m", (("user", "u"),), "solve", 16)
    body = orjson.loads(request_body(call, table(extra_body=extra), "served", dialect=DIALECTS["gemini"]))
    assert body["generationConfig"] == {"maxOutputTokens": 16, "temperature": 0.5, "topK": 3}


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
            Usage(10, 0, 3),  # more read from the cache than there was: no cache price for any of it
        ),
        ({"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 113}, Usage(10, 0, 103)),  # thinking beside
        ({"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 4}, Usage(10, 0, 3)),
        ({"prompt_tokens": 10.0, "completion_tokens": 3.0}, Usage(10, 0, 3)),
        ({"prompt_tokens": 10, "completion_tokens": 10**30}, Usage(10, 0, 10**8)),
        ({"prompt_tokens": -1, "completion_tokens": 3}, None),
        ({"prompt_tokens": True, "completion_tokens": 3}, None),
        ({"prompt_tokens": "10", "completion_tokens": 3}, None),
        ({}, None),
        ("10", None),
    ],
)
def test_usage_is_taken_only_where_it_can_be_true(usage: object, read: Usage | None):
    body = json.dumps({"choices": [{"message": {"content": "4"}}], "usage": usage}).encode()
    assert parse_body(body).usage == read  # type: ignore[union-attr]


def test_the_older_form_of_log_probabilities_is_read():
    logprobs = {
        "tokens": ["4", " ok"],
        "token_logprobs": [-0.5, None],
        "top_logprobs": [{"5": -2.0, "4": -0.5}, None],
    }
    (token,) = parse_body(completion(logprobs=logprobs)).token_logprobs  # type: ignore[union-attr]
    assert (token.token, token.logprob, token.alternatives) == ("4", -0.5, (("4", -0.5), ("5", -2.0)))
    uneven = parse_body(completion(logprobs={"tokens": ["4"], "token_logprobs": []}))
    assert isinstance(uneven, ParsedReply) and uneven.token_logprobs == ()


@pytest.mark.parametrize(
    ("reason", "is_cut", "error_type"),
    [
        ("stop", False, None),
        ("STOP", False, None),
        ("eos", False, None),
        ("end_turn", False, None),
        ("length", True, None),
        ("MAX_TOKENS", True, None),
        ("model_length", True, None),
        ("content_filter", False, "content_filter"),
        ("SAFETY", False, "content_filter"),
        ("refusal", False, "content_filter"),
        ("error", False, "server_error"),
        ("insufficient_system_resource", False, "server_error"),
        ("tool_calls", False, "bad_end"),
        ("a word of next year", False, "bad_end"),
    ],
)
def test_only_a_natural_end_leaves_an_answer(reason: str, is_cut: bool, error_type: str | None):
    assert ending(reason) == (is_cut, error_type)
    parsed = parse_body(completion(finish_reason=reason))
    assert isinstance(parsed, ParsedReply)
    assert (parsed.finish_reason, parsed.is_cut, parsed.error_type) == (reason, is_cut, error_type)


@pytest.mark.parametrize(
    ("document", "error_type", "wait_s"),
    [
        ({"error": {"code": 429, "message": "slow"}}, "rate_limited", None),
        (
            {"error": {"code": 429, "message": "slow", "metadata": {"headers": {"Retry-After": "7"}}}},
            "rate_limited",
            7.0,
        ),
        ({"error": {"code": "429", "message": "slow"}, "choices": []}, "rate_limited", None),
        ({"error": {"type": "rate_limit_error", "message": "slow"}}, "rate_limited", None),
        ({"error": {"code": 401, "message": "No auth credentials found"}}, "auth", None),
        ({"error": {"code": 402, "message": "Insufficient credits"}}, "auth", None),
        ({"error": {"code": 502, "message": "upstream"}}, "server_error", None),
        ({"error": {"message": "no code at all"}}, "server_error", None),
        ({"error": "just words"}, "server_error", None),
        ({"error": {"code": 403, "message": "your input was flagged"}}, "moderated", None),
        ({"error": {"code": 400, "message": "maximum context length is 4096"}}, "context_length", None),
        (
            {"choices": [{"error": {"code": 502}, "finish_reason": "error", "message": {"content": ""}}]},
            "server_error",
            None,
        ),
        ([{"error": {"code": 503, "status": "UNAVAILABLE"}}], "rate_limited", None),
    ],
)
def test_an_error_under_a_200_is_that_error(document: object, error_type: str, wait_s: float | None):
    parsed = parse_body(orjson.dumps(document))
    assert isinstance(parsed, Refusal)
    assert (parsed.error_type, parsed.retry_after_s) == (error_type, wait_s)


def test_a_null_error_beside_an_answer_is_none():
    parsed = parse_body(orjson.dumps({"error": None, "choices": [{"message": {"content": "4"}}]}))
    assert isinstance(parsed, ParsedReply) and parsed.error_type is None


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


def test_a_key_is_taken_out_in_every_form_a_server_may_quote_it():
    key = 'sk-"ab/cd\u00e9'
    for quoted in (key, json.dumps(key), json.dumps(key).replace("/", "\\/"), json.dumps(key, ensure_ascii=False)):
        said = scrub(f'{{"error": "bad key {quoted}"}}'.encode(), key)
        assert b"[key]" in said and b"ab" not in said
    assert scrub(b"the answer is none", "none") == b"the answer is none", "placeholders are words of answers"


SHAPES = (
    lambda c: c,
    lambda c: "".join(f"\\u{ord(unit):04x}" for unit in as_utf16(c)),
    lambda c: "".join(f"\\\\u{ord(unit):04X}" for unit in as_utf16(c)),
    lambda c: "".join(f"%{byte:02X}" for byte in c.encode()),
    lambda c: json.dumps(c)[1:-1],
)


def as_utf16(character: str) -> str:
    encoded = character.encode("utf-16-be")
    return "".join(chr(int.from_bytes(encoded[i : i + 2], "big")) for i in range(0, len(encoded), 2))


@settings(deadline=None, max_examples=200)
@given(
    st.text(st.characters(exclude_categories=("Cs",), min_codepoint=33), min_size=8, max_size=40),
    st.lists(st.integers(0, 4), min_size=40, max_size=40),
    st.binary(max_size=20),
)
@example("sk-hunter%", [0] * 9 + [3], b"")
def test_a_key_is_taken_out_with_any_of_its_characters_escaped(key: str, shapes: list[int], around: bytes):
    echoed = "".join(SHAPES[shape](character) for character, shape in zip(key, shapes, strict=False)).encode()
    struck = scrub(b"<" + echoed + b">" + around, key)
    assert struck.startswith(b"<[key]>")
    assert struck.endswith(around) or key.encode() in around


def test_what_a_model_says_in_escapes_does_not_reach_its_text_as_a_key():
    key = "sk-hunter2-4711"
    escaped = "".join(f"\\u{ord(c):04x}" for c in key)
    body = b'{"choices": [{"message": {"content": "your key is %s, 50%% off"}}]}' % escaped.encode()
    parsed = parse_body(scrub(body, key))
    assert isinstance(parsed, ParsedReply)
    assert parsed.text == "your key is [key], 50% off"
