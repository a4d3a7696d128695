"""What the repository's texts name: commands, flags, make targets, paths, modules and links, each with its place.

Texts are Markdown pages, and the docstrings, strings and comments of code and configuration. A name counts where it is
written as one: in backticks, in a code block, or with its folder in front.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import ROOT

CODE = ("r2", "storage", "tasks", "flows", "benchmarks", "deploy", "tests")
TOPS = (*CODE, "configs", "pools", "docs", "policies")
_PATH = re.compile(rf"(?<![\w/.<>$~{{-])(?:{'|'.join(TOPS)})/[\w./*-]*")
_MODULE = re.compile(r"(?<![\w/.-])(?:r2|storage|tasks|flows|benchmarks|tests)(?:\.[A-Za-z_]\w*)+(?![\w/])")
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_ASSIGNED = re.compile(r"^(?:[A-Z_0-9]+=\S*\s+)+")


class Text(NamedTuple):
    """A piece of text and where it begins. `is_markdown` texts have code blocks."""

    path: Path
    line: int
    text: str
    is_markdown: bool = False

    def place(self, offset: int = 0) -> str:
        """`file:line` of a character of it."""
        return f"{self.path.relative_to(ROOT)}:{self.line + self.text.count(chr(10), 0, offset)}"


class Named(NamedTuple):
    """Something that a text names."""

    place: str
    name: str


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def sources(*suffixes: str) -> list[Path]:
    """Files of code and configuration with one of the suffixes; trained policies and environments are none."""
    folders = [*CODE, "configs", "pools"]
    found = [p for folder in folders for suffix in suffixes for p in (ROOT / folder).rglob(f"*{suffix}")]
    return sorted([*found, *(p for suffix in suffixes for p in ROOT.glob(f"*{suffix}"))])


def texts() -> list[Text]:
    """Every text in which a name is held to account. Tests speak of names that must not exist, so only their docstrings
    count."""
    found = [Text(path, 1, path.read_text("utf-8"), is_markdown=True) for path in pages()]
    for path in sources(".py"):
        found += _python(path, is_test=path.is_relative_to(ROOT / "tests"))
    for path in sources(".toml", ".yaml", ".sql"):
        found += _comments(path, "--" if path.suffix == ".sql" else "#")
    return found


def _python(path: Path, *, is_test: bool) -> Iterator[Text]:
    source = path.read_text("utf-8")
    tree = ast.parse(source)
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and (not is_test or id(node) in docs):
            yield Text(path, node.lineno, node.value)
    block: list[str] = []
    start = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            start = start if block else token.start[0]
            block.append(token.string.lstrip("#"))
        elif token.type not in (tokenize.NL, tokenize.NEWLINE) and block:
            yield Text(path, start, "\n".join(block))
            block = []


def _comments(path: Path, mark: str) -> Iterator[Text]:
    """Runs of lines that are comments, each as one text; and comments after a value."""
    block: list[str] = []
    start = 0
    for number, line in enumerate([*path.read_text("utf-8").splitlines(), ""], start=1):
        head, found, comment = line.partition(mark)
        if found and not head.strip():
            start = start if block else number
            block.append(comment)
            continue
        if block:
            yield Text(path, start, "\n".join(block))
            block = []
        if found:
            yield Text(path, number, comment)


def spans(text: Text) -> Iterator[Named]:
    """What stands in backticks, white space folded, and the command lines of code blocks, continued lines joined."""
    prose = _without_blocks(text.text) if text.is_markdown else text.text
    for match in _SPAN.finditer(prose):
        yield Named(text.place(match.start()), " ".join(match[1].split()))
    yield from lines_of_blocks(text)


def commands_in_prose(text: Text) -> Iterator[Named]:
    """Rests of lines that begin with `r2 COMMAND` and have a flag, outside backticks: as an error message has them."""
    for match in re.finditer(r"(?<![\w`/.])r2 [a-z][^`\n]*? --[^`\n]*", text.text):
        yield Named(text.place(match.start()), match[0])


def lines_of_blocks(text: Text) -> Iterator[Named]:
    """Lines of code blocks (in Markdown: indented or fenced; elsewhere: indented), without comments, continued ones
    joined."""
    lines = text.text.splitlines()
    inside = _in_block(lines) if text.is_markdown else [line.startswith("  ") for line in lines]
    number = 0
    while number < len(lines):
        start, line = number, lines[number]
        while line.rstrip().endswith("\\") and number + 1 < len(lines):
            number += 1
            line = line.rstrip()[:-1] + " " + lines[number].strip()
        number += 1
        if inside[start] and (command := re.sub(r"(?:^|\s+)#\s.*", "", line).strip()):
            yield Named(f"{text.path.relative_to(ROOT)}:{text.line + start}", _ASSIGNED.sub("", command))


def _in_block(lines: list[str]) -> list[bool]:
    """Of each Markdown line, whether it is code: fenced, or indented by four after an empty line or in such a block."""
    fenced, before, inside = False, True, []
    for line in lines:
        if line.lstrip().startswith("```"):
            fenced = not fenced
            inside.append(False)
            before = True
            continue
        is_code = fenced or (line.startswith("    ") and before)
        inside.append(is_code)
        before = is_code or not line.strip()
    return inside


def _without_blocks(text: str) -> str:
    lines = text.split("\n")
    return "\n".join("" if code else line for line, code in zip(lines, _in_block(lines), strict=True))


def paths(text: Text) -> Iterator[Named]:
    """Paths that begin with a folder of the repository, without what a sentence puts after them."""
    for match in _PATH.finditer(text.text):
        if text.text[match.end() : match.end() + 1] in ("{", "<"):
            continue
        yield Named(text.place(match.start()), match[0].rstrip(".-"))


def modules(text: Text) -> Iterator[Named]:
    """Dotted names that begin with a package of the repository."""
    for match in _MODULE.finditer(text.text):
        yield Named(text.place(match.start()), match[0])


def files_by_name(text: Text, suffix: str) -> Iterator[Named]:
    """File names without a folder, as a docstring names its neighbour."""
    for match in re.finditer(rf"(?<![\w/.*-])[\w-]+\.{suffix}\b(?![\w/])", text.text):
        yield Named(text.place(match.start()), match[0])


def links(text: Text) -> Iterator[Named]:
    """Targets of Markdown links that are no web addresses."""
    for match in re.finditer(r"\]\(([^)\s]+)\)", text.text):
        if not match[1].startswith(("http:", "https:")):
            yield Named(text.place(match.start()), match[1])


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
