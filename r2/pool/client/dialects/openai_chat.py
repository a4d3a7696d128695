"""OpenAI's chat completions, and the providers that speak them with habits of their own. Pure.

One module for all of them, because they differ in a few fields: the name of the output limit and of the seed, how
log-probabilities are asked for and come back, where thinking stands, and which fields they refuse.
`FLAVOURS` holds these differences, one line each. Sources: the vendors' own SDKs and pages, as of 2026-11.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r2.call import TokenLogprob
from r2.ledger import Usage
from r2.pool.client.dialects.dialect import (
    Dialect,
    Feature,
    NoReply,
    RateLimits,
    Reply,
    Request,
    bearer,
    count,
    no_limits,
    parts_of,
    with_path,
)
from r2.pool.client.dialects.schemas import as_it_is, for_json_object, for_strict
from r2.pool.client.dialects.text import text_of
from r2.pool.client.dialects.thinking import split_thinking

_LOWEST_LOGPROB = -9999.0  # what vLLM sends for minus infinity, which JSON does not have
_FEATURES: frozenset[Feature] = frozenset(
    {"sampling", "seed", "stop", "n", "logprobs", "schema", "effort", "cached", "reasoning"}
)


@dataclass(frozen=True, slots=True)
class Flavour:
    """How one provider differs from OpenAI. `limit_field`: of the output limit. `seed_field`: "" where there is none.

    `logprobs`: "openai" (a switch and a number), "int" (one number under `logprobs`), "" (none to be had).
    """

    limit_field: str = "max_tokens"
    seed_field: str = "seed"
    logprobs: str = "openai"
    max_top_logprobs: int = 20
    schema: str = "json_schema"
    features: frozenset[Feature] = _FEATURES
    effort_field: str = "reasoning_effort"
    marks_cache: bool = False
    """Takes Anthropic's cache marks for Anthropic's models."""
    is_strict: bool = True
    """Schemas are refused unless they have the form of OpenAI's strict mode."""


FLAVOURS: Mapping[str, Flavour] = {
    "compatible": Flavour(is_strict=False),
    "openai": Flavour("max_completion_tokens", features=_FEATURES | {"cache_write", "batch"}),
    "azure": Flavour("max_completion_tokens", features=_FEATURES | {"batch"}),
    "openrouter": Flavour(features=_FEATURES | {"cache_write"}, marks_cache=True),
    "deepseek": Flavour(seed_field="", schema="json_object", features=_FEATURES - {"seed", "n"}),
    "mistral": Flavour(seed_field="random_seed", logprobs="", features=_FEATURES - {"logprobs"} | {"batch"}),
    "groq": Flavour("max_completion_tokens", logprobs="", features=_FEATURES - {"logprobs", "n"} | {"batch"}),
    "together": Flavour(logprobs="int", features=_FEATURES | {"batch"}),
    "fireworks": Flavour(max_top_logprobs=5, features=_FEATURES | {"batch"}),
    "xai": Flavour(features=_FEATURES - {"stop"} | {"batch"}),
    "vllm": Flavour(is_strict=False),
    "sglang": Flavour(is_strict=False),
    "llamacpp": Flavour(is_strict=False),
    "ollama": Flavour(is_strict=False),  # knows only max_tokens, and drops what it does not know without a word
}


def body(request: Request, flavour: Flavour) -> dict[str, Any]:
    """The JSON body of a chat completion request."""
    fields: dict[str, Any] = {
        "model": request.model,
        "messages": [{"role": role, "content": said} for role, said in request.messages],
    }
    if request.cache_prefix and flavour.marks_cache and request.model.startswith("anthropic/"):
        for message in fields["messages"]:
            if message["role"] == "system":
                mark = {"type": "ephemeral"}
                message["content"] = [{"type": "text", "text": message["content"], "cache_control": mark}]
    if request.temperature is not None:
        fields["temperature"] = request.temperature
    fields[request.limit_field or flavour.limit_field] = request.max_output_tokens
    if request.top_p is not None:
        fields["top_p"] = request.top_p
    if request.seed is not None and flavour.seed_field:
        fields[flavour.seed_field] = request.seed
    if request.stop:
        fields["stop"] = list(request.stop)
    if request.n_top_logprobs and flavour.logprobs == "openai":
        fields["logprobs"] = True
        fields["top_logprobs"] = min(request.n_top_logprobs, flavour.max_top_logprobs)
    elif request.n_top_logprobs and flavour.logprobs == "int":
        fields["logprobs"] = min(request.n_top_logprobs, flavour.max_top_logprobs)
    if request.schema is not None and flavour.schema == "json_schema":
        asked = {"name": "reply", "schema": request.schema, "strict": request.is_strict}
        fields["response_format"] = {"type": "json_schema", "json_schema": asked}
    elif request.json_object or (request.schema is not None and _speaks_of_json(request)):
        fields["response_format"] = {"type": "json_object"}
    if request.effort is not None:
        fields[flavour.effort_field] = request.effort
    for name in request.omitted:
        fields.pop(name, None)
    return fields


