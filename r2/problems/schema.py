"""A JSON Schema that an answer must match, and the JSON that a model wrote.

A schema is read once, with errors that name the place in it. Nothing is ever fetched for it: a `$ref` to another
document is refused. Validated by the library jsonschema; which formats count is said in `_FORMATS`.
"""

import datetime
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2.errors import ConfigError

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

MAX_CHARACTERS = 1024 * 1024
"""Of a schema's text."""
MAX_DEPTH = 64
"""Lists and objects within each other in a schema: the library recurses."""
_MAX_ERRORS = 5
_MAX_TRIES = 64
"""Places of a text where JSON may begin."""
_FENCED = re.compile(r"^[ \t]*(```+|~~~+)[^\n`]*\n(.*?)^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL)
_OPENING = re.compile(r"[\[{]")
_DIALECTS = "drafts 2020-12, 2019-09, 7, 6, 4 and 3"
_FORMATS = ("date", "email", "ipv4", "ipv6", "uuid")
"""With `date-time` the formats that are checked; any other only says something to the reader, as JSON Schema has it."""
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """The JSON of an answer. `text` is it as it was written, `value` the same in its shortest form; both None where
    `error` says why the answer does not match."""

    text: str | None = None
    value: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerSchema:
    """One schema, read. `text` is it as JSON in its shortest form, keys in the order they were written in."""

    text: str
    _validator: "Validator"

    @property
    def digest(self) -> str:
        """By content: white space aside."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()

    def find(self, answer: str, *, is_cut: bool = False) -> Found:
        """The first JSON value in an answer that matches: the whole text, one in a fence of Markdown, or one with prose
        around it; of an answer that was cut only the whole text. What does not match is described by the first value
        that can be read."""
        first_error = None
        for text in [answer.strip()] if is_cut else json_texts(answer):
            try:
                value = read_json(text)
            except (ValueError, RecursionError) as error:
                first_error = first_error or f"not JSON: {_said(error)}"
                continue
            wrong = self._wrong_with(value)
            if wrong is None:
                return Found(text, written_json(value))
            if first_error is None or first_error.startswith("not JSON"):
                first_error = wrong
        return Found(error=first_error or "not JSON: the answer is empty")

    def _wrong_with(self, value: object) -> str | None:
        try:
            errors = [error for error, _ in zip(self._validator.iter_errors(value), range(_MAX_ERRORS), strict=False)]
        except RecursionError:
            return "nested too deeply to be checked"
        said = [f"at {error.json_path}: {_clipped(error.message)}" for error in errors]
        return "; ".join(said) or None


def load_schema(path: str, flag: str = "--schema") -> AnswerSchema:
    """Reads a schema's file. ConfigError, which names the file and the place in it, for one that cannot be used."""
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag} {path}: cannot be read: {error}.") from None
    try:
        return parse_schema(text)
    except ValueError as error:
        raise ConfigError(f"{flag} {path}: {error}.") from None


@lru_cache(maxsize=256)
def parse_schema(text: str) -> AnswerSchema:
    """Reads a schema. ValueError, with the place, for what is no JSON Schema or refers to another document."""
    from jsonschema import Draft202012Validator, FormatChecker
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012, specification_with

    schema = _read(text)
    dialect = schema.get("$schema")
    kind = validator_for(schema, default=Draft202012Validator)
    if dialect is not None and (
        not isinstance(dialect, str) or str(kind.META_SCHEMA.get("$schema", "")).rstrip("#") != dialect.rstrip("#")
    ):
        raise ValueError(f"$.$schema: {_clipped(json.dumps(dialect))} is not known. Known: {_DIALECTS}")
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"not a JSON Schema: {error.json_path}: {_clipped(error.message)}") from None
    specification = DRAFT202012 if dialect is None else specification_with(dialect)
    nothing_else: Registry[Any] = Registry()
    _check_references(schema, specification, nothing_else)
    formats = FormatChecker(_FORMATS)
    formats.checks("date-time", ValueError)(_is_date_time)
    validator = kind(schema, registry=nothing_else, format_checker=formats)
    try:
        probes: tuple[object, ...] = (None, {}, [], "", 0)
        for probe in probes:
            validator.is_valid(probe)
    except RecursionError:
        raise ValueError("a $ref leads back to itself, so that checking would never end") from None
    return AnswerSchema(written_json(schema), validator)


