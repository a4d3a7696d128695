"""What servers mean by a reply that is no answer: its kind, whom it blames, how long it asks us to wait."""

import re
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2.pool.client.refusals import (
    MAX_RETRY_AFTER_S,
    classify,
    provider_message,
    refusal,
    wait_asked_for,
    wait_in_body,
)

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, "", None),
        (400, "This model's maximum context length is 4096 tokens", "context_length"),
        (500, "the request exceeds the available context size", "context_length"),
        (400, "temperature must be below 2", "bad_request"),
        (404, "no such model", "unknown_model"),
        (410, "", "unknown_model"),
        (301, "", "unknown_model"),
        (307, "<html>Sign in</html>", "unknown_model"),
        (400, '{"error": {"code": "model_decommissioned"}}', "unknown_model"),
        (400, "gpt-9 is not a valid model ID", "unknown_model"),
        (400, "API key not valid. Please pass a valid API key.", "auth"),
        (400, "Input tokens exceed the configured limit of 9 tokens", "context_length"),
        (424, "", "server_error"),
        (499, "", "server_error"),
        (524, "", "server_error"),
        (413, "<html>413 Request Entity Too Large</html>", "bad_request"),
        (413, '{"error": {"message": "Request too large", "code": "rate_limit_exceeded"}}', "bad_request"),
        (429, "Rate limit: Limit 6000, Requested 7000. Please reduce", "bad_request"),
        (429, "Rate limit: Limit 6000, Used 5990, Requested 700. Please try again in 3s", "rate_limited"),
        (429, "on requests per day (RPD): Limit 10000, Used 10000, Requested 1", "quota_used_up"),
        (429, '{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}', "quota_used_up"),
        (429, "Rate limit exceeded: free-models-per-day", "quota_used_up"),
        (429, "You exceeded your current quota, please check your plan and billing details.", "rate_limited"),
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
    ("location", "where"),
    [
        ("https://login.example.com/v1?key=sk-1", "login.example.com"),
        ("/elsewhere", "nowhere"),
        ("http://[::1", "nowhere"),
        ("", "nowhere"),
    ],
)
def test_a_redirect_says_the_other_host_and_nothing_of_its_path(location: str, where: str):
    said = refusal(307, b"moved", {"Location": location})
    assert said is not None
    assert said.message == f"HTTP 307: a redirect to {where}, where nothing is sent"


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
        (
            {
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2023-11-14T22:13:32Z",
                "anthropic-ratelimit-requests-remaining": "9",
                "anthropic-ratelimit-requests-reset": "2023-11-14T22:14:20Z",
            },
            12.0,
        ),
        ({"anthropic-ratelimit-tokens-reset": "in a while"}, None),
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


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ('{"error": {"details": [{"@type": "QuotaFailure"}, {"@type": "RetryInfo", "retryDelay": "36s"}]}}', 36.0),
        ('[{"error": {"details": [{"retryDelay": "0.25s"}]}}]', 0.25),
        ('{"error": {"message": "Please try again in 3.89s. Visit us."}}', 3.89),
        ('{"error": {"message": "Please try again in 6m0s."}}', 360.0),
        ('{"error": {"message": "Please try again in 120ms."}}', 0.12),
        ('{"error": {"message": "Please retry after 7 seconds."}}', 7.0),
        ('{"error": {"details": [{"retryDelay": "soon"}], "message": "Please try again in a while"}}', None),
        ('{"error": {"details": {"retryDelay": "3s"}}}', None),
        ("", None),
    ],
)
def test_a_wait_that_only_the_body_names_is_understood(body: str, seconds: float | None):
    assert wait_in_body(body.encode()) == (None if seconds is None else pytest.approx(seconds))


def test_the_longer_of_two_waits_is_kept():
    body = b'{"error": {"details": [{"retryDelay": "36s"}]}}'
    refused = refusal(429, body, {"Retry-After": "7"})
    assert refused is not None and refused.retry_after_s == 36.0


def test_a_quota_of_the_day_says_until_when():
    refused = refusal(429, b"Rate limit exceeded: free-models-per-day", {"Retry-After": "7200"})
    assert refused is not None and refused.error_type == "quota_used_up"
    assert re.search(r"the quota of the day is used up, until 20\d\d-\d\d-\d\d \d\d:\d\d UTC, it says", refused.message)
    refused = refusal(429, b"Rate limit exceeded: free-models-per-day", {})
    assert refused is not None and "until the provider's day ends" in refused.message


@pytest.mark.parametrize(
    ("status", "body", "names"),
    [
        (404, '{"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}', True),
        (404, '{"type": "error", "error": {"type": "not_found_error", "message": "model: x"}}', True),
        (404, '{"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}', True),
        (404, "No endpoints found for x.", True),
        (404, '{"detail": "Not Found"}', False),
        (404, "<html>404</html>", False),
    ],
)
def test_a_404_says_whether_the_model_or_the_address_is_missing(status: int, body: str, names: bool):
    refused = refusal(status, body.encode(), {})
    assert refused is not None and (refused.error_type, refused.names_the_model) == ("unknown_model", names)


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
