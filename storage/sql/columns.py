"""A table as lines of text that fit a terminal.

Where it is too wide, the headings break at their underscores first, then long texts are cut; where that is not enough,
or a column would be left with next to nothing, each row is written as lines of its own, one a column.
"""

import re
import unicodedata
from collections.abc import Sequence

CELL = 60
"""Columns of the terminal that a text in a table takes at most."""
_LEAST = 12
"""Texts are not cut further than to this."""
_GAP = "  "


def laid_out(
    names: Sequence[str], cells: Sequence[Sequence[str]], is_number: Sequence[bool], width: int | None = None
) -> str:
    """The table, each line ended. `cells` are texts of one line; `width` None: as wide as it comes."""
    widest = [max((_width(row[i]) for row in cells), default=0) for i in range(len(names))]
    whole = [
        max(_width(name), most if number else min(most, CELL))
        for name, most, number in zip(names, widest, is_number, strict=True)
    ]
    if width is None or _total(whole) <= width:
        return _table([[name] for name in names], cells, is_number, whole)
    pieces = [re.findall(r"[^_]*_+|[^_]+", name) or [name] for name in names]
    longest = [max(map(_width, piece)) for piece in pieces]
    least = [
        max(head, most if number else min(most, _LEAST))
        for head, most, number in zip(longest, widest, is_number, strict=True)
    ]
    if _total(least) > width:
        return _one_below_the_other(names, cells, width)
    fitting = [max(head, min(most, had)) for head, most, had in zip(longest, widest, whole, strict=True)]
    while _total(fitting) > width:
        i = max((i for i in range(len(names)) if fitting[i] > least[i]), key=fitting.__getitem__)
        fitting[i] -= 1
    for i, name in enumerate(names):  # what room is left goes to headings, from the left
        fitting[i] += max(0, min(_width(name) - fitting[i], width - _total(fitting)))
    return _table(
        [_broken(piece, room) for piece, room in zip(pieces, fitting, strict=True)], cells, is_number, fitting
    )


def cut(text: str, width: int) -> str:
    """The text in at most `width` columns of a terminal, with an ellipsis where something is missing."""
    if _width(text) <= width:
        return text
    used = 0
    for n, sign in enumerate(text):
        used += _width(sign)
        if used > width - 1:
            return f"{text[:n]}…"
    return text


def _table(
    headings: Sequence[Sequence[str]], cells: Sequence[Sequence[str]], is_number: Sequence[bool], widths: Sequence[int]
) -> str:
    height = max(map(len, headings), default=0)
    above = [["" for _ in range(height - len(lines))] + list(lines) for lines in headings]

    def line(texts: Sequence[str]) -> str:
        fitted = (_padded(cut(t, w), w, n) for t, w, n in zip(texts, widths, is_number, strict=True))
        return _GAP.join(fitted).rstrip() + "\n"

    head = [line([lines[k] for lines in above]) for k in range(height)]
    return "".join([*head, line(["-" * w for w in widths]), *map(line, cells)])


def _one_below_the_other(names: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> str:
    indent = max(map(_width, names))
    room = width - indent - len(_GAP)
    rows = []
    for n, row in enumerate(cells, 1):
        rows.append(f"--- row {n}\n")
        for name, text in zip(names, row, strict=True):
            if room >= _LEAST:
                rows.append(f"{_padded(name, indent, False)}{_GAP}{cut(text, room)}\n")
            else:
                rows.append(f"{cut(name, width)}\n{_GAP}{cut(text, width - len(_GAP))}\n")
    return "".join(rows)


def _broken(pieces: Sequence[str], width: int) -> list[str]:
    """A heading in lines of at most `width`."""
    lines = [""]
    for piece in pieces:
        if lines[-1] and _width(lines[-1] + piece) > width:
            lines.append(piece)
        else:
            lines[-1] += piece
    return lines


def _padded(text: str, width: int, is_right: bool) -> str:
    room = " " * (width - _width(text))
    return room + text if is_right else text + room


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _width(text: str) -> int:
    """Columns that a terminal gives a text: two for signs of East Asian scripts and pictures, none for marks that sit
    on another sign."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text
    )
