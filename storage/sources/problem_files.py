"""Problems by source: generated, or read from benchmark files, and written once as a question file that a run can
freeze.

`problems_of` is lazy; `question_file` writes `<lake>/_problems/<digest>.jsonl`, whose name follows from its content, so
that the same source gives the same run.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from r2.errors import ConfigError, InputFileError
from r2.plan import Plan
from r2.problem import Problem
from r2.problems import (
    arithmetic,
    competition_math,
    csqa,
    gsm8k,
    musique,
    p3,
    reasoning_tasks,
    scan,
    strategyqa,
    words,
)
from r2.problems.gold import gold_plan
from r2.problems.row import FieldError, Row
from r2.problems.source import Source, parse_source
from r2.settings import Columns
from storage.sources.questions import check_readable, raw_rows, read_questions

LOADED: dict[str, Callable[[Row, int], Problem | None]] = {
    "scan": scan.problem,
    "gsm8k": gsm8k.problem,
    "csqa": csqa.problem,
    "musique": musique.problem,
    "strategyqa": strategyqa.problem,
    "math": competition_math.math_problem,
    "champ": competition_math.champ_problem,
    "p3": p3.problem,
}
"""Benchmark -> how a row of its published files becomes a problem; None for rows that no check can judge."""
HUBS: dict[str, tuple[str, str, str]] = {
    "gsm8k": gsm8k.HUB,
    "csqa": csqa.HUB,
    "musique": musique.HUB,
    "strategyqa": strategyqa.HUB,
    "math": competition_math.MATH_HUB,
}
"""Benchmark -> (data set, configuration, split) on the Hugging Face hub."""
LICENCES = {
    "scan": scan.LICENCE,
    "gsm8k": gsm8k.LICENCE,
    "csqa": csqa.LICENCE,
    "musique": musique.LICENCE,
    "strategyqa": strategyqa.LICENCE,
    "math": competition_math.MATH_LICENCE,
    "champ": competition_math.CHAMP_LICENCE,
    "p3": p3.LICENCE,
    "rg": reasoning_tasks.LICENCE,
}
"""Source -> licence; what is not listed is generated here or the user's own."""
_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
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
    """The source's problems, at most `limit`. ConfigError for a source that does not exist, InputFileError, with file,
    line and field, for a file that is not in its published format.
    """
    if source.name in GENERATED and not source.place:
        return GENERATED[source.name](source, limit or DEFAULT_COUNT, seed)
    if source.name == "file":
        return _users_own(source, limit)
    if source.name == "rg":
        return reasoning_tasks.generate(source, limit or DEFAULT_COUNT, seed)
    if source.name not in LOADED:
        known = ", ".join([*GENERATED, *LOADED, "rg:TASK", "file:PATH"])
        raise ConfigError(f"--problems {source}: no such benchmark. Known: {known}.")
    source.only()
    return itertools.islice((problem for problem, _ in _rows_of(source, data_dir)), limit)


def gold_plans_of(
    source: Source, limit: int | None, seed: int, data_dir: Path | None = None
) -> Iterator[tuple[Problem, Plan]]:
    """Problems that have a gold decomposition, with it. Errors as `problems_of`."""
    if source.name == "scan":
        problems = problems_of(source, limit, seed, data_dir)
        return ((problem, scan.gold_plan(problem.question)[0]) for problem in problems)
    if source.name not in LOADED:
        raise ConfigError(
            f"--problems {source}: no gold plans. They are known for scan, musique, gsm8k (socratic), strategyqa."
        )
    rows = ((problem, gold) for problem, row in _rows_of(source, data_dir) if (gold := gold_plan(row)) is not None)
    return itertools.islice(rows, limit)


def _users_own(source: Source, limit: int | None) -> Iterator[Problem]:
    """The questions of a user's file. InputFileError for a row that is none: what is compared or trained on has no
    place for failed rows."""
    source.only("check")
    path = Path(source.place)
    check_readable(path)
    for row in read_questions(path, Columns(), source.options.get("check", ""), limit):
        if not isinstance(row, Problem):
            raise InputFileError(f"--problems {source}: {row.message}. Mend the row or leave it out.")
        yield row


def _rows_of(source: Source, data_dir: Path | None) -> Iterator[tuple[Problem, Row]]:
    """Problems of a benchmark file with the rows they came from."""
    to_problem = LOADED[source.name]
    path = benchmark_file(source, data_dir)
    rows = read_rows(path) if path is not None else _from_hub(source)
    index = 0
    for line, row in rows:
        try:
            problem = to_problem(row, index)
        except FieldError as error:
            raise InputFileError(
                f"{path or source}, line {line}, {error}. Is it a file of {source.name} in its published format?"
            ) from None
        if problem is not None:
            yield problem, row
            index += 1


