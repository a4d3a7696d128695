"""JSON schemas as providers take them: any schema in, what can be asked for out. Pure.

No provider takes every schema. What is asked for may be wider than what the user wrote, never narrower than an answer
needs: replies are checked against the whole schema afterwards. Where a schema cannot be asked for at all, the prompt
alone says what is wanted.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

WRAPPER: Final = "answer"
"""The one field of the object that an answer is put into where a provider wants an object."""


@dataclass(frozen=True, slots=True)
class AskedSchema:
    """What is sent. `is_strict`: the provider's strict mode, which takes closed schemas alone. `is_wrapped`: the answer
    comes as the field `WRAPPER` of an object."""

    schema: Mapping[str, Any]
    is_strict: bool = True
    is_wrapped: bool = False


SchemaAsker = Callable[[Mapping[str, Any]], AskedSchema | None]
"""What a provider can be asked for of a schema; None: nothing."""


def as_it_is(schema: Mapping[str, Any]) -> AskedSchema | None:
    """For servers that guide the decoding by the schema itself (vLLM, SGLang, llama.cpp, Ollama)."""
    return AskedSchema(schema)


def for_strict(schema: Mapping[str, Any]) -> AskedSchema | None:
    """OpenAI's way, and that of those who took it over: the root is an object; in strict mode every object names all
    its properties as required and forbids others, and some words are refused. A schema that cannot be brought into this
    form without changing its answers is asked for without strict mode."""
    is_wrapped = schema.get("type") != "object" or "anyOf" in schema or "oneOf" in schema
    whole = _wrapped(schema) if is_wrapped else schema
    if whole is None:
        return None
    try:
        return AskedSchema(_strict(whole), True, is_wrapped)
    except _NotStrictError:
        return AskedSchema(whole, False, is_wrapped)


def for_json_object(schema: Mapping[str, Any]) -> AskedSchema | None:
    """For providers that can be asked for some JSON object, whatever is in it."""
    return AskedSchema(schema, False) if schema.get("type") == "object" else None


def for_gemini(schema: Mapping[str, Any]) -> AskedSchema | None:
    """Gemini's `responseJsonSchema`: the words that it knows."""
    return AskedSchema(_only(schema))


def for_closed(schema: Mapping[str, Any], refused: frozenset[str]) -> AskedSchema | None:
    """Anthropic's way: every object is closed, and words in `refused` are left out. None where an object must stay open
    (its keys would be lost), and where a schema holds itself."""
    if any(_is_open(part) for part in _parts(schema)) or _holds_itself(schema):
        return None
    return AskedSchema(closed(schema, refused))


def closed(schema: Any, refused: frozenset[str]) -> Any:
    """The schema without these words, `oneOf` as `anyOf`, and every object without further properties."""

    def change(part: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in _any_of(part).items() if name not in refused}
        if _is_object(kept):
            kept["additionalProperties"] = False
        return kept

    return _changed(schema, change)


