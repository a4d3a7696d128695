"""A user's own file as a source of problems: `file:PATH?check=NAME`. Its columns are found as `r2 answer` finds them;
the options `question`, `id` and `answer` name those that cannot be told."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from r2.problem import Problem
from r2.problems.benchmark import USERS_FILE
from r2.problems.source import Source, parse_source
from r2.settings import Columns
from storage.sources.column_names import columns_in, told
from storage.sources.questions import BadRow, read_questions

_COLUMNS = ("question", "id", "answer")
CHOOSES = "file:PATH?question=NAME"
"""How such a source names a column."""


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """A file of problems. `check`: benchmark of its rows that name none. `columns`: as the source names them."""

    path: Path
    check: str = ""
    columns: Columns = field(default_factory=Columns)

    def rows(self, limit: int | None = None, *, finds_columns: bool = True) -> Iterator[Problem | BadRow]:
        """Its rows, the first `limit`. Columns that are called something else than ours are found by their other names,
        but for `finds_columns` False. InputFileError as `read_questions` and `columns_in`."""
        columns = columns_in(self.path, self.columns) if finds_columns else self.columns
        return read_questions(self.path, columns, self.check, limit)

    def told(self) -> str:
        """Which of its columns are taken for what, in one line; "" where all have our names."""
        return told(self.columns, columns_in(self.path, self.columns), CHOOSES)


def own_file(source: Source) -> QuestionFile:
    """The file of a `file:` source. ConfigError for an option that it does not have."""
    source.only("check", *_COLUMNS)
    named = {name: source.options[name] for name in _COLUMNS if name in source.options}
    return QuestionFile(Path(source.place), source.options.get("check", ""), Columns(**named))


def own_files(texts: Sequence[str]) -> list[QuestionFile]:
    """The user's own files among sources as they are written. ConfigError for a source that cannot be read."""
    sources = [parse_source(text) for text in texts]
    return [own_file(source) for source in sources if source.name == USERS_FILE]
