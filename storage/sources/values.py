"""Values of one input row, checked: a reader returns what the row says, or raises a `RowError` that names the column.

What is wrong with a row is said once, here: the rows after it are read on.
"""

import datetime
import decimal
import math
from collections.abc import Mapping
from typing import Any

import orjson


class RowError(Exception):
    """Why a row cannot be asked. `error_type` is the short word that is stored for it, `found` what could be read."""

    def __init__(self, error_type: str, message: str, found: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.found = dict(found or {})


RawRow = tuple[int, dict[str, Any] | RowError]
"""(line, row) of a file; in place of the row the error that says why there is none."""


def text(value: str, column: str) -> str:
    """The text, if it can be stored and sent."""
    if "\x00" in value:
        raise RowError("nul_character", f"{column!r} holds a NUL character")
    return encodable(value, column)


def encodable(value: str, column: str) -> str:
    """The text, if it is valid Unicode."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        where = f"{column!r} is not valid UTF-8 at character {error.start}"
        byte = ord(value[error.start]) - 0xDC00  # as "surrogateescape" has it
        if not 0x80 <= byte <= 0xFF:
            raise RowError("bad_encoding", f"{where}: half of a pair of \\u escapes") from None
        raise RowError(
            "bad_encoding", f"{where}{as_cp1252(byte)}. Convert the file: iconv -f CP1252 -t UTF-8"
        ) from None
    return value


def as_cp1252(byte: int) -> str:
    """What to say of a byte that is no UTF-8: most such files are Windows' own."""
    try:
        return f": the byte {byte:#x} is {bytes([byte]).decode('cp1252')!r} in CP1252, which Windows writes"
    except UnicodeDecodeError:
        return ""


def required_text(value: object, column: str) -> str:
    """A text that is not blank."""
    if not isinstance(value, str):
        raise RowError("missing_question", f"{column!r} must be text, got {type(value).__name__}")
    if not value.strip():
        raise RowError("missing_question", f"{column!r} is empty")
    return text(value, column)


def scalar(value: object, column: str) -> str | None:
    """A text or a number as text; None where there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise RowError("bad_value", f"{column!r} must be text or a number, got {type(value).__name__}")
    return text(str(value), column)


def gold(value: object, column: str) -> tuple[str | None, tuple[str, ...]]:
    """(right answer, further ones that are as right): of a value of any type, because a row is asked whatever its gold
    answer looks like.

    True is "true" or "yes". Of a list of texts and numbers each is right. An object, or a list of lists, is its JSON
    text, which the check `json-equal` reads.
    """
    if isinstance(value, bool):
        return ("true", ("yes",)) if value else ("false", ("no",))
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat(), ()
    if isinstance(value, decimal.Decimal):
        return str(value), ()
    if isinstance(value, list) and all(isinstance(one, (str, int, float, decimal.Decimal)) for one in value):
        each = [gold(one, column) for one in value if one != ""]
        right = [one for first, others in each for one in (first, *others) if one is not None]
        return (right[0], tuple(right[1:])) if right else (None, ())
    if isinstance(value, (list, dict)):
        return text(orjson.dumps(value, default=str).decode(), column), ()
    return scalar(value, column), ()


def choices(value: object, column: str, most: int = 26) -> tuple[str, ...]:
    """A list of texts, or a text that is one: JSON, or parted by "|"."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except ValueError:
            value = str(value).split("|")
    if (
        not isinstance(value, list)
        or not all(isinstance(choice, (str, int, float)) for choice in value)
        or len(value) > most
    ):
        raise RowError("bad_value", f"{column!r} must be a list of at most {most} texts")
    return tuple(text(str(choice), column) for choice in value)


def labelled_choices(value: object) -> tuple[list[str], list[Any]] | None:
    """(labels, texts) of choices that come with labels: `{"label": [...], "text": [...]}`, or a list of
    `{"label": ..., "text": ...}`; None for choices in any other form."""
    if isinstance(value, dict) and isinstance(value.get("label"), list) and isinstance(value.get("text"), list):
        labels, texts = value["label"], value["text"]
    elif (
        isinstance(value, list)
        and value
        and all(isinstance(one, dict) and {"label", "text"} <= set(one) for one in value)
    ):
        labels, texts = [one["label"] for one in value], [one["text"] for one in value]
    else:
        return None
    return ([str(label) for label in labels], texts) if len(labels) == len(texts) else None


def whole(value: object, column: str, low: int, high: int) -> int:
    """A whole number within bounds."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RowError("bad_value", f"{column}: expected a whole number from {low} to {high}, got {value!r:.40}")
    return value


def number(value: object, column: str, low: float, high: float) -> float:
    """A number within bounds."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type, operator]
        raise RowError("bad_value", f"{column}: expected a number from {low:g} to {high:g}, got {value!r:.40}")
    return float(value)  # type: ignore[arg-type]


def flag(value: object, column: str) -> bool:
    if not isinstance(value, bool):
        raise RowError("bad_value", f"{column}: expected true or false, got {value!r:.40}")
    return value
