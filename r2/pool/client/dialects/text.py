"""Bytes of a server as JSON and as text that can be stored: total over anything, and never with a lone surrogate."""

import json
from typing import Any

import orjson


def as_json(body: bytes) -> Any:
    """The document, None if it is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        try:  # the slow parser takes what orjson refuses and Python servers write: lone surrogates, NaN, stray bytes
            return json.loads(body.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return None


def clean(text: str) -> str:
    """`text` with "?" for lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def text_of(value: object) -> str:
    """`value` if it is text, "" if it is not."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else clean(value)


def clip(body: bytes) -> str:
    """The beginning of a body, for a message."""
    return body[:200].decode("utf-8", "replace") or "an empty body"
