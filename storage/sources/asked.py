"""What a row asks for itself, in the words of OpenAI's chat completions: its conversation and its parameters.

Every field is honoured, kept because it changes nothing, or the row is refused by that field's name. Nothing is
dropped in silence. docs/answering.md has the same as a table.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import orjson

from r2.call import Message
from r2.problem import Asked
from r2.problems.schema import parse_schema
from storage.sources.values import RowError, flag, number, text, whole

EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
MAX_STOPS: Final = 16
MAX_ANSWERS: Final = 128
"""Of `n`, as at OpenAI."""
_INT64: Final = 2**63 - 1
LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
PARAMETERS: Final = frozenset(
    {
        *LIMITS,
        "temperature",
        "top_p",
        "seed",
        "stop",
        "n",
        "response_format",
        "reasoning_effort",
        "logprobs",
        "top_logprobs",
    }
)
KEPT: Final = frozenset({"model", "metadata", "user", "safety_identifier", "prompt_cache_key"})
"""They say nothing of the answer: kept in the row, and not sent. The pool says which models answer."""
_WITHOUT_EFFECT: Final[Mapping[str, tuple[object, ...]]] = {
    "stream": (False,),
    "store": (False,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none",),
    "function_call": ("none",),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "verbosity": ("medium",),
}
"""Values that ask for what is done anyway."""
_TOOLS, _FOR_ALL = "models are asked for texts, not for calls of tools", "it can be sent for all rows, as extra_body"
_WHY: Final[Mapping[str, str]] = {
    "tools": _TOOLS,
    "tool_choice": _TOOLS,
    "functions": _TOOLS,
    "function_call": _TOOLS,
    "parallel_tool_calls": _TOOLS,
    "stream": "answers are written when they are whole",
    "stream_options": "answers are written when they are whole",
    "store": "nothing is stored at a provider",
    "modalities": "only texts can be answered",
    "audio": "only texts can be answered",
    "service_tier": f"{_FOR_ALL} of a pool entry, whose prices must be those of the tier",
    "frequency_penalty": f"{_FOR_ALL} of a pool entry",
    "presence_penalty": f"{_FOR_ALL} of a pool entry",
    "logit_bias": "tokens differ from model to model, and the pool has several",
    "verbosity": f"{_FOR_ALL} of a pool entry",
    "prediction": "models are asked without it",
    "web_search_options": "models are asked without a search",
}
Shown = Callable[[str], str]
"""A field's name -> how the row calls it, with its place."""


def parted(fields: Mapping[str, Any], shown: Shown, *, is_strict: bool) -> dict[str, Any]:
    """The parameters among the fields. RowError for one that cannot be honoured, and with `is_strict` for one that
    nobody knows. A field that is null is one that is not there."""
    found = {}
    for name, value in fields.items():
        if value is None or name in KEPT:
            continue
        if name in PARAMETERS:
            found[name] = value
        elif name in _WHY:
            if not any(value == same for same in _WITHOUT_EFFECT.get(name, ())):
                raise RowError("unsupported_field", f"{shown(name)}: {_WHY[name]}. Take it out of the row")
        elif is_strict:
            raise RowError("unsupported_field", f"{shown(name)}: no field of a request that we know. Take it out")
    return found


def asked_of(
    parameters: Mapping[str, Any], shown: Shown, messages: tuple[Message, ...] = (), system: str | None = None
) -> Asked:
    """The request of a row. RowError, with the field's name and what is expected, for a value that cannot be."""
    given = {name: value for name, value in parameters.items() if value is not None}
    schema, is_object = None, False
    if "response_format" in given:
        schema, is_object = _response_format(given["response_format"], shown("response_format"))
    has_logprobs = "logprobs" in given and flag(given["logprobs"], shown("logprobs"))
    n_top = None
    if "top_logprobs" in given:
        n_top = whole(given["top_logprobs"], shown("top_logprobs"), 0, 20)
        if n_top and not has_logprobs:
            raise RowError("bad_value", f"{shown('top_logprobs')}: needs {shown('logprobs')} = true")
    effort = given.get("reasoning_effort")
    if effort is not None and effort not in EFFORTS:
        raise RowError(
            "bad_value", f"{shown('reasoning_effort')}: expected one of {', '.join(EFFORTS)}, got {effort!r:.40}"
        )
    return Asked(
        messages=messages,
        system=system,
        max_output_tokens=_limit(given, shown),
        temperature=_number(given, "temperature", shown, 0.0, 2.0),
        top_p=_number(given, "top_p", shown, 0.0001, 1.0),
        seed=whole(given["seed"], shown("seed"), -_INT64, _INT64) if "seed" in given else None,
        stop=_stop(given.get("stop"), shown("stop")),
        n=whole(given["n"], shown("n"), 1, MAX_ANSWERS) if "n" in given else None,
        schema=schema,
        json_object=is_object,
        effort=effort,
        logprobs=has_logprobs,
        top_logprobs=n_top,
    )


