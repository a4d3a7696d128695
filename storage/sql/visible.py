"""Text of models, questions and files as a terminal may be shown it: what would steer the terminal is written out."""

import re

_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Controls (an escape sequence clears the screen, sets the title, hides text) but tab and line end, and the marks that
turn the direction of writing round."""


def visible(text: str) -> str:
    """The text with such characters as escapes: `\\x1b[2J` in place of an empty screen."""
    return _STEERING.sub(_escaped, text)


def visible_json(text: str) -> str:
    """The same in JSON, which knows no `\\x`, and whose strings hold no raw control below a space."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
