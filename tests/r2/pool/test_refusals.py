"""What servers mean by a reply that is no answer: its kind, whom it blames, how long it asks us to wait."""

from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2.pool.client.refusals import MAX_RETRY_AFTER_S, classify, provider_message, refusal, wait_asked_for

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, "", None),
        (400, "This model's maximum context length is 4096 tokens", "context_length"),
        (500, "the request exceeds the available context size", "context_length"),
        (400, "temperature must be below 2", "bad_request"),
        (404, "no such model", "bad_request"),
        (409, "conflict", "server_error"),
        (498, "capacity_exceeded", "rate_limited"),
        (403, "Your chosen model requires moderation and your input was flagged", "moderated"),
        (
            400,
            '{"error": {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}',
            "moderated",
        ),
        (403, "your account was flagged and is disabled", "auth"),
        (403, "", "auth"),
        (403, "You have used all available credits", "auth"),
        (400, "Your credit balance is too low to access the API", "auth"),
        (429, "Request too large for gpt-x on tokens per min (TPM): Limit 30000, Requested 31538", "bad_request"),
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
        ({"Retry-After": formatdate(NOW - 30, usegmt=True)}, None),
        ({"Retry-After": "0"}, None),
        ({"retry-after-ms": "0"}, None),
        ({"retry-after-ms": "0", "Retry-After": "7"}, 7.0),
        ({"x-ratelimit-reset": "0s"}, None),
        ({"x-ratelimit-reset": str(NOW - 12)}, None),
        ({"Retry-After": "999999999"}, 999999999.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
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
    assert wait_asked_for(headers, NOW) == (None if seconds is None else pytest.approx(seconds))


@settings(deadline=None)
@given(st.text(max_size=40), st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset-requests"]))
def test_a_wait_is_none_or_above_zero_and_within_an_hour(value: str, name: str):
    refused = refusal(429, b"", {name: value})
    assert refused is not None
    assert refused.retry_after_s is None or 0 < refused.retry_after_s <= MAX_RETRY_AFTER_S


def test_a_wait_beyond_all_measure_is_cut_and_said():
    refused = refusal(429, b"slow down", {"Retry-After": "86400"})
    assert refused is not None
    assert refused.retry_after_s == MAX_RETRY_AFTER_S
    assert "asks to wait 86400 s" in refused.message


@pytest.mark.parametrize(
    ("status", "body", "blames"),
    [
        (401, "Incorrect API key provided", True),
        (401, '{"error": {"type": "authentication_error"}}', True),
        (401, "bad key", True),
        (402, "", True),
        (403, "This key has been revoked", True),
        (403, "You have used all available credits", True),
        (403, "no", False),
        (401, "", False),
    ],
)
def test_a_refusal_blames_the_key_only_where_it_says_so(status: int, body: str, blames: bool):
    refused = refusal(status, body.encode(), {})
    assert refused is not None
    assert (refused.error_type, refused.blames_the_key) == ("auth", blames)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "m"}}', "m"),
        (b'{"error": "m"}', "m"),
        (b'{"detail": "m"}', "m"),
        (b'[{"error": {"message": "m"}}]', "m"),
        (b"<html>", "<html>"),
        (b"", "an empty body"),
    ],
)
def test_the_servers_words_are_found_wherever_it_puts_them(body: bytes, said: str):
    assert provider_message(body) == said