def unwrapped(text: str) -> str:
    """The answer within `WRAPPER`, as JSON; the text as it is where it holds no such object."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    if not isinstance(document, dict) or set(document) != {WRAPPER}:
        return text
    return orjson.dumps(document[WRAPPER]).decode()


class _NotStrictError(Exception):
    """The schema cannot be asked for in strict mode."""


_DEFINITIONS: Final = ("$defs", "definitions")
_MAPS: Final = (*_DEFINITIONS, "properties", "patternProperties", "dependentSchemas")
_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE: Final = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_NARROWING: Final = frozenset(
    {
        "$schema",
        "$id",
        "$comment",
        "not",
        "if",
        "then",
        "else",
        "uniqueItems",
        "contains",
        "minContains",
        "maxContains",
        "minProperties",
        "maxProperties",
        "propertyNames",
        "dependentRequired",
        "dependentSchemas",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
"""Words that only forbid: without them every answer that was right is right still."""
_NOT_STRICT: Final = ("allOf", "patternProperties", "prefixItems", "additionalItems")
_SAYS_WHAT: Final = frozenset({"type", "enum", "const", "anyOf", "$ref"})
_GEMINI: Final = frozenset(
    {
        "$id",
        "$defs",
        "$ref",
        "$anchor",
        "type",
        "format",
        "title",
        "description",
        "enum",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "anyOf",
        "oneOf",
        "properties",
        "additionalProperties",
        "required",
        "propertyOrdering",
    }
)


def _changed(part: Any, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Any:
    """`change` on every schema within, the outer ones first. What is no schema (true, false) stays."""
    if not isinstance(part, Mapping):
        return part
    kept = change(part)
    for name, value in kept.items():
        if name in _MAPS and isinstance(value, Mapping):
            kept[name] = {key: _changed(inner, change) for key, inner in value.items()}
        elif name in _LISTS and isinstance(value, (list, tuple)):
            kept[name] = [_changed(inner, change) for inner in value]
        elif name in _SINGLE:
            kept[name] = _changed(value, change)
    return kept


def _parts(part: Any) -> Iterator[Mapping[str, Any]]:
    """The schema and every schema within it."""
    if not isinstance(part, Mapping):
        return
    yield part
    for name, value in part.items():
        if name in _MAPS and isinstance(value, Mapping):
            for inner in value.values():
                yield from _parts(inner)
        elif name in _LISTS and isinstance(value, (list, tuple)):
            for inner in value:
                yield from _parts(inner)
        elif name in _SINGLE:
            yield from _parts(value)


def _any_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """`oneOf` as `anyOf`, which is wider and which more providers know; where both are there `oneOf` only narrows."""
    kept = {name: value for name, value in part.items() if name != "oneOf"}
    return {"anyOf": part["oneOf"], **kept} if "oneOf" in part else kept


def _is_object(part: Mapping[str, Any]) -> bool:
    kind = part.get("type")
    return kind == "object" or (isinstance(kind, (list, tuple)) and "object" in kind) or "properties" in part


def _is_open(part: Mapping[str, Any]) -> bool:
    """An object whose keys the schema does not name, or not all of them."""
    if not _is_object(part):
        return False
    return not part.get("properties") or bool(part.get("additionalProperties", False)) or "patternProperties" in part


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema in strict form; _NotStrictError where it has none."""

    def change(part: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in _any_of(part).items() if name not in _NARROWING}
        any_of, properties, required = kept.get("anyOf", []), kept.get("properties", {}), kept.get("required", [])
        if not isinstance(any_of, list) or not isinstance(properties, Mapping) or not _is_names(required):
            raise _NotStrictError
        inner = [kept.get("items", {}), *any_of, *properties.values()]
        is_vague = not _SAYS_WHAT & kept.keys() or (kept.get("type") == "array" and "items" not in kept)
        if is_vague or any(word in kept for word in _NOT_STRICT):
            raise _NotStrictError
        if any(not isinstance(each, Mapping) for each in inner):
            raise _NotStrictError
        if _is_object(kept):
            if _is_open(kept) or set(required) != set(properties):
                raise _NotStrictError
            kept["additionalProperties"] = False
        return kept

    return dict(_changed(schema, change))


def _wrapped(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """An object with the schema's answer as its only field; None where the schema refers to its own root."""
    if any(not ref.startswith(("#/$defs/", "#/definitions/")) for ref in _references(schema)):
        return None
    inner = {name: value for name, value in schema.items() if name not in (*_DEFINITIONS, "$schema", "$id")}
    definitions = {name: schema[name] for name in _DEFINITIONS if name in schema}
    return {
        "type": "object",
        "properties": {WRAPPER: inner},
        "required": [WRAPPER],
        "additionalProperties": False,
        **definitions,
    }


def _references(schema: Mapping[str, Any]) -> list[str]:
    return [str(part["$ref"]) for part in _parts(schema) if "$ref" in part]


def _holds_itself(schema: Mapping[str, Any]) -> bool:
    """Whether following the references comes back to where it began."""
    refers: dict[str, list[str]] = {"#": _references({k: v for k, v in schema.items() if k not in _DEFINITIONS})}
    for where in _DEFINITIONS:
        named = schema.get(where)
        for name, part in (named if isinstance(named, Mapping) else {}).items():
            refers[f"#/{where}/{name}"] = _references(part) if isinstance(part, Mapping) else []

    def comes_back(start: str) -> bool:
        seen: set[str] = set()
        ahead = list(refers[start])
        while ahead:
            ref = ahead.pop()
            if ref == start:
                return True
            if ref not in seen:
                seen.add(ref)
                ahead += refers.get(ref, [])
        return False

    return any(comes_back(start) for start in refers)


def _only(schema: Mapping[str, Any]) -> dict[str, Any]:
    def change(part: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in part.items() if name in _GEMINI}
        if "const" in part and "enum" not in part:
            kept["enum"] = [part["const"]]
        if isinstance(part.get("definitions"), Mapping):
            kept["$defs"] = {**part["definitions"], **part.get("$defs", {})}
        if isinstance(part.get("$ref"), str):
            kept["$ref"] = part["$ref"].replace("#/definitions/", "#/$defs/")
        return kept

    return dict(_changed(schema, change))
