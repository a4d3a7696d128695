"""Lines of the providers' own batch files: OpenAI's `{custom_id, body}`, Anthropic's `{custom_id, params}` and Gemini's
`{key, request}`.

Each is one request, told in the words of OpenAI's (`asked.py`). The model that a line names is kept, and the pool
answers.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from r2.call import Message
from r2.problem import Problem
from storage.sources.asked import asked_of, content_of, conversation, parted, rendered
from storage.sources.values import RowError, required_text, text

BatchFormat = Literal["openai-batch", "anthropic-batch", "gemini-batch"]
ID_FIELDS: Final[Mapping[BatchFormat, str]] = {
    "openai-batch": "custom_id",
    "anthropic-batch": "custom_id",
    "gemini-batch": "key",
}
URLS: Final = ("/v1/chat/completions", "/chat/completions")
"""Azure writes the second."""


def batch_format_of(row: Mapping[str, Any]) -> BatchFormat | None:
    """Whose batch line this is; None for a row of a table."""
    if "custom_id" in row and "body" in row:
        return "openai-batch"
    if "custom_id" in row and isinstance(row.get("params"), dict):
        return "anthropic-batch"
    if "key" in row and isinstance(row.get("request"), dict) and "contents" in row["request"]:
        return "gemini-batch"
    return None


def batch_problem(row: dict[str, Any], index: int, default_benchmark: str, batch_format: BatchFormat) -> Problem:
    """The line as a problem. RowError names the field that cannot be honoured."""
    id_field = ID_FIELDS[batch_format]
    line_id = row.get(id_field)
    if not isinstance(line_id, str) or not line_id:
        raise RowError("bad_id", f"{id_field} must be a non-empty text")
    text(line_id, id_field)
    messages, asked, kept = _READERS[batch_format](row)
    question, context = rendered(messages)
    return Problem(
        problem_id=line_id,
        question=required_text(question, "the last message"),
        input_index=index,
        benchmark=default_benchmark,
        context=context,
        extra=kept,
        asked=asked,
    )


def _openai(row: dict[str, Any]) -> Any:
    if row.get("url") not in (None, *URLS):
        raise RowError("unsupported_url", f"url {row['url']!r:.60}: only {URLS[0]} can be answered")
    if row.get("method") not in (None, "POST"):
        raise RowError("bad_value", f"method {row['method']!r:.40}: expected POST")
    body = row.get("body")
    if not isinstance(body, dict):
        raise RowError("missing_question", "body must be an object with messages")

    def shown(name: str) -> str:
        return f"body.{name}"

    messages = conversation(body.get("messages"), shown("messages"))
    rest = {name: value for name, value in body.items() if name != "messages"}
    asked = asked_of(parted(rest, shown, is_strict=True), shown, messages)
    others = {name: value for name, value in row.items() if name not in ("custom_id", "method", "url", "body")}
    return messages, asked, {"body": rest, **others}


_ANTHROPIC: Final = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "stop": "stop_sequences",
}
"""Our name of a parameter -> Anthropic's."""


def _anthropic(row: dict[str, Any]) -> Any:
    params = row["params"] if isinstance(row.get("params"), dict) else {}
    names = dict(_ANTHROPIC)

    def shown(name: str) -> str:
        return f"params.{names.get(name, name)}"

    turns = conversation(params.get("messages"), shown("messages"))
    system = params.get("system")
    messages: tuple[Message, ...] = turns
    if system is not None:
        messages = (("system", content_of(_without_cache_marks(system), shown("system"))), *turns)
    rest = {name: value for name, value in params.items() if name not in ("messages", "system")}
    output = rest.pop("output_config", None)
    fields = {ours: rest.pop(theirs) for ours, theirs in _ANTHROPIC.items() if theirs in rest}
    if output is not None:
        names |= {"reasoning_effort": "output_config.effort", "response_format": "output_config.format"}
        fields |= _anthropic_output(output)
    for name, value in rest.items():
        if name not in ("model", "metadata") and not (name == "stream" and value is False) and value is not None:
            raise RowError("unsupported_field", f"{shown(name)}: cannot be honoured. Take it out of the row")
    return messages, asked_of(fields, shown, messages), {"params": {**rest, **fields}, **_others(row, "params")}


