"""Every dialect by values worked by hand: what is sent, what a reply says, what it is billed for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2.ledger import LongContextPrice, Price, Usage, cost_usd
from r2.pool.client.dialects import DIALECTS, anthropic, dialect_of, gemini, openai_chat, parse
from r2.pool.client.dialects.dialect import NoReply, RateLimits, Reply, Request
from r2.pool.client.dialects.thinking import split_thinking
from r2.pool.client.endings import ending

ASK = Request(
    "m", (("system", "Be short."), ("user", "2+2?")), 64, temperature=0.0, seed=3, stop=("END",), n_top_logprobs=5
)


def sent(name: str, request: Request = ASK) -> dict[str, object]:
    return DIALECTS[name].body(request)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("compatible", {"max_tokens": 64, "seed": 3, "logprobs": True, "top_logprobs": 5, "stop": ["END"]}),
        ("openai", {"max_completion_tokens": 64, "seed": 3, "logprobs": True, "top_logprobs": 5, "stop": ["END"]}),
        ("azure", {"max_completion_tokens": 64, "seed": 3, "logprobs": True, "top_logprobs": 5, "stop": ["END"]}),
        ("mistral", {"max_tokens": 64, "random_seed": 3, "stop": ["END"]}),
        ("deepseek", {"max_tokens": 64, "logprobs": True, "top_logprobs": 5, "stop": ["END"]}),
        ("groq", {"max_completion_tokens": 64, "seed": 3, "stop": ["END"]}),
        ("together", {"max_tokens": 64, "seed": 3, "logprobs": 5, "stop": ["END"]}),
        ("ollama", {"max_tokens": 64, "seed": 3, "logprobs": True, "top_logprobs": 5, "stop": ["END"]}),
    ],
)
def test_each_provider_gets_the_fields_it_knows_and_no_other(name: str, fields: dict[str, object]):
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2+2?"}]
    assert sent(name) == {"model": "m", "messages": messages, "temperature": 0.0, **fields}


def test_what_an_entry_refused_or_its_file_leaves_out_is_not_sent():
    request = Request("m", (("user", "hi"),), 8, temperature=0.0, omitted=frozenset({"temperature", "max_tokens"}))
    assert sent("compatible", request) == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    assert "max_tokens" in sent("openai", Request("m", (), 8, limit_field="max_tokens"))


def test_fireworks_takes_five_alternatives_at_most():
    assert sent("fireworks", Request("m", (), 8, n_top_logprobs=20))["top_logprobs"] == 5


def test_anthropic_has_its_system_text_apart_and_no_seed():
    assert sent("anthropic") == {
        "model": "m",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "2+2?"}],
        "system": "Be short.",
        "temperature": 0.0,
        "stop_sequences": ["END"],
    }
    marked = sent("anthropic", Request("m", (("system", "Long."), ("user", "x")), 8, cache_prefix=True))
    assert marked["system"] == [{"type": "text", "text": "Long.", "cache_control": {"type": "ephemeral"}}]


def test_anthropic_schemas_lose_the_words_it_refuses_and_are_closed():
    schema = {
        "type": "object",
        "properties": {"minimum": {"type": "integer", "minimum": 1}, "tags": {"type": "array", "maxItems": 3}},
    }
    assert anthropic.without_refused_words(schema) == {
        "type": "object",
        "properties": {"minimum": {"type": "integer"}, "tags": {"type": "array"}},
        "additionalProperties": False,
    }


def test_gemini_names_the_model_in_the_path_and_the_assistant_model():
    request = Request("gemini-3.8-flash", (("user", "a"), ("assistant", "b"), ("user", "c")), 9, effort="low")
    assert sent("gemini", request) == {
        "contents": [
            {"role": "user", "parts": [{"text": "a"}]},
            {"role": "model", "parts": [{"text": "b"}]},
            {"role": "user", "parts": [{"text": "c"}]},
        ],
        "generationConfig": {"maxOutputTokens": 9, "thinkingConfig": {"thinkingLevel": "LOW"}},
    }
    assert DIALECTS["gemini"].url("https://generativelanguage.googleapis.com/v1beta", "gemini-3.8-flash") == (
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-3.8-flash:generateContent"
    )
    budget = sent("gemini", Request("gemini-2.5-flash", (), 9, effort="none"))["generationConfig"]
    assert budget == {"maxOutputTokens": 9, "thinkingConfig": {"thinkingBudget": 0}}


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("https://h/v1", "https://h/v1/chat/completions"),
        ("https://h/v1/", "https://h/v1/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
        ("https://h/v1?team=a", "https://h/v1/chat/completions?team=a"),
    ],
)
def test_an_address_keeps_its_query_and_its_path_once(endpoint: str, url: str):
    assert DIALECTS["compatible"].url(endpoint, "m") == url


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("https://r.openai.azure.com/openai/v1", "https://r.openai.azure.com/openai/v1/chat/completions"),
        (
            "https://r.openai.azure.com?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/deployments/dep/chat/completions?api-version=2024-10-21",
        ),
        (
            "https://r.openai.azure.com/openai/deployments/dep?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/deployments/dep/chat/completions?api-version=2024-10-21",
        ),
    ],
)
def test_azure_has_a_new_and_a_classic_address(endpoint: str, url: str):
    assert dialect_of(endpoint).url(endpoint, "dep") == url
    assert dialect_of(endpoint).headers("k") == {"api-key": "k"}


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://api.anthropic.com/v1", "anthropic"),
        ("https://generativelanguage.googleapis.com/v1beta", "gemini"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "compatible"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("http://127.0.0.1:8000/v1", "compatible"),
        ("http://api.openai.com.evil.example/v1", "compatible"),
        ("http://127.0.0.1:1/openai/deployments/d?api-version=1", "azure"),
    ],
)
def test_the_host_says_which_dialect_it_speaks(endpoint: str, name: str):
    assert dialect_of(endpoint).name == name
    assert dialect_of(endpoint, "vllm").name == "vllm"


def chat(**fields: object) -> dict[str, object]:
    message = {"role": "assistant", "content": "4"} | dict(fields.pop("message", {}))  # type: ignore[call-overload]
    return {
        "id": "c1",
        "model": "m-1",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        **fields,
    }


def test_thinking_beside_the_answer_is_kept_apart():
    for message in (
        {"reasoning_content": "two and two"},
        {"reasoning": "two and two"},
        {"content": ("<think>two and two</think>\n4")},
    ):
        reply = parse(chat(message=message))
        assert isinstance(reply, Reply)
        assert (reply.thinking, reply.text, reply.finish_reason) == ("two and two", "4", "stop")


def test_mistrals_thinking_comes_as_a_part_of_parts():
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "4"}]
    reply = parse(chat(message={"content": parts}))
    assert isinstance(reply, Reply) and (reply.thinking, reply.text) == ("hm", "4")


@pytest.mark.parametrize(
    ("said", "thinking", "answer"),
    [
        ("4", "", "4"),
        ("<think>a\nb</think>\n\n4", "a\nb", "4"),
        ("a\n</think>4", "a", "4"),
        ("<think>a", "a", ""),
        ("<think>a</think><think>b</think>4", "a</think><think>b", "4"),
        ("use the <think> tag", "", "use the <think> tag"),
    ],
)
def test_thinking_left_in_the_content_is_no_answer(said: str, thinking: str, answer: str):
    assert split_thinking(said) == (thinking, answer)


def test_an_error_in_the_place_of_an_answer_is_an_error():
    for document in (
        {"error": {"message": "Provider returned error", "code": 429}},
        {"choices": [], "error": {"code": 429}},
        {"choices": [{"error": {"code": 502}, "message": {"content": ""}}]},
        {"error": "Argument not supported"},
        {"type": "error", "error": {"type": "overloaded_error"}},
        [{"error": {"code": 429}}],
    ):
        reply = parse(document)
        assert isinstance(reply, NoReply) and reply.error


def test_a_refusal_is_no_answer():
    reply = parse(chat(message={"content": None, "refusal": "I will not."}))
    assert isinstance(reply, Reply) and (reply.text, reply.is_refused) == ("", True)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {"prompt_tokens": 20, "completion_tokens": 90, "completion_tokens_details": {"reasoning_tokens": 88}},
            Usage(20, 0, 90, reasoning_tokens=88),
        ),
        # xAI, and Gemini's compatible address: thinking in the total alone
        ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 1041}, Usage(32, 0, 1009)),
        ({"prompt_tokens": 50, "completion_tokens": 1, "prompt_cache_hit_tokens": 40}, Usage(50, 40, 1)),
        (
            {
                "prompt_tokens": 50,
                "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 30},
            },
            Usage(50, 10, 1, cache_write_tokens=30),
        ),
        ({"prompt_tokens": 5, "completion_tokens": None, "total_tokens": 7}, Usage(5, 0, 2)),
        ({"prompt_tokens": -1, "completion_tokens": 2}, None),
        ({"prompt_tokens": True, "completion_tokens": 2}, None),
    ],
)
def test_chat_usage_is_what_is_billed(usage: dict[str, object], expected: Usage | None):
    assert openai_chat.usage_of(usage) == expected


def test_anthropic_counts_its_cache_beside_the_input():
    usage = {
        "input_tokens": 12,
        "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 400,
        "output_tokens": 50,
        "output_tokens_details": {"thinking_tokens": 40},
    }
    document = {
        "id": "msg_1",
        "model": "claude-x",
        "stop_reason": "end_turn",
        "usage": usage,
        "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "4"}],
    }
    reply = parse(document)
    assert isinstance(reply, Reply) and (reply.text, reply.thinking, reply.finish_reason) == ("4", "hm", "end_turn")
    assert reply.usage == Usage(512, 400, 50, cache_write_tokens=100, reasoning_tokens=40)
    price = Price(1.0, 0.1, 5.0, "2026-11-26", "test", cache_write=1.25)
    assert cost_usd(price, reply.usage) == pytest.approx((12 * 1.0 + 400 * 0.1 + 100 * 1.25 + 50 * 5.0) / 1e6)


def test_gemini_bills_thinking_beside_the_answer_and_may_answer_nothing():
    counts = {"promptTokenCount": 9, "candidatesTokenCount": 1, "thoughtsTokenCount": 70, "totalTokenCount": 80}
    parts = [{"text": "hm", "thought": True}, {"text": "4"}]
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}
    reply = parse({"candidates": [candidate], "usageMetadata": counts, "modelVersion": "g"})
    assert isinstance(reply, Reply) and (reply.text, reply.thinking) == ("4", "hm")
    assert reply.usage == Usage(9, 0, 71, reasoning_tokens=70)
    cut = parse({"candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS"}]})
    assert isinstance(cut, Reply) and (cut.text, ending(cut.finish_reason)) == ("", (True, None))
    blocked = parse({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}})
    assert isinstance(blocked, Reply) and (blocked.is_refused, blocked.finish_reason) == (True, "PROHIBITED_CONTENT")


def test_both_forms_of_log_probabilities_are_read():
    new = {
        "content": [
            {
                "token": "4",
                "logprob": -0.5,
                "top_logprobs": [{"token": "5", "logprob": -1.0}, {"token": "4", "logprob": -0.5}],
            }
        ]
    }
    old = {"tokens": ["4"], "token_logprobs": [-0.5], "top_logprobs": [{"5": -1.0, "4": -0.5}]}
    for form in (new, old):
        [token] = openai_chat.logprobs_of(form)
        assert (token.token, token.logprob, token.alternatives) == ("4", -0.5, (("4", -0.5), ("5", -1.0)))
    result = {
        "chosenCandidates": [{"token": "4", "logProbability": -0.5}],
        "topCandidates": [{"candidates": [{"token": "4", "logProbability": -0.5}]}],
    }
    [token] = gemini._logprobs(result)
    assert (token.token, token.logprob, token.alternatives) == ("4", -0.5, (("4", -0.5),))


def test_a_long_prompt_is_priced_whole_at_the_long_price():
    long = LongContextPrice(100, Price(4.0, 0.2, 15.0, "2026-11-26", "test"))
    price = Price(2.0, 0.1, 10.0, "2026-11-26", "test", long=(long,))
    assert cost_usd(price, Usage(100, 0, 10)) == pytest.approx(300e-6)
    assert cost_usd(price, Usage(101, 0, 10)) == pytest.approx((101 * 4.0 + 10 * 15.0) / 1e6)
    assert price.version == "2026-11-26:2/0.1/10>100:4/0.2/15"


def test_limits_are_read_where_a_provider_sends_them_per_minute():
    headers = {"x-ratelimit-limit-requests": "500", "x-ratelimit-limit-tokens": "30000"}
    assert DIALECTS["openai"].limits(headers) == RateLimits(500, 30000)
    assert DIALECTS["groq"].limits(headers) == RateLimits(None, 30000), "Groq counts requests per day"
    assert DIALECTS["compatible"].limits(headers) == RateLimits()
    sizes = {"anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-input-tokens-limit": "40000"}
    assert DIALECTS["anthropic"].limits(sizes) == RateLimits(50, 40000)


FIELDS = (
    "choices",
    "message",
    "content",
    "finish_reason",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "error",
    "code",
    "candidates",
    "parts",
    "text",
    "thought",
    "finishReason",
    "usageMetadata",
    "stop_reason",
    "type",
    "thinking",
    "logprobs",
    "tokens",
    "token_logprobs",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**13), 10**13) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_whatever_a_server_sends_it_is_a_reply_or_none(document: object):
    reply = parse(document)
    assert isinstance(reply, (Reply, NoReply))
    if isinstance(reply, Reply):
        reply.text.encode()
        assert reply.usage is None or 0 <= reply.usage.reasoning_tokens <= reply.usage.output_tokens


def test_a_lone_surrogate_in_a_reply_becomes_a_question_mark():
    reply = parse(chat(message={"content": "a\ud800b"}))
    assert isinstance(reply, Reply) and reply.text == "a?b"
