"""The rounds of the nightly loop on disk: `<lake>/_refresh/<name>/<number>/`.

    questions.jsonl    the round's questions, frozen; `id` is the key of the words, `problem_id` the id in the traffic
    round.json         what was found and left out
    labels/            answers files of the labelling runs
    scorer.json, trained.json    the new version, before it is in the registry
    comparison.json    the decision of the gate
    decision.json      written last: the round is over

A round without its last file is gone on with, whenever the loop is called next.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from r2.atomic import write_atomically
from r2.errors import LakeError
from storage.lake.manifest import checked_name, make_folder
from storage.runs.fresh_questions import REFRESH, FreshQuestion
from storage.sources.problem_files import row_of


@dataclass(frozen=True, slots=True)
class Round:
    """A round's folder. `number` counts from 1."""

    number: int
    folder: Path

    @property
    def questions_file(self) -> Path:
        return self.folder / "questions.jsonl"

    @property
    def is_begun(self) -> bool:
        return self.questions_file.exists()

    def begin(self, questions: Sequence[FreshQuestion], about: dict[str, Any]) -> None:
        """Freezes the questions; from here on the round goes on with these."""
        make_folder(self.folder)
        self.write("round", about)
        rows = (row_of(one.problem) | {"id": one.key, "problem_id": one.problem.problem_id} for one in questions)
        lines = b"".join(orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
        write_atomically(self.questions_file, lines)

    def questions(self) -> dict[str, str]:
        """Key -> question."""
        return {row["id"]: row["question"] for row in _rows(self.questions_file)}

    def part(self, name: str, keys: Sequence[str]) -> Path:
        """A question file of some of the questions, written anew each time."""
        wanted, path = set(keys), self.folder / f"{name}.jsonl"
        rows = (row for row in _rows(self.questions_file) if row["id"] in wanted)
        write_atomically(path, b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
        return path

    def read(self, name: str) -> dict[str, Any] | None:
        """One of its JSON files; None where it is not there yet."""
        path = self.folder / f"{name}.json"
        try:
            stored: dict[str, Any] = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except orjson.JSONDecodeError as error:
            raise LakeError(f"{path}: damaged ({error}). Remove it: the round does that step again.") from error
        return stored

    def write(self, name: str, content: dict[str, Any]) -> None:
        write_atomically(self.folder / f"{name}.json", orjson.dumps(content, option=orjson.OPT_INDENT_2))


def rounds_of(lake: Path, name: str) -> list[Round]:
    """Those that were begun, oldest first."""
    folder = lake / REFRESH / checked_name("policy", name)
    numbers = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    return [one for number in numbers if (one := Round(number, folder / f"{number:04d}")).is_begun]


def present_round(lake: Path, name: str) -> Round:
    """The round that is not over, or the next one."""
    rounds = rounds_of(lake, name)
    if rounds and rounds[-1].read("decision") is None:
        return rounds[-1]
    number = rounds[-1].number + 1 if rounds else 1
    return Round(number, lake / REFRESH / name / f"{number:04d}")


def keys_used(lake: Path, name: str) -> set[str]:
    """Keys of the questions of all rounds that are over, but for those that a round ended without labels for."""
    used: set[str] = set()
    for one in rounds_of(lake, name):
        over = one.read("decision")
        if over is not None:
            used |= one.questions().keys() - set(over.get("unlabelled", ()))
    return used


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        yield from map(orjson.loads, file)
