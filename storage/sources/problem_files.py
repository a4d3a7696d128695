"""Problems by source: generated, or read from benchmark files, and written once as a question file that a run can
freeze.

`problems_of` is lazy; `question_file` writes `<lake>/_problems/<digest>.jsonl`, whose name follows from its content, so
that the same source gives the same run.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from r2.atomic import beside, replacing
from r2.errors import ConfigError, InputFileError
from r2.plan import Plan
from r2.problem import Problem
from r2.problems.benchmark import USERS_FILE, benchmarks, gold_plan_of
from r2.problems.gold import gold_plan
from r2.problems.record import Benchmark
from r2.problems.row import FieldError, Row
from r2.problems.source import Source, parse_source
from storage.sources.hub import hub_rows
from storage.sources.lines import LongLine, read_lines
from storage.sources.own_file import QuestionFile, own_file
from storage.sources.questions import check_readable, raw_rows

MAX_JSON_BYTES = 32 * 1024 * 1024
"""Parsed, it takes up to twenty times as much."""
_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
DEFAULT_COUNT = 1000
"""Problems of a generated source where no limit is given."""


def problems_of(source: Source, limit: int | None, seed: int, data_dir: Path | None = None) -> Iterator[Problem]:
    """The source's problems, at most `limit`. ConfigError for a source that does not exist, InputFileError, with file,
    line and field, for a file that is not in its published format.
    """
    if source.name == USERS_FILE:
        return own_problems(source, limit)
    benchmark = _benchmark(source)
    if benchmark.generate is not None and (benchmark.place or not source.place):
        n_problems = limit or DEFAULT_COUNT
        return itertools.islice(benchmark.generate(source, n_problems, seed), n_problems)
    source.only()
    return itertools.islice((problem for problem, _ in _rows_of(source, benchmark, data_dir)), limit)


def gold_plans_of(
    source: Source, limit: int | None, seed: int, data_dir: Path | None = None
) -> Iterator[tuple[Problem, Plan]]:
    """Problems that have a gold decomposition, with it. Errors as `problems_of`."""
    if source.name == USERS_FILE:
        raise ConfigError(
            f"--problems {source}: rows of your own have no gold plans to compare with. The plans that a run made are "
            'in the lake: r2 sql "select input, plan, is_correct from trajectories".'
        )
    benchmark = _benchmark(source)
    if benchmark.gold_plan is not None:
        problems = problems_of(source, limit, seed, data_dir)
        return ((problem, plan) for problem in problems if (plan := gold_plan_of(problem)) is not None)
    if benchmark.read is None:
        known = [b.name for b in benchmarks().values() if b.has_gold_plans]
        raise ConfigError(f"--problems {source}: no gold plans. They are known for {', '.join(known)}.")
    rows = _rows_of(source, benchmark, data_dir)
    return itertools.islice(((problem, gold) for problem, row in rows if (gold := gold_plan(row)) is not None), limit)


def _benchmark(source: Source) -> Benchmark:
    """ConfigError for a source that is no benchmark."""
    if source.name not in benchmarks():
        known = ", ".join([*(benchmark.source for benchmark in benchmarks().values()), "file:PATH"])
        raise ConfigError(f"--problems {source}: no such benchmark. Known: {known}.")
    return benchmarks()[source.name]


def own_problems(source: Source, limit: int | None, *, finds_columns: bool = True) -> Iterator[Problem]:
    """The questions of a user's file; `finds_columns` as in `QuestionFile.rows`. InputFileError for a row that is none:
    what is compared or trained on has no place for failed rows."""
    file = own_file(source)
    check_readable(file.path)
    for row in file.rows(limit, finds_columns=finds_columns):
        if not isinstance(row, Problem):
            raise InputFileError(f"--problems {source}: {row.message}. Mend the row or leave it out.")
        yield row


def _rows_of(source: Source, benchmark: Benchmark, data_dir: Path | None) -> Iterator[tuple[Problem, Row]]:
    """Problems of a benchmark file with the rows they came from."""
    if benchmark.read is None:
        raise ConfigError(
            f"--problems {source}: {benchmark.name} has no files. Write {benchmark.source}, or for a file of your own "
            f"file:PATH?check={benchmark.name}."
        )
    path = benchmark_file(source, data_dir)
    rows = read_rows(path, benchmark.read_line) if path is not None else _from_hub(source, benchmark)
    index = 0
    for line, row in rows:
        try:
            problem = benchmark.read(row, index)
        except FieldError as error:
            raise InputFileError(
                f"{path or source}, line {line}, {error}. Is it a file of {source.name} in its published format?"
            ) from None
        if problem is not None:
            yield problem, row
            index += 1


def benchmark_file(source: Source, data_dir: Path | None) -> Path | None:
    """The file a source names (`gsm8k:test.jsonl`, in the data folder or not), or the one file of the benchmark's
    folder in the data folder; None where there is no data folder. ConfigError where there is not exactly one.
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