def _anthropic_output(output: object) -> dict[str, Any]:
    if not isinstance(output, dict) or set(output) - {"effort", "format"}:
        raise RowError("unsupported_field", "params.output_config: only effort and format can be honoured")
    found = {"reasoning_effort": output.get("effort")}
    form = output.get("format")
    if form is not None:
        schema = form.get("schema") if isinstance(form, dict) else None
        found["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    return found


def _without_cache_marks(system: object) -> object:
    """Marks of a cached prefix change what is paid, not what is asked; the pool file says which entry wants them."""
    if not isinstance(system, list):
        return system
    return [
        {name: value for name, value in part.items() if name != "cache_control"} if isinstance(part, dict) else part
        for part in system
    ]


_GEMINI: Final = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "seed": "seed",
    "stop": "stopSequences",
    "n": "candidateCount",
    "logprobs": "responseLogprobs",
    "top_logprobs": "logprobs",
}
"""Our name of a parameter -> that of Gemini's `generationConfig`."""


def _gemini(row: dict[str, Any]) -> Any:
    request = row["request"] if isinstance(row.get("request"), dict) else {}
    config = _either(request, "generationConfig", "generation_config") or {}
    if not isinstance(config, dict):
        raise RowError("bad_value", "request.generationConfig must be an object")

    def shown(name: str) -> str:
        return f"request.generationConfig.{_GEMINI.get(name, name)}"

    messages = _gemini_messages(request)
    rest = dict(config)
    fields = {ours: rest.pop(theirs) for ours, theirs in _GEMINI.items() if theirs in rest}
    kind, schema = rest.pop("responseMimeType", None), rest.pop("responseJsonSchema", None)
    if schema is not None:
        fields["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    elif kind == "application/json":
        fields["response_format"] = {"type": "json_object"}
    elif kind not in (None, "text/plain"):
        raise RowError("unsupported_field", f"{shown('responseMimeType')} {kind!r:.40}: cannot be honoured")
    thinking = rest.pop("thinkingConfig", None)
    if thinking is not None:
        level = thinking.get("thinkingLevel") if isinstance(thinking, dict) and len(thinking) == 1 else None
        if not isinstance(level, str):
            raise RowError("unsupported_field", f"{shown('thinkingConfig')}: only thinkingLevel can be honoured")
        fields["reasoning_effort"] = level.lower()
    for name, value in rest.items():
        if value is not None:
            raise RowError("unsupported_field", f"{shown(name)}: cannot be honoured. Take it out of the row")
    return (
        messages,
        asked_of(fields, shown, messages),
        {"request": {"generationConfig": config}, **_others(row, "request")},
    )


def _gemini_messages(request: dict[str, Any]) -> tuple[Message, ...]:
    known = {"contents", "systemInstruction", "system_instruction", "generationConfig", "generation_config", "model"}
    for name, value in request.items():
        if name not in known and value not in (None, []):
            raise RowError("unsupported_field", f"request.{name}: cannot be honoured. Take it out of the row")
    system = _either(request, "systemInstruction", "system_instruction")
    contents = request.get("contents")
    if not isinstance(contents, list):
        raise RowError("missing_question", "request.contents must be a non-empty list")
    turns = [
        {
            "role": {"model": "assistant", None: "user"}.get(role, role),
            "content": _gemini_text(content, f"request.contents[{i}]"),
        }
        for i, content in enumerate(contents)
        for role in [content.get("role") if isinstance(content, dict) else None]
    ]
    if system is not None:
        turns.insert(0, {"role": "system", "content": _gemini_text(system, "request.systemInstruction")})
    return conversation(turns, "request.contents")


def _gemini_text(content: object, shown: str) -> str:
    parts = content.get("parts") if isinstance(content, dict) else None
    if not isinstance(parts, list) or not parts:
        raise RowError("bad_message", f"{shown}.parts must be a list of texts")
    for index, part in enumerate(parts):
        if not isinstance(part, dict) or set(part) != {"text"} or not isinstance(part["text"], str):
            raise RowError("bad_message", f"{shown}.parts[{index}]: only text parts can be answered")
    return "\n".join(part["text"] for part in parts)


def _either(fields: Mapping[str, Any], name: str, other: str) -> Any:
    return fields.get(name, fields.get(other))


def _others(row: Mapping[str, Any], *read: str) -> dict[str, Any]:
    """The line's further fields, which are the user's."""
    return {name: value for name, value in row.items() if name not in (*read, "custom_id", "key")}


_READERS: Final = {"openai-batch": _openai, "anthropic-batch": _anthropic, "gemini-batch": _gemini}
