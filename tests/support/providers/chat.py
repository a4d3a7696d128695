"""What the imitations of OpenAI, Azure, OpenRouter and vLLM share: messages in, a chat completion out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from tests.support.providers import imitation
from tests.support.providers.bill import Tokens
from tests.support.providers.brain import Turn

Refuse = Callable[[str, str | None, str | None], NoReturn]
"""(message, parameter, code) -> raises the provider's 400."""


@dataclass(frozen=True, slots=True)
class ChatModel(imitation.Model):
    """A model behind chat completions, and what it takes.

    `efforts`: reasoning efforts it knows; () for a model that does not think. `sampling`: whether temperature, top_p
    and log-probabilities are taken. `writes_cache`: prompt tokens written to the cache are billed apart.
    """

    efforts: tuple[str, ...] = ()
    default_effort: str = "none"
    sampling: Literal["always", "without_effort", "never"] = "always"
    takes_max_tokens: bool = True
    takes_stop: bool = True
    writes_cache: bool = False

    def takes_sampling(self, effort: str) -> bool:
        return self.sampling == "always" or (self.sampling == "without_effort" and effort == "none")


ROLES = ("developer", "system", "user", "assistant")


def messages_of(body: Mapping[str, Any], refuse: Refuse) -> list[tuple[str, str]]:
    """(role, text) of every message."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        refuse("Missing required parameter: 'messages'.", "messages", "missing_required_parameter")
    if not messages:
        refuse("Invalid 'messages': empty array. Expected at least 1 element.", "messages", "empty_array")
    found = []
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if not isinstance(message, dict):
            refuse(f"Invalid type for '{where}': expected an object.", where, "invalid_type")
        for name in sorted(set(message) - {"role", "content", "name", "refusal"}):
            refuse(f"Unknown parameter: '{where}.{name}'.", f"{where}.{name}", "unknown_parameter")
        if message.get("role") not in ROLES:
            refuse(
                f"Invalid value: '{message.get('role')}'. Supported values are: {', '.join(map(repr, ROLES))}.",
                f"{where}.role",
                "invalid_value",
            )
        found.append((message["role"], content_of(message.get("content"), where, refuse)))
    return found


def content_of(content: Any, where: str, refuse: Refuse) -> str:
    """The text of a message: a string, or a list of text parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    if not parts or any(not isinstance(part, dict) or part.get("type") != "text" for part in parts):
        refuse(f"Invalid value for '{where}.content': expected text.", f"{where}.content", "invalid_type")
    return "".join(str(part.get("text", "")) for part in parts)


def split_system(messages: Sequence[tuple[str, str]]) -> tuple[str, tuple[Turn, ...]]:
    """(system text, turns)."""
    system = "\n".join(text for role, text in messages if role in ("system", "developer"))
    return system, tuple((role, text) for role, text in messages if role in ("user", "assistant"))


def response_format(body: Mapping[str, Any], refuse: Refuse) -> tuple[Mapping[str, Any] | None, bool, bool]:
    """(schema, whether JSON is asked for, whether strictly by the schema)."""
    form = body.get("response_format")
    if form is None:
        return None, False, False
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "text":
        return None, False, False
    if kind == "json_object":
        return None, True, False
    inner = form.get("json_schema") if kind == "json_schema" else None
    if not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict):
        refuse("Invalid value for 'response_format'.", "response_format", "invalid_value")
    if not isinstance(inner.get("name"), str):
        missing = "response_format.json_schema.name"
        refuse(f"Missing required parameter: '{missing}'.", missing, "missing_required_parameter")
    return inner["schema"], True, inner.get("strict") is True


_NOT_STRICT = ("allOf", "oneOf", "not", "if", "then", "else", "patternProperties", "dependentRequired", "uniqueItems")