def _speaks_of_json(request: Request) -> bool:
    """Whether a message has the word, without which `json_object` is refused."""
    return any("json" in said.lower() for _, said in request.messages)


def parse(document: Mapping[str, Any]) -> Reply | NoReply:
    """What a body says. An error object under any status is an error, in a choice too, unless text came with it."""
    choices = document.get("choices")
    choice: Mapping[str, Any] = (
        choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    )
    usage = usage_of(document.get("usage"))
    message = choice.get("message")
    content = _content(message.get("content")) if isinstance(message, dict) else None
    error = choice.get("error") or document.get("error")
    if error and not (content and content[1]):
        return NoReply("an error in the place of an answer", error, usage)
    if not choice:
        return NoReply("no choices", None, usage)
    if not isinstance(message, dict):
        return NoReply("a choice without a message", None, usage)
    if content is None:
        return NoReply("a message whose content is neither text nor null", None, usage)
    thinking, answer = content
    for field in ("reasoning_content", "reasoning"):
        thinking = thinking or text_of(message.get(field))
    is_refused = not answer and bool(text_of(message.get("refusal")))
    return Reply(
        answer,
        thinking,
        text_of(choice.get("finish_reason")) or "stop",
        text_of(document.get("model")),
        text_of(document.get("id")),
        usage,
        logprobs_of(choice.get("logprobs")) if choice.get("logprobs") else (),
        is_refused,
        bool(error),
    )


def _content(value: object) -> tuple[str, str] | None:
    """(thinking, answer) of a message's content: a text, null (a refusal, or thinking up to the limit), or parts."""
    if isinstance(value, str):
        return split_thinking(text_of(value))
    if value is None:
        return "", ""
    if not isinstance(value, list):
        return None
    thinking, answer = [], []
    for part in parts_of(value):
        if part.get("type") == "thinking":  # Mistral: a list of parts again, elsewhere a text
            inner = part.get("thinking")
            thinking.append(text_of(inner) or "".join(text_of(each.get("text")) for each in parts_of(inner)))
        else:
            answer.append(text_of(part.get("text")))
    within, rest = split_thinking("".join(answer))
    return "".join(thinking) or within, rest


def usage_of(value: object) -> Usage | None:
    """Tokens as billed. Generated tokens are those beside the prompt's in the total, where that is more than the
    completion's: some providers count thinking there alone. Cache reads beyond the prompt are no cache reads."""
    if not isinstance(value, dict):
        return None
    n_input = count(value.get("prompt_tokens"))
    n_output = count(value.get("completion_tokens"))
    n_total = count(value.get("total_tokens"))
    if n_input is None or (n_output is None and n_total is None):
        return None
    details = value.get("completion_tokens_details")
    n_thinking = count(details.get("reasoning_tokens")) if isinstance(details, dict) else None
    n_output = n_output or 0
    if n_total is not None and n_total - n_input > n_output:
        n_output = n_total - n_input
    prompt = value.get("prompt_tokens_details")
    n_cached = n_written = 0
    if isinstance(prompt, dict):
        n_cached = count(prompt.get("cached_tokens")) or 0
        n_written = count(prompt.get("cache_write_tokens")) or 0
    if not n_cached and "prompt_cache_hit_tokens" in value:
        n_cached = count(value["prompt_cache_hit_tokens"]) or 0
    if not (n_cached or n_written or n_thinking):
        return Usage(n_input, 0, n_output)
    n_cached = n_cached if n_cached <= n_input else 0
    return Usage(
        n_input,
        n_cached,
        n_output,
        cache_write_tokens=min(n_written, n_input - n_cached),
        reasoning_tokens=min(n_thinking or 0, n_output),
    )


