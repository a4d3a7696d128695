"""Whatever the texts name exists: paths, modules, `r2` commands and their flags, make targets, views and links. And no
line is longer than what fits beside another."""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from flows.cli.app import app
from storage.sql.query import shipped_views
from tests.support.named import (
    Named,
    Text,
    anchors,
    commands_in_prose,
    files_by_name,
    links,
    modules,
    pages,
    paths,
    sources,
    spans,
    texts,
)
from tests.support.paths import ROOT

WIDTH = 120
TABLE_WIDTH = 160
"""Of tables of figures: in docs/, and the prices and profiles of pool entries, which TOML cannot break."""
FORMATTED_BY_HAND = 20
"""Lines of code that the formatter leaves alone, at most, each with its reason."""

MADE_BY_USERS = {
    "policies/decomposer/v1",
    "policies/allocator/v1",
    "r2/methods/middle_model.py",
    "r2/problems/parity.py",
    "grade.py",
    "make_invoices.py",
    "FILE.py",
    "deploy/.env",
    "deploy/keys.env",
}
"""What a user makes by following a page: versions of a training, the modules of the recipes in CONTRIBUTING.md, a file
with a check of one's own, passwords and keys."""
OF_OTHER_PROGRAMS = {
    "--build-arg",
    "--enable-lora",
    "--lora-modules",
    "--max-num-queued-reqs",
    "convert_hf_to_gguf.py",
    "convert_lora_to_gguf.py",
}
"""Flags of Docker and vLLM, and files of llama.cpp."""
NO_MODULES = {
    "r2.benchmarks",
    "r2.run_id",
    "r2.problem_id",
    "r2.purpose",
    "r2.subtask_index",
    "r2.cost_usd",
    *(f"r2.refresh.{what}" for what in ("labelled", "trained", "evaluated", "settled")),
    *("r2.alert.spend", "r2.alert.accuracy", "r2.breaker.open", "r2.breaker.closed"),
    *("r2.policy", "r2.entry", "r2.lake"),
    "r2.method",
    "r2.shard",
    "r2.status",
}
"""An entry point group, attributes of spans (storage/sql/operations.sql, r2/telemetry/spans.py) and events, which look
like modules."""

Command = TyperCommand | TyperGroup


Wrong = Iterator[tuple[Named, str]]
"""Names that do not exist, each with what is wrong with it."""


def wrong_paths(texts: Iterable[Text]) -> Wrong:
    for text in texts:
        for named in paths(text):
            is_placeholder = re.search(r"/(?:[A-Z]+|vN|\.\.\.)(?:/|$|\.(?!md))", named.name)
            if is_placeholder or named.name.rstrip("/") in MADE_BY_USERS:
                continue
            if not any(ROOT.glob(named.name.rstrip("/"))):
                yield named, f"no file or folder {named.name}"
        for named in files_by_name(text, "py"):
            if named.name not in file_names() | OF_OTHER_PROGRAMS | MADE_BY_USERS:
                yield named, f"no file is called {named.name}"


def wrong_modules(texts: Iterable[Text]) -> Wrong:
    for text in texts:
        for named in modules(text):
            if named.name not in NO_MODULES and not resolves(named.name):
                yield named, f"no module or name {named.name}"


def wrong_links(texts: Iterable[Text]) -> Wrong:
    for text in texts:
        for named in links(text) if text.is_markdown else ():
            target, _, anchor = named.name.partition("#")
            path = (text.path.parent / target).resolve() if target else text.path
            if not path.exists() or not path.is_relative_to(ROOT):
                yield named, f"no page {target}"
            elif anchor and anchor not in anchors(path):
                yield named, f"{path.name} has no heading #{anchor}"


