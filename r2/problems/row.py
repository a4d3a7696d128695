"""Fields of a benchmark's row, read with errors that name the field; whoever read the file adds file and line."""

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


class FieldError(ValueError):
    """A field that is not what the benchmark's format says."""

    def __init__(self, field: str, expected: str, value: object) -> None:
        super().__init__(f"field {field!r}: expected {expected}, got {_shown(value)}")


def text_of(row: Row, *names: str) -> str:
    """The first of the fields that is there, as text that is not empty. FieldError names the first one."""
    for name in names:
        if name in row:
            value = row[name]
            if not isinstance(value, (str, int, float)) or isinstance(value, bool) or not str(value).strip():
                raise FieldError(name, "text", value)
            return str(value).strip()
    raise FieldError(names[0], "text", None)


def list_of(row: Row, name: str) -> list[Any]:
    """A list field; FieldError for anything else that is not absent ([])."""
    value = row.get(name, [])
    if not isinstance(value, list):
        raise FieldError(name, "a list", value)
    return value


def id_of(row: Row, benchmark: str, index: int) -> str:
    """The row's own id (`id` or `qid`), else the benchmark and the row's place."""
    value = row.get("id", row.get("qid"))
    return str(value) if isinstance(value, (str, int)) and str(value) else f"{benchmark}-{index}"


def _shown(value: object) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
