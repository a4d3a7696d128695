"""A page as a reader follows it: the files it says to save, and its commands in their order."""

import re
from dataclasses import dataclass
from pathlib import Path

_FILE = re.compile(r"Save\s+this\s+as\s+`([\w.]+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMANDS = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Section:
    """What stands under headings of the second level: the files to save, then the command lines to type."""

    files: dict[str, str]
    commands: tuple[str, ...]


def section(page: Path, first: str, last: str) -> Section:
    """From the heading `first` to the end of the section `last`. ValueError for a heading that the page lacks."""
    parts = re.split(r"^## (.+)\n", page.read_text("utf-8"), flags=re.MULTILINE)
    headings = parts[1::2]
    begin, end = headings.index(first), headings.index(last)
    text = "".join(parts[2::2][begin : end + 1])
    blocks = "".join(_COMMANDS.findall(text))
    return Section(dict(_FILE.findall(text)), tuple(command_lines(blocks)))


def command_lines(block: str) -> list[str]:
    """The commands of a block: continued lines stay together, empty ones and comments are left out."""
    joined = block.replace("\\\n", " ")
    lines = (re.sub(r"\s+", " ", line.partition("  #")[0]).strip() for line in joined.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
