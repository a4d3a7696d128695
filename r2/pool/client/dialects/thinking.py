"""Thinking that a server left in the answer: `<think>...</think>`, also without its first or its last tag. Pure."""

import re

_OPEN, _CLOSE = "<think>", "</think>"
_LEADING = re.compile(r"^\s*<think>", re.IGNORECASE)
_CLOSING = re.compile(r"</think>", re.IGNORECASE)


def split_thinking(text: str) -> tuple[str, str]:
    """(thinking, answer) of a text.

    The answer is what follows the last closing tag: some chat templates write the opening tag themselves, so that a
    reply has only the closing one. A text that opens its thinking and never closes it was cut inside it: it has no
    answer. A text without tags is all answer.
    """
    if "<" not in text:
        return "", text
    closings = list(_CLOSING.finditer(text))
    if closings:
        last = closings[-1]
        return _LEADING.sub("", text[: last.start()]).strip(), text[last.end() :].lstrip()
    if opening := _LEADING.match(text):
        return text[opening.end() :].strip(), ""
    return "", text
