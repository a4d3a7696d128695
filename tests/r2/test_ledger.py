from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2.call import Attempt, Call, Completion, TokenLogprob
from r2.ledger import (
    LongContextPrice,
    Price,
    Usage,
    cost_usd,
    expected_usage,
    total_usage,
    worst_case_usage,
    worst_cost_usd,
)

PRICE = Price(2.0, 0.5, 8.0, "2026-11-01", "made up")
tokens = st.integers(0, 10**7)
usages = st.builds(Usage, tokens, tokens, tokens)


def test_what_is_written_to_a_cache_and_thought_comes_back_from_the_journal():
    usage = Usage(1000, 200, 50, cache_write_tokens=300, reasoning_tokens=40)
    attempt = Attempt("m", 0, 200, 1.0, usage=usage, cost_usd=0.5, thinking="First, ...")
    [read] = Completion.from_bytes(Completion("4", "m", (attempt,)).to_bytes()).attempts
    assert (read.usage, read.thinking) == (usage, "First, ...")
    plain = Completion("4", "m", (Attempt("m", 0, 200, 1.0),)).to_bytes()
    assert len(orjson.loads(plain)["attempts"][0]) == 19, "as in every journal before"


def test_a_cost_counts_cached_tokens_at_their_own_price():
    # (1000 - 400) * 2 + 400 * 0.5 + 100 * 8 = 2200 millionths
    assert cost_usd(PRICE, Usage(1000, 400, 100)) == pytest.approx(2200e-6)


def test_a_total_with_one_estimated_part_is_estimated():
    assert total_usage([Usage(1, 0, 2), Usage(3, 1, 4, "estimated")]) == Usage(4, 1, 6, "estimated")
    assert total_usage([]) == Usage()


@given(usages, usages)
def test_costs_are_never_negative_and_grow_with_tokens(a: Usage, b: Usage):
    assert cost_usd(PRICE, a) >= 0
    whole = Usage(
        a.input_tokens + b.input_tokens, min(a.cached_input_tokens, a.input_tokens), a.output_tokens + b.output_tokens
    )
    assert cost_usd(PRICE, whole) >= cost_usd(PRICE, a) - 1e-12


def test_the_worst_case_counts_bytes_templates_and_the_whole_output_limit():
    # 25 bytes + 8 for the one message; an emoji has four bytes
    assert worst_case_usage((("user", "x" * 25),), 7) == Usage(33, 0, 7, "estimated")
    assert worst_case_usage((("user", "\U0001f701"),), 7, further_input_tokens=5) == Usage(17, 0, 7, "estimated")


def test_the_most_a_request_can_cost_is_at_the_dearest_price_it_can_have():
    long = Price(4.0, 0.4, 30.0, "2026-11-01", "a test")
    price = Price(2.0, 0.2, 10.0, "2026-11-01", "a test", cache_write=2.5, long=(LongContextPrice(1000, long),))
    # 900 prompt tokens written to the cache at 2.5, 100 generated at 10
    assert worst_cost_usd(price, Usage(900, 0, 100)) == pytest.approx((900 * 2.5 + 1000) / 1e6)
    # 1001 may be above the threshold: all at 4 and 30
    assert worst_cost_usd(price, Usage(1001, 0, 100)) == pytest.approx((1001 * 4 + 3000) / 1e6)


@given(usages)
def test_nothing_costs_more_than_the_most_it_can(usage: Usage):
    dear = Price(1.0, 0.5, 3.0, "2026-11-01", "a test")
    price = Price(3.0, 4.0, 1.0, "2026-11-01", "a test", cache_write=5.0, long=(LongContextPrice(100, dear),))
    assert cost_usd(price, usage) <= worst_cost_usd(price, usage) * (1 + 1e-9)


def test_what_is_expected_of_a_call_is_no_bound():
    # 25 bytes / 2.5 + 8 for the one message
    assert expected_usage((("user", "x" * 25),), 7) == Usage(18, 0, 7, "estimated")


def test_a_sum_of_usages_is_as_doubtful_as_its_most_doubtful_part():
    sources = [Usage(1, 0, 1, source) for source in ("provider", "estimated", "doubtful")]
    assert total_usage(sources[:1]).source == "provider"
    assert total_usage(sources[:2]).source == "estimated"
    assert total_usage(sources).source == "doubtful"


@given(st.text(max_size=50), st.text(max_size=20), st.binary(max_size=50), st.floats(0, 1e6), st.booleans())
def test_a_completion_survives_its_stored_form(text: str, token: str, body: bytes, latency: float, failed: bool):
    attempt = Attempt(
        "m",
        1,
        200,
        5.0,
        latency,
        0.1,
        Usage(1, 0, 2, "estimated"),
        0.5,
        "v",
        "served",
        "id",
        "stop",
        "timeout" if failed else None,
        "late" if failed else None,
        1.5,
        body,
    )
    before = Completion(
        text,
        "m",
        (attempt,),
        "length",
        (TokenLogprob(token, -0.5, ((token, -0.5), ("b", -2.0))),),
        "timeout" if failed else None,
    )
    after = Completion.from_bytes(before.to_bytes())
    assert after.is_replayed
    assert (after.text, after.cost_usd, after.usage, after.token_logprobs, after.error_type) == (
        before.text,
        before.cost_usd,
        before.usage,
        before.token_logprobs,
        before.error_type,
    )
    assert after.attempts[0].latency_s == latency


def test_a_call_is_known_by_its_request_and_its_place():
    call = Call("m", (("user", "x"),), "solve", 10)
    again = Call("m", (("user", "x"),), "final", 10)
    assert call.request_sha() == again.request_sha(), "the same request, whoever asks"
    assert call.journal_key("p") != again.journal_key("p")
    assert call.journal_key("p") != call.journal_key("q")
    assert Call("m", (("user", "x"),), "solve", 10, sample_index=1).request_sha() != call.request_sha()


def test_calls_of_earlier_versions_keep_their_keys():
    call = Call(
        "m",
        (("system", "Be short."), ("user", "2 + 2?")),
        "solve",
        64,
        temperature=0.7,
        top_logprobs=5,
        json_schema='{"type":"object"}',
        seed=3,
        subtask_index=1,
        sample_index=2,
    )
    assert call.request_sha() == "a2744caf7a7efdbd59656e743374f218dbc361e6e187361a4059ae8ea2c2658a"
    assert call.journal_key("p", 1) == "b5dc1660d96927faabd06a0c428db046"
    others = [
        replace(call, top_p=0.5),
        replace(call, stop=("END",)),
        replace(call, effort="low"),
        replace(call, json_object=True),
    ]
    assert len({one.request_sha() for one in (call, *others)}) == 5
    assert replace(call, asked_for=frozenset({"seed"})).request_sha() == call.request_sha()


def test_a_completion_keeps_what_could_not_be_sent():
    completion = Completion("4", "m", not_sent=("seed",))
    assert Completion.from_bytes(completion.to_bytes()).not_sent == ("seed",)
    assert b"not_sent" not in Completion("4", "m").to_bytes()