def read_rows(path: Path, read_line: Callable[[str], Row] | None = None) -> Iterator[tuple[int, Row]]:
    """(line, row) of a benchmark file: .jsonl, .parquet, .csv, a .json list or object of objects (line: place in it),
    or .txt, where the benchmark says how a line is read."""
    if path.suffix == ".json":
        yield from _whole_json(path)
        return
    if path.suffix == ".txt":
        if read_line is None:
            raise InputFileError(
                f"{path}: this benchmark is not published as .txt. Give .jsonl, .json, .csv or .parquet."
            )
        for line, raw in read_lines(path):
            try:
                yield line, read_line(str(raw) if isinstance(raw, LongLine) else raw.decode().strip())
            except ValueError as error:
                raise InputFileError(f"{path}, line {line}: {error}.") from None
        return
    for line, row in raw_rows(path):
        if not isinstance(row, dict):
            raise InputFileError(f"{path}, line {line}: {row}.")
        yield line, row


def _whole_json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise InputFileError(
                f"{path}: {size >> 20} MB; a .json file is read as a whole, and so may have {MAX_JSON_BYTES >> 20}. "
                f"Write it as lines, which are read one by one: jq -c '.[]' {path.name} > {path.stem}.jsonl"
            )
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


def _from_hub(source: Source, benchmark: Benchmark) -> Iterator[tuple[int, Row]]:
    """Rows of the benchmark's data set on the Hugging Face hub."""
    hub = benchmark.hub
    if hub is None:
        raise ConfigError(
            f"--problems {source}: no file named and none on the hub. Name a file, {source.name}:FILE, or a folder "
            "of files with --data-dir."
        )
    asked = f"--problems {source} (or a file: {source.name}:FILE, or a folder of files with --data-dir)"
    yield from enumerate(hub_rows(hub.dataset, hub.configuration, hub.split, asked), start=1)


def question_file(text: str, limit: int | None, seed: int, data_dir: Path | None, lake: Path) -> QuestionFile:
    """The file of the source's problems. A `file:` source is the user's own file, untouched."""
    source = parse_source(text)
    if source.name == USERS_FILE:
        return own_file(source)
    folder = lake / "_problems"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    draft = beside(folder / source.name)  # the file is named by its content, which is known at the end
    with replacing(draft) as file:
        for problem in itertools.islice(problems_of(source, limit, seed, data_dir), limit):
            line = orjson.dumps(row_of(problem), option=orjson.OPT_APPEND_NEWLINE)
            digest.update(line)
            file.write(line)
    path = folder / f"{source.name}-{digest.hexdigest()[:12]}.jsonl"
    draft.replace(path)
    return QuestionFile(path)


def licence_of(text: str) -> str:
    """Terms of a source's problems, for a dataset card."""
    source = parse_source(text)
    return "the user's own" if source.name == USERS_FILE else _benchmark(source).licence


def row_of(problem: Problem) -> dict[str, object]:
    """A problem as a row of a question file with the default columns. A further column that is called as one of them is
    left out."""
    row: dict[str, object] = {"id": problem.problem_id, "question": problem.question, "answer": problem.target}
    row["benchmark"] = problem.benchmark
    if problem.choices:
        row["choices"] = problem.choices
    if problem.aliases:
        row["aliases"] = problem.aliases
    if problem.context:
        row["context"] = problem.context
    return row | {name: value for name, value in problem.extra.items() if name not in row}