def _number(given: Mapping[str, Any], name: str, shown: Shown, low: float, high: float) -> float | None:
    return number(given[name], shown(name), low, high) if name in given else None


def _limit(given: Mapping[str, Any], shown: Shown) -> int | None:
    """The output limit, which has had three names."""
    limits = {name: whole(given[name], shown(name), 1, 10_000_000) for name in LIMITS if name in given}
    if len(set(limits.values())) > 1:
        names = " and ".join(shown(name) for name in limits)
        raise RowError("bad_value", f"{names} are names of one limit, and say different things. Leave one")
    return next(iter(limits.values()), None)


def _stop(value: object, shown: str) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if (
        not isinstance(stops, list)
        or len(stops) > MAX_STOPS
        or not all(isinstance(stop, str) and stop for stop in stops)
    ):
        raise RowError("bad_value", f"{shown}: expected a text or a list of at most {MAX_STOPS} texts, none empty")
    return tuple(text(stop, shown) for stop in stops)


def _response_format(value: object, shown: str) -> tuple[str | None, bool]:
    """(JSON Schema as text, whether any JSON object will do)."""
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or kind not in ("text", "json_object", "json_schema"):
        raise RowError("bad_value", f"{shown}: expected an object with type text, json_object or json_schema")
    if kind != "json_schema":
        return None, kind == "json_object"
    named = value.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(named, dict) or not isinstance(schema, dict):
        raise RowError("bad_value", f"{shown}.json_schema.schema: expected a JSON Schema, which is an object")
    described = {"description": named["description"]} if isinstance(named.get("description"), str) else {}
    written = text(orjson.dumps(described | schema).decode(), f"{shown}.json_schema.schema")
    try:
        parse_schema(written)
    except ValueError as error:
        raise RowError("bad_value", f"{shown}.json_schema.schema: {error}") from None
    return written, False


def conversation(value: object, shown: str) -> tuple[Message, ...]:
    """The messages as the row has them, in their roles; the last one is the user's. `developer` is `system`."""
    if not isinstance(value, list) or not value:
        raise RowError("missing_question", f"{shown} must be a non-empty list")
    turns = tuple(_turn(message, f"{shown}[{index}]") for index, message in enumerate(value))
    if turns[-1][0] != "user":
        raise RowError("missing_question", f"{shown}: the last message must be the user's, and is the {turns[-1][0]}'s")
    if not turns[-1][1].strip():
        raise RowError("missing_question", f"{shown}[{len(turns) - 1}].content is empty")
    return turns


_ROLES: Final[Mapping[str, Literal["system", "user", "assistant"]]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def _turn(message: object, shown: str) -> Message:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(role, str) or role not in _ROLES:
        raise RowError("bad_message", f"{shown}.role {role!r:.40}: expected system, developer, user or assistant")
    for name, value in message.items():
        if name not in ("role", "content") and value not in (None, [], {}, ""):
            raise RowError("unsupported_field", f"{shown}.{name}: only role and content can be sent. Take it out")
    return _ROLES[role], content_of(message.get("content"), f"{shown}.content")


def content_of(value: object, shown: str) -> str:
    """A message's text: a text, or parts that are texts."""
    if isinstance(value, list):
        texts = []
        for index, part in enumerate(value):
            kind = part.get("type") if isinstance(part, dict) else None
            if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
                raise RowError(
                    "bad_message", f"{shown}[{index}] is a {kind!r:.40} part: only text parts can be answered"
                )
            others = [name for name, inner in part.items() if name not in ("type", "text") and inner is not None]
            if others:
                raise RowError("unsupported_field", f"{shown}[{index}].{others[0]}: only type and text can be sent")
            texts.append(part["text"])
        value = "\n".join(texts)
    if not isinstance(value, str):
        raise RowError("bad_message", f"{shown} must be text, got {type(value).__name__}")
    return text(value, shown)


def rendered(messages: tuple[Message, ...]) -> tuple[str, str]:
    """(question, context) as whoever plans and chooses models sees them: the last turn, and those before it."""
    *before, (_, question) = messages
    return question, "\n".join(said if role == "system" else f"{role}: {said}" for role, said in before)