def logprobs_of(value: object) -> tuple[TokenLogprob, ...]:
    """Log-probabilities in either form: a list of tokens with their alternatives, or parallel lists of an older API."""
    if not isinstance(value, dict):
        return ()
    content = value.get("content")
    if isinstance(content, list):
        tokens = []
        for entry in parts_of(content):
            if isinstance(entry.get("token"), str):
                others = [
                    (text_of(other["token"]), _logprob(other.get("logprob")))
                    for other in parts_of(entry.get("top_logprobs"))
                    if isinstance(other.get("token"), str)
                ]
                others.sort(key=lambda pair: -pair[1])
                tokens.append(TokenLogprob(text_of(entry["token"]), _logprob(entry.get("logprob")), tuple(others)))
        return tuple(tokens)
    names, values = value.get("tokens"), value.get("token_logprobs")
    if not isinstance(names, list) or not isinstance(values, list) or len(names) != len(values):
        return ()
    listed = value.get("top_logprobs")
    tops = listed if isinstance(listed, list) and len(listed) == len(names) else [None] * len(names)
    return tuple(
        TokenLogprob(text_of(name), _logprob(logprob), _alternatives(top))
        for name, logprob, top in zip(names, values, tops, strict=True)
        if isinstance(name, str) and logprob is not None  # null: a token of the prompt that has none
    )


def _alternatives(top: object) -> tuple[tuple[str, float], ...]:
    if not isinstance(top, dict):
        return ()
    return tuple(sorted(((text_of(t), _logprob(p)) for t, p in top.items()), key=lambda pair: -pair[1]))


def _logprob(value: object) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < -_LOWEST_LOGPROB
    return float(value) if is_number else _LOWEST_LOGPROB  # type: ignore[arg-type]


def limits_of(headers: Mapping[str, str]) -> RateLimits:
    """Limits per minute that a reply's `x-ratelimit-limit-*` headers name (OpenAI, Azure)."""
    return RateLimits(
        number(headers.get("x-ratelimit-limit-requests")), number(headers.get("x-ratelimit-limit-tokens"))
    )


def _groq_limits(headers: Mapping[str, str]) -> RateLimits:
    """As OpenAI's, but Groq's requests are counted per day."""
    return RateLimits(None, number(headers.get("x-ratelimit-limit-tokens")))


def number(value: str | None) -> float | None:
    """A header's positive number; None for anything else."""
    if value is None or not re.fullmatch(r"\s*[0-9]{1,15}(\.[0-9]{1,6})?\s*", value):
        return None
    found = float(value)
    return found if math.isfinite(found) and found > 0 else None


def _url(endpoint: str, model: str) -> str:
    return with_path(endpoint, "/chat/completions")


def _azure_url(endpoint: str, model: str) -> str:
    """Azure's two forms: `.../openai/v1` names the deployment in the body; a classic address, recognised by its
    `api-version`, names it in the path."""
    if "api-version=" in endpoint and "/deployments/" not in endpoint:
        head, _, query = endpoint.partition("?")
        base = head.rstrip("/").removesuffix("/openai")
        return f"{base}/openai/deployments/{model}/chat/completions?{query}"
    return with_path(endpoint, "/chat/completions")


def _api_key(key: str) -> dict[str, str]:
    return {"api-key": key} if key else {}


def _dialect(name: str, flavour: Flavour) -> Dialect:
    is_azure = name == "azure"
    limits = {"openai": limits_of, "azure": limits_of, "groq": _groq_limits}.get(name, no_limits)
    return Dialect(
        name,
        _azure_url if is_azure else _url,
        _api_key if is_azure else bearer,
        lambda request: body(request, flavour),
        limits,
        flavour.features,
        flavour.max_top_logprobs if flavour.logprobs else 0,
        for_json_object if flavour.schema == "json_object" else for_strict if flavour.is_strict else as_it_is,
    )


DIALECTS: Mapping[str, Dialect] = {name: _dialect(name, flavour) for name, flavour in FLAVOURS.items()}