def _read(text: str) -> dict[str, Any]:
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"too long: {len(text)} characters; at most {MAX_CHARACTERS} are read")
    try:
        schema = read_json(text)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {_said(error)}") from None
    if not isinstance(schema, dict):
        raise ValueError("not a JSON Schema: expected an object")
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        inside = [part for one in level for part in (one.values() if isinstance(one, dict) else one)]
        level = [one for one in inside if isinstance(one, (dict, list))]
        if not level:
            return schema
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _check_references(schema: Mapping[str, Any], specification: Any, registry: Any) -> None:
    """ValueError for a reference that the schema itself cannot resolve."""
    from referencing.exceptions import Unresolvable

    resource = specification.create_resource(schema)
    level = [(resource, registry.resolver_with_root(resource))]
    while level:
        resource, resolver = level.pop()
        here = resource.contents
        for word in ("$ref", "$dynamicRef", "$recursiveRef"):
            target = here.get(word) if isinstance(here, Mapping) else None
            if not isinstance(target, str):
                continue
            try:
                resolver.lookup(target)
            except (Unresolvable, ValueError, AttributeError) as error:
                raise ValueError(
                    f"{_place_of(schema, here)}.{word}: {target!r} is not in this schema, and nothing is fetched. Put "
                    "what it means under $defs"
                ) from error
        level += [(part, resolver.in_subresource(part)) for part in resource.subresources()]


def _place_of(schema: object, wanted: object, path: str = "$") -> str:
    """Path of a part of a document; "" for one that is not in it."""
    if schema is wanted:
        return path
    if isinstance(schema, dict):
        parts = [(f"{path}.{key}", value) for key, value in schema.items()]
    elif isinstance(schema, list):
        parts = [(f"{path}[{index}]", value) for index, value in enumerate(schema)]
    else:
        return ""
    return next(filter(None, (_place_of(value, wanted, place) for place, value in parts)), "")


def json_texts(text: str) -> Iterator[str]:
    """Where JSON may be in a model's text, likeliest first: all of it, each fence of Markdown, then objects and lists
    with prose around them, the longest first."""
    yield from fenced_texts(text)
    yield from sorted(_amid_prose(text), key=len, reverse=True)


def fenced_texts(text: str) -> Iterator[str]:
    """The text, then what is in each of its fences; nothing that is empty."""
    pieces = [text, *(fenced[1] for fenced in _FENCED.findall(text))]
    yield from filter(None, map(str.strip, pieces))


def _amid_prose(text: str) -> Iterator[str]:
    decoder = json.JSONDecoder()
    at = 0
    for _ in range(_MAX_TRIES):
        opening = _OPENING.search(text, at)
        if opening is None:
            return
        try:
            _, end = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            at = opening.end()
            continue
        yield text[opening.start() : end]
        at = end


def read_json(text: str) -> Any:
    """A JSON text's value. ValueError for what is not JSON, NaN and Infinity and numbers out of range among it, and for
    text with half of a surrogate pair, which cannot be stored. RecursionError for one nested too deeply."""
    value = json.loads(text, parse_constant=_no_json, parse_float=_finite)
    if not text.isascii() or "\\u" in text:
        try:
            written_json(value).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half of a surrogate pair") from None
    return value


def written_json(value: object) -> str:
    """A value as JSON in its shortest form."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _no_json(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{_clipped(text)} is out of range")
    return number


def _is_date_time(value: object) -> bool:
    if not isinstance(value, str):
        return True
    if not _DATE_TIME.fullmatch(value):
        return False
    datetime.datetime.fromisoformat(value.upper().replace("Z", "+00:00"))
    return True


def _said(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _clipped(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:160]} ... {text[-30:]}"