def benchmark_file(source: Source, data_dir: Path | None) -> Path | None:
    """The file a source names (`gsm8k:test.jsonl`, in the data folder or not), or the one file of the benchmark's
    folder in the data folder; None where there is no data folder. ConfigError where it is not there or not one.
    """
    if source.place:
        places = [Path(source.place), *([data_dir / source.place] if data_dir else [])]
        for path in places:
            if path.is_file():
                return path
        raise InputFileError(f"--problems {source}: no file {' or '.join(map(str, places))}.")
    if data_dir is None:
        return None
    found = [path for path in sorted((data_dir / source.name).glob("*")) if path.suffix in _SUFFIXES]
    found = found or [path for path in sorted(data_dir.glob(f"{source.name}.*")) if path.suffix in _SUFFIXES]
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(data_dir)) for path in found) or "none"
        raise ConfigError(
            f"--problems {source}: expected one file of {source.name} in {data_dir}, found {names}. Name it: "
            f"{source.name}:FILE."
        )
    return found[0]


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of a benchmark file: .jsonl, .parquet, .csv, a .json list or object of objects (line: place in it),
    SCAN's .txt."""
    if path.suffix == ".json":
        yield from _whole_json(path)
        return
    if path.suffix == ".txt":
        for line, raw in enumerate(path.read_text("utf-8").splitlines(), start=1):
            match = re.fullmatch(r"IN: (.+) OUT: (.*)", raw.strip())
            if match is None:
                raise InputFileError(f"{path}, line {line}: expected 'IN: command OUT: actions', got {raw[:60]!r}.")
            yield line, {"question": match[1], "answer": match[2]}
        return
    for line, row in raw_rows(path):
        if not isinstance(row, dict):
            raise InputFileError(f"{path}, line {line}: {row}.")
        yield line, row


def _whole_json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        document = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise InputFileError(f"{path}: not readable as JSON: {error}.") from error
    if isinstance(document, dict):
        document = [{"id": key, **row} if isinstance(row, dict) else row for key, row in document.items()]
    if not isinstance(document, list):
        raise InputFileError(f"{path}: expected a list of objects, got {type(document).__name__}.")
    for place, row in enumerate(document, start=1):
        if not isinstance(row, dict):
            raise InputFileError(f"{path}, entry {place}: expected an object, got {type(row).__name__}.")
        yield place, row


def _from_hub(source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of the benchmark's data set on the Hugging Face hub."""
    hub = HUBS.get(source.name)
    if hub is None:
        raise ConfigError(
            f"--problems {source}: no file named and none on the hub. Name a file, {source.name}:FILE, or a folder "
            "of files with --data-dir."
        )
    try:
        from datasets import load_dataset  # type: ignore[attr-defined, unused-ignore]
    except ImportError as error:
        raise ConfigError(
            f"--problems {source}: {error}. Name a file, {source.name}:FILE, or a folder of files with --data-dir; "
            "the hub needs "
            "pip install datasets."
        ) from error
    try:
        data = load_dataset(hub[0], hub[1], split=hub[2])
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--problems {source}: {hub[0]} cannot be had from the hub: {error}. Name a file: {source.name}:FILE."
        ) from error
    yield from enumerate(map(dict, data), start=1)


def question_file(text: str, limit: int | None, seed: int, data_dir: Path | None, lake: Path) -> tuple[Path, str]:
    """(file of the source's problems, default benchmark of its rows). A `file:` source is the user's own file,
    untouched."""
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
            line = orjson.dumps(row_of(problem), option=orjson.OPT_APPEND_NEWLINE)
            digest.update(line)
            file.write(line)
    path = folder / f"{source.name}-{digest.hexdigest()[:12]}.jsonl"
    temporary.replace(path)
    return path, ""


def licence_of(text: str) -> str:
    """Terms of a source's problems, for a dataset card."""
    name = parse_source(text).name
    return LICENCES.get(name, "the user's own" if name == "file" else "generated here")


def row_of(problem: Problem) -> dict[str, object]:
    """A problem as a row of a question file with the default columns."""
    row: dict[str, object] = {"id": problem.problem_id, "question": problem.question, "answer": problem.target}
    row["benchmark"] = problem.benchmark
    if problem.choices:
        row["choices"] = problem.choices
    if problem.aliases:
        row["aliases"] = problem.aliases
    if problem.context:
        row["context"] = problem.context
    return row | dict(problem.extra)