def check_strict(schema: Any, name: str, refuse: Refuse) -> None:
    """A strict schema is closed: every object names all its properties as required and forbids others."""

    def wrong(said: str, path: Sequence[str]) -> NoReturn:
        context = "(" + ", ".join(repr(step) for step in path) + (",)" if len(path) == 1 else ")")
        refuse(f"Invalid schema for response_format '{name}': In context={context}, {said}", "response_format", None)

    def walk(part: Any, path: tuple[str, ...]) -> None:
        if not isinstance(part, dict):
            return
        for word in _NOT_STRICT:
            if word in part:
                wrong(f"'{word}' is not permitted.", path)
        if part.get("type") == "object" or "properties" in part:
            if part.get("additionalProperties") is not False:
                wrong("'additionalProperties' is required to be supplied and to be false.", path)
            properties = part.get("properties", {})
            if sorted(part.get("required", ())) != sorted(properties):
                wrong("'required' is required to be supplied and to be an array including every key.", path)
            for key, inner in properties.items():
                walk(inner, (*path, "properties", key))
        walk(part.get("items"), (*path, "items"))
        for place, inner in enumerate(part.get("anyOf", ())):
            walk(inner, (*path, "anyOf", str(place)))
        for defined in ("$defs", "definitions"):
            for key, inner in part.get(defined, {}).items():
                walk(inner, (*path, defined, key))

    if schema.get("type") != "object":
        kind = schema.get("type")
        refuse(
            f"Invalid schema for response_format '{name}': schema must be a JSON Schema of 'type: \"object\"', "
            f"got 'type: \"{kind}\"'.",
            "response_format",
            None,
        )
    walk(schema, ())


def number(
    body: Mapping[str, Any],
    name: str,
    refuse: Refuse,
    *,
    least: float,
    most: float | None = None,
    whole: bool = False,
) -> Any:
    """A number of the body within its bounds; None where it is absent or null."""
    value = body.get(name)
    if value is None:
        return None
    kind = "integer" if whole else "decimal"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        refuse(f"Invalid type for '{name}': expected a number, but got another.", name, "invalid_type")
    if value < least:
        refuse(
            f"Invalid '{name}': {kind} below minimum value. Expected a value >= {least:g}, but got {value} instead.",
            name,
            f"{kind}_below_min_value",
        )
    if most is not None and value > most:
        refuse(
            f"Invalid '{name}': {kind} above maximum value. Expected a value <= {most:g}, but got {value} instead.",
            name,
            f"{kind}_above_max_value",
        )
    return value


def stops(body: Mapping[str, Any], refuse: Refuse, *, most: int | None = 4) -> tuple[str, ...]:
    """Stop sequences: one text or a list."""
    value = body.get("stop")
    if value is None:
        return ()
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else (None,)
    if any(not isinstance(text, str) or not text for text in found):
        refuse("Invalid type for 'stop': expected a text or a list of texts.", "stop", "invalid_type")
    if most is not None and len(found) > most:
        message = f"Invalid 'stop': array too long. Expected an array with maximum length {most}, but got an array "
        refuse(f"{message}with length {len(found)} instead.", "stop", "array_above_max_length")
    return found


def completion(
    ask: imitation.Ask,
    choices: Sequence[Mapping[str, Any]],
    usage: Mapping[str, Any] | None,
    *,
    number: int,
    **more: Any,
) -> dict[str, Any]:
    """A chat completion."""
    document: dict[str, Any] = {
        "id": f"chatcmpl-imitation{number:06d}",
        "object": "chat.completion",
        "created": 1_795_000_000 + number,
        "model": ask.model.snapshot,
        "choices": list(choices),
    }
    if usage is not None:
        document["usage"] = dict(usage)
    return document | more


def choice(
    index: int, content: str | None, finish: str, *, logprobs: Any = None, refusal: str | None = None, **more: Any
) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "refusal": refusal} | more
    return {"index": index, "message": message, "finish_reason": finish, "logprobs": logprobs}


def usage_of(counts: Tokens, *, cached: bool = True, written: bool = False, thinks: bool = False) -> dict[str, Any]:
    """Usage as OpenAI counts it: the prompt with what was cached, the completion with the thinking."""
    usage: dict[str, Any] = {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.output,
        "total_tokens": counts.prompt + counts.output,
    }
    if cached:
        usage["prompt_tokens_details"] = {"cached_tokens": counts.cached, "audio_tokens": 0}
        if written:
            usage["prompt_tokens_details"]["cache_write_tokens"] = counts.written
    if thinks:
        usage["completion_tokens_details"] = {
            "reasoning_tokens": counts.thinking,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        }
    return usage


def logprobs_of(ask: imitation.Ask, answer: Sequence[str], *, lowest: float | None = None) -> dict[str, Any] | None:
    """Log-probabilities as OpenAI writes them; `lowest` stands in the place of the unlikeliest alternative."""
    if ask.n_top_logprobs is None:
        return None

    def one(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    content = []
    for each in imitation.logprobs(answer, ask.n_top_logprobs):
        top = [one(token, logprob) for token, logprob in each.top]
        if lowest is not None and len(top) > 1:
            top[-1]["logprob"] = lowest
        content.append(one(each.token, each.logprob) | {"top_logprobs": top})
    return {"content": content, "refusal": None}
