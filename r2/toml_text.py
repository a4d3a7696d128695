"""TOML that somebody else wrote, parsed within bounds: pool files and settings travel between people."""

import tomllib
from itertools import chain
from typing import Any

MAX_BYTES = 4 * 1024 * 1024
"""A pool file of a thousand models has a tenth of it."""
MAX_DEPTH = 32
"""Tables and lists within each other; our own files have five."""


def parsed(text: str) -> dict[str, Any]:
    """The document. Raises ValueError, in words for people, for text that is not TOML, too long, or nested too deeply
    to be handled (the parsers of TOML recurse)."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"too long: {len(text)} characters; at most {MAX_BYTES} are read")
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise ValueError(
            f"nested too deeply; at most {MAX_DEPTH} tables and lists within each other are read"
        ) from None
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        inside = chain.from_iterable(one.values() if isinstance(one, dict) else one for one in level)
        level = [one for one in inside if isinstance(one, (dict, list))]
        if not level:
            return document
    raise ValueError(f"nested too deeply; at most {MAX_DEPTH} tables and lists within each other are read")
