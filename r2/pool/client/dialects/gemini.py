"""Gemini's own `generateContent`. Pure. Source: the vendor's SDK, google-genai 3.6.1 (2026-11).

Not as elsewhere: the model stands in the path, the assistant is called `model`, the system text stands apart, sampling
settings sit in `generationConfig`, and tokens spent on thinking are counted beside the answer's, not within them.
"""

import urllib.parse
from collections.abc import Mapping
from typing import Any

from r2.call import TokenLogprob
from r2.ledger import Usage
from r2.pool.client.dialects.dialect import (
    Dialect,
    Feature,
    NoReply,
    Reply,
    Request,
    count,
    no_limits,
    parts_of,
    system_and_turns,
)
from r2.pool.client.dialects.schemas import for_gemini
from r2.pool.client.dialects.text import text_of

FEATURES: frozenset[Feature] = frozenset(
    {"sampling", "seed", "stop", "n", "logprobs", "schema", "effort", "cached", "reasoning", "batch"}
)
BUDGETS: Mapping[str, int] = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192, "high": 24576}
"""Reasoning effort -> thinking budget in tokens, for the 2.5 models, which know no levels (Google's own mapping of its
OpenAI-compatible address)."""


def body(request: Request) -> dict[str, Any]:
    """The JSON body of a generateContent request."""
    system, turns = system_and_turns(request.messages)
    contents = [{"role": "model" if role == "assistant" else "user", "parts": [{"text": said}]} for role, said in turns]
    config: dict[str, Any] = {"maxOutputTokens": request.max_output_tokens}
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.top_p is not None:
        config["topP"] = request.top_p
    if request.seed is not None:
        config["seed"] = request.seed
    if request.stop:
        config["stopSequences"] = list(request.stop)
    if request.n_top_logprobs:
        config |= {"responseLogprobs": True, "logprobs": min(request.n_top_logprobs, 20)}
    if request.schema is not None:
        config |= {"responseMimeType": "application/json", "responseJsonSchema": request.schema}
    elif request.json_object:
        config["responseMimeType"] = "application/json"
    if request.effort is not None:
        config["thinkingConfig"] = _thinking(request.model, request.effort)
    for name in request.omitted:
        config.pop(name, None)
    fields: dict[str, Any] = {"contents": contents, "generationConfig": config}
    if system:
        fields["systemInstruction"] = {"parts": [{"text": system}]}
    return fields


def _thinking(model: str, effort: str) -> dict[str, Any]:
    """How hard to think: a budget on the 2.5 models, a level on later ones; both at once are refused."""
    if "2.5" in model:
        return {"thinkingBudget": BUDGETS.get(effort, -1)}
    return {"thinkingLevel": effort.upper()}


def parse(document: Mapping[str, Any]) -> Reply | NoReply:
    """What a body says. A prompt that was blocked has no candidate, and a reply cut while thinking has no parts."""
    usage = usage_of(document.get("usageMetadata"))
    error = document.get("error")
    if error:
        return NoReply("an error in the place of an answer", error, usage)
    named = (text_of(document.get("modelVersion")), text_of(document.get("responseId")), usage)
    candidates = document.get("candidates")
    if not isinstance(candidates, list) or not candidates or not isinstance(candidates[0], dict):
        feedback = document.get("promptFeedback")
        reason = text_of(feedback.get("blockReason")) if isinstance(feedback, dict) else ""
        return Reply("", "", reason, *named, is_refused=True) if reason else NoReply("no candidates", None, usage)
    candidate: dict[str, Any] = candidates[0]
    content = candidate.get("content")
    texts: list[str] = []
    thinking: list[str] = []
    for part in parts_of(content.get("parts")) if isinstance(content, dict) else ():
        (thinking if part.get("thought") is True else texts).append(text_of(part.get("text")))
    return Reply(
        "".join(texts),
        "".join(thinking),
        text_of(candidate.get("finishReason")) or "STOP",
        *named,
        _logprobs(candidate["logprobsResult"]) if "logprobsResult" in candidate else (),
    )


def usage_of(value: object) -> Usage | None:
    """Tokens as billed: thinking is beside the candidate's tokens, and both are output. A cut reply may lack counts."""
    if not isinstance(value, dict):
        return None
    n_input = count(value.get("promptTokenCount"))
    if n_input is None:
        return None
    n_answer = count(value.get("candidatesTokenCount")) or 0
    n_thinking = count(value.get("thoughtsTokenCount")) or 0
    n_total = count(value.get("totalTokenCount"))
    n_tool = count(value.get("toolUsePromptTokenCount")) or 0
    n_cached = count(value.get("cachedContentTokenCount")) or 0
    n_output = n_answer + n_thinking
    if n_total is not None and n_total - n_input - n_tool > n_output:
        n_output = n_total - n_input - n_tool
    if not (n_cached or n_thinking):
        return Usage(n_input + n_tool, 0, n_output)
    return Usage(n_input + n_tool, min(n_cached, n_input), n_output, reasoning_tokens=min(n_thinking, n_output))


def _logprobs(value: object) -> tuple[TokenLogprob, ...]:
    if not isinstance(value, dict):
        return ()
    chosen = parts_of(value.get("chosenCandidates"))
    tops = parts_of(value.get("topCandidates"))
    found = []
    for place, token in enumerate(chosen):
        others = parts_of(tops[place].get("candidates")) if place < len(tops) else []
        alternatives = sorted(((text_of(o.get("token")), _number(o)) for o in others), key=lambda pair: -pair[1])
        found.append(TokenLogprob(text_of(token.get("token")), _number(token), tuple(alternatives)))
    return tuple(found)


def _number(token: Mapping[str, Any]) -> float:
    value = token.get("logProbability")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 9999
    return float(value) if is_number else -9999.0  # type: ignore[arg-type]


def _url(endpoint: str, model: str) -> str:
    parts = urllib.parse.urlsplit(endpoint)
    base = parts.path.rstrip("/")
    if not base.endswith(":generateContent"):
        base += f"/models/{urllib.parse.quote(model.removeprefix('models/'))}:generateContent"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, base, parts.query, ""))


def _headers(key: str) -> dict[str, str]:
    return {"x-goog-api-key": key} if key else {}


DIALECT = Dialect("gemini", _url, _headers, body, no_limits, FEATURES, 20, for_gemini)
