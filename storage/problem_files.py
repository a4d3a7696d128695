"""Problems by source: generated, or read from benchmark files, and written once as a question file that a run can freeze.

`problems_of` is lazy; `question_file` writes `<lake>/_problems/<digest>.jsonl`, whose name follows from its content, so that the
same source gives the same run.
"""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson

from r2.errors import ConfigError
from r2.problem import Problem
from r2.problems import arithmetic, scan, words
from r2.problems.source import Source, parse_source

LICENCES = {"scan": "BSD (grammar of Lake & Baroni), generated here"}
"""Source -> licence; what is not listed is generated here or the user's own."""
DEFAULT_COUNT = 1000
"""Problems of a generated source where no limit is given."""


def _scan(source: Source, n: int, seed: int) -> Iterator[Problem]:
    source.only("split", "seed")
    return iter(scan.generate(n, source.number("seed", seed), source.options.get("split", "simple")))


def _arithmetic(source: Source, n: int, seed: int) -> Iterator[Problem]:
    known = ("min_operations", "max_operations", "max_number")
    source.only("seed", *known)
    options = {name: source.number(name, 0) for name in known if name in source.options}
    return iter(arithmetic.generate(n, source.number("seed", seed), **options))


def _words(source: Source, n: int, seed: int) -> Iterator[Problem]:
    source.only("seed")
    return iter(words.generate(n, source.number("seed", seed)))


GENERATED: dict[str, Callable[[Source, int, int], Iterator[Problem]]] = {
    "scan": _scan,
    "arithmetic": _arithmetic,
    "word_problem": _words,
}


def problems_of(source: Source, limit: int | None, seed: int, data_dir: Path | None = None) -> Iterator[Problem]:
    """The source's problems, at most `limit`. ConfigError for a source that does not exist, InputFileError for a bad file."""
    if source.name in GENERATED and not source.place:
        return GENERATED[source.name](source, limit or DEFAULT_COUNT, seed)
    raise ConfigError(f"--problems {source}: no such benchmark. Known: {', '.join(GENERATED)}, file:PATH.")


def question_file(text: str, limit: int | None, seed: int, data_dir: Path | None, lake: Path) -> tuple[Path, str]:
    """(file of the source's problems, default benchmark of its rows). A `file:` source is the user's own file, untouched."""
    source = parse_source(text)
    if source.name == "file":
        source.only("check")
        return Path(source.place), source.options.get("check", "")
    folder = lake / "_problems"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{os.getpid()}"
    digest = hashlib.sha256()
    with temporary.open("wb") as file:
        for problem in itertools.islice(problems_of(source, limit, seed, data_dir), limit):
            line = orjson.dumps(_row(problem), option=orjson.OPT_APPEND_NEWLINE)
            digest.update(line)
            file.write(line)
    path = folder / f"{source.name}-{digest.hexdigest()[:12]}.jsonl"
    temporary.replace(path)
    return path, ""


def licence_of(text: str) -> str:
    """Terms of a source's problems, for a dataset card."""
    name = parse_source(text).name
    return LICENCES.get(name, "the user's own" if name == "file" else "generated here")


def _row(problem: Problem) -> dict[str, object]:
    row: dict[str, object] = {"id": problem.problem_id, "question": problem.question, "answer": problem.target}
    row["benchmark"] = problem.benchmark
    if problem.choices:
        row["choices"] = problem.choices
    if problem.context:
        row["context"] = problem.context
    return row | dict(problem.extra)