@cache
def root_command() -> TyperGroup:
    """`r2` as the command line reads it; to build it takes tens of milliseconds."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    return root


def wrong_commands(texts: Iterable[Text]) -> Wrong:
    root = root_command()
    for text in texts:
        for named in spans(text):
            for command in re.split(r"\s(?:\||&&|;)\s", named.name):
                for why in wrong_command(command, text):
                    yield named, why
        for named in commands_in_prose(text):
            if named.name.split()[1] in root.commands:
                for why in wrong_command(named.name, text):
                    yield named, why


def wrong_targets(texts: Iterable[Text]) -> Wrong:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for text in texts:
        for named in spans(text):
            match = re.match(r"make (.+)", named.name)
            if match is None or (not text.is_markdown and f"`{named.name}`" not in text.text):
                continue
            for word in match[1].split():
                if word not in targets and not re.match(r"[A-Z_]+=", word):
                    yield named, f"make has no target {word}"


def wrong_views(texts: Iterable[Text]) -> Wrong:
    views = {*shipped_views()}
    for text in texts:
        for match in re.finditer(r"--view ([a-z_]+)", text.text):
            if match[1] not in views:
                yield Named(text.place(match.start()), match[1]), f"no view {match[1]}"


CHECKS: dict[str, Callable[[Iterable[Text]], Wrong]] = {
    "paths": wrong_paths,
    "modules": wrong_modules,
    "links": wrong_links,
    "commands and flags": wrong_commands,
    "make targets": wrong_targets,
    "views": wrong_views,
}


def said(wrong: Wrong) -> list[str]:
    """One line for each name that does not exist: where it stands, and what is wrong with it."""
    return sorted({f"{named.place}: {why}" for named, why in wrong})


@cache
def all_texts() -> list[Text]:
    """Read by the first test that needs them, not when the tests are collected, which every process does."""
    return texts()


@pytest.mark.parametrize("what", CHECKS)
def test_everything_that_is_named_is_there(what: str):
    wrong = said(CHECKS[what](all_texts()))
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("what", "page", "expected"),
    [
        (
            "paths",
            "Here.\nSee `r2/no_such.py`, [x](docs/nowhere.md) and `r2/plan.py`.",
            "2: no file or folder r2/no_such.py",
        ),
        ("paths", "See no_such.py, and `policies/NAME/vN`.", "1: no file is called no_such.py"),
        ("modules", "`python -m flows.no_such`, or `flows.train_sft`.", "1: no module or name flows.no_such"),
        (
            "links",
            "[x](docs/method.md#no-such-heading) [y](docs/method.md)",
            "1: method.md has no heading #no-such-heading",
        ),
        ("links", "[x](docs/nowhere.md)", "1: no page docs/nowhere.md"),
        ("commands and flags", "`r2 answr --pool x`", "1: r2 has no command answr"),
        ("commands and flags", "`r2 answer FILE --pol x --pool y`", "1: r2 answer has no flag --pol"),
        ("commands and flags", "`--no-such-flag`, `--pool`", "1: no command has a flag --no-such-flag"),
        ("commands and flags", "So:\n\n    r2 pool chek \\\n        --pool x", "3: r2 pool has no command chek"),
        (
            "commands and flags",
            "    python benchmarks/headline.py --no-such",
            "1: benchmarks/headline.py has no flag --no-such",
        ),
        ("make targets", "`make tset`, `make test`", "1: make has no target tset"),
        ("views", "`r2 sql --view no_such_view`", "1: no view no_such_view"),
    ],
)
def test_a_name_that_is_not_there_is_found_with_its_line(what: str, page: str, expected: str):
    text = Text(ROOT / "README.md", 1, page, is_markdown=True)
    assert expected in [line.removeprefix("README.md:") for line in said(CHECKS[what]([text]))]
    assert len(said(CHECKS[what]([text]))) == 1 + (what == "paths" and "nowhere" in page)


def wrong_command(command: str, text: Text) -> Iterator[str]:
    """What is wrong with one command line or span in backticks: nothing, where it is another program's."""
    words = command.split()
    program = words[0].removeprefix(".venv/bin/") if words else ""
    if program == "r2" and len(words) > 1:
        yield from _wrong_r2(words[1:])
    elif program == "python" and len(words) > 1 and words[1].startswith("benchmarks/"):
        known = {*flags_in(ROOT / words[1]), "--help"} if (ROOT / words[1]).is_file() else set(flags_of(command))
        yield from (f"{words[1]} has no flag {flag}" for flag in flags_of(command) if flag not in known)
    elif program.startswith("--") and f"`{command}" in " ".join(text.text.split()):
        for flag in flags_of(command):
            if flag not in all_flags() | OF_OTHER_PROGRAMS:
                yield f"no command has a flag {flag}"


def _wrong_r2(words: list[str]) -> Iterator[str]:
    command: Command = root_command()
    name = "r2"
    while isinstance(command, TyperGroup) and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
        if words[0] not in command.commands:
            yield f"{name} has no command {words[0]}"
            return
        name, command, words = f"{name} {words[0]}", command.commands[words[0]], words[1:]
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    for flag in flags_of(" ".join(words)):
        if flag not in known | {"--help"}:
            yield f"{name} has no flag {flag}"


def flags_of(text: str) -> list[str]:
    return re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)


@cache
def all_flags() -> frozenset[str]:
    """Flags of every r2 command, and of the scripts and modules of this repository."""
    found = {"--help"}
    waiting: list[Command] = [root_command()]
    while waiting:
        command = waiting.pop()
        found |= {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        if isinstance(command, TyperGroup):
            waiting += command.commands.values()
    return frozenset(found.union(*map(flags_in, sources(".py"))))


@cache
def flags_in(path: Path) -> frozenset[str]:
    """Flags that a script declares."""
    return frozenset(re.findall(r'add_argument\(\s*"(--[a-z0-9-]+)"', path.read_text("utf-8")))


@cache
def file_names() -> frozenset[str]:
    return frozenset(path.name for path in sources(".py"))


@cache
def resolves(dotted: str) -> bool:
    """True for a module or package of this repository, or a name at the top of one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:length])
        file = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
        if file.is_file():
            return length == len(parts) or (length == len(parts) - 1 and parts[-1] in names_in(file))
    return False


@cache
def names_in(file: Path) -> frozenset[str]:
    """Names that a module defines or imports at its top."""
    found = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name) for alias in node.names}
        else:
            found |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    return frozenset(found)


def is_table_row(path: Path, line: str) -> bool:
    """A row of a table of figures. In docs/: between bars, or indented with columns two or more blanks apart."""
    if path.parent == ROOT / "docs":
        return line.startswith("|") or (line.startswith("    ") and len(re.findall(r"\S  +\S", line)) >= 2)
    return path.suffix == ".toml" and re.match(r"(price_usd_per_mtok|profile) = \{", line) is not None


def too_long(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        limit = TABLE_WIDTH if is_table_row(path, line) else WIDTH
        if len(line) > limit:
            yield f"{path.relative_to(ROOT)}:{number}: {len(line)} columns, {limit} at most"


@pytest.mark.parametrize("kind", ["pages", "code", "configuration", "other"])
def test_no_line_is_too_long(kind: str):
    files = {
        "pages": pages(),
        "code": sources(".py"),
        "configuration": [*sources(".toml", ".yaml"), ROOT / "Makefile"],
        "other": sources(".sql", ".js", ".css", ".html"),
    }[kind]
    assert files
    long = [line for path in files for line in too_long(path)]
    assert not long, "\n" + "\n".join(long)


def test_the_readme_is_two_screens_long():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_few_lines_are_formatted_by_hand_and_each_says_why():
    mark = "fmt: " + "skip"
    by_hand = [
        (f"{path.relative_to(ROOT)}:{number}", line.partition(mark)[2].strip())
        for path in sources(".py")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if mark in line
    ]
    assert len(by_hand) <= FORMATTED_BY_HAND
    assert [place for place, reason in by_hand if not reason] == []
