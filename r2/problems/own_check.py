"""A check of the user's own: how it is written, what it needs, and what it says of an answer.

    FILE.py:FUNCTION    the user's function of (row, answer): True, False or a number from 0 to 1
    judge:ENTRY         a model of the pool that grades by the rubric (asked by r2/answering/judging.py)
    regex:PATTERN       the pattern is found in the answer
    json-equal          the answer is the same JSON value as the gold answer
    exact               the answer is the gold answer, letter for letter, spaces around it aside

As `--check` it judges answers in place of the benchmark's check. As `--verify` it is asked while a question is
answered: it never sees the gold answer then, and what it refuses goes to a stronger model. `own_checks` loads both;
`checks_digest` identifies them, the text of the user's file included.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from r2.errors import ConfigError
from r2.problem import Problem
from r2.problems.own_function import OwnFunction
from r2.problems.schema import fenced_texts, read_json
from r2.settings import Reasoning

RIGHT_FROM = 0.5
"""Score from which an answer counts as right."""
FORMS = "FILE.py:FUNCTION, judge:ENTRY, regex:PATTERN, json-equal or exact"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says of one answer. `score` is in 0..1, None where there is none; `error` says why, None where the
    row has no gold answer to compare with."""

    score: float | None
    error: str | None = None

    @property
    def is_right(self) -> bool | None:
        return None if self.score is None else self.score >= RIGHT_FROM


Says = Callable[[Problem, str, str | None], Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCheck:
    """One check, loaded. `says` (problem, answer, text of the subtask or None for the whole answer) is None for a
    judge, which is asked instead."""

    name: str
    """As the user writes it."""
    says: Says | None = None
    judge: str | None = None
    """Pool entry that judges."""
    rubric: str = ""
    needs_gold: bool = False
    """A row without a gold answer is not judged."""
    is_slow: bool = False
    """It may take seconds: it is asked in a thread, beside the event loop."""
    takes_step: bool = False
    """It judges results of single steps too."""

    def can_judge(self, problem: Problem) -> bool:
        return problem.target is not None or not self.needs_gold


@dataclass(frozen=True, slots=True)
class _Written:
    """A check as it is written, with what its files hold. Nothing was started."""

    name: str
    flag: str
    kind: str
    value: str = ""
    """Pattern, pool entry, or name of the function."""
    path: str = ""
    text: str = ""
    """Of the user's file, or of the rubric."""

    @property
    def digest(self) -> str:
        """By content: not where the file lies."""
        return hashlib.sha256(json.dumps([self.kind, self.value, self.text]).encode()).hexdigest()


def own_checks(reasoning: Reasoning) -> tuple[OwnCheck | None, OwnCheck | None]:
    """(check, verify) of the settings; None where there is none. ConfigError, before anything is asked, for one that
    cannot be used."""
    check, verify = _written(reasoning)
    return (
        None if check is None else _loaded(check, sees_gold=True),
        None if verify is None else _loaded(verify, sees_gold=False),
    )


def is_judge(name: str | None) -> bool:
    """Whether a check as it is written asks a model."""
    return name is not None and name.startswith("judge:")


def checks_digest(reasoning: Reasoning) -> str:
    """What the checks add to the identity of a run: "" without any. ConfigError for a file that cannot be read."""
    digests = [None if written is None else written.digest for written in _written(reasoning)]
    if digests == [None, None]:
        return ""
    return f"+checks:{hashlib.sha256(json.dumps(digests).encode()).hexdigest()}"


def _written(reasoning: Reasoning) -> tuple[_Written | None, _Written | None]:
    check = None if reasoning.check is None else _read(reasoning.check, reasoning.rubric, "--check")
    verify = None if reasoning.verify is None else _read(reasoning.verify, reasoning.rubric, "--verify")
    if reasoning.rubric is not None and "judge" not in {one.kind for one in (check, verify) if one is not None}:
        raise ConfigError(f"--rubric {reasoning.rubric}: only a judge reads it. Give --check judge:ENTRY too.")
    if verify is not None and verify.kind in ("exact", "json-equal"):
        raise ConfigError(
            f"--verify {verify.name}: it compares with the gold answer, which nobody may see while a question is "
            "answered. Give FILE.py:FUNCTION, judge:ENTRY or regex:PATTERN, and this one with --check."
        )
    return check, verify


def _read(name: str, rubric: str | None, flag: str) -> _Written:
    kind, _, value = name.partition(":")
    if name in ("exact", "json-equal"):
        return _Written(name, flag, name)
    if kind == "regex":
        try:
            re.compile(value)
        except re.error as error:
            raise ConfigError(f"{flag} {name}: not a pattern of Python's re module: {error}.") from None
        if not value:
            raise ConfigError(f"{flag} {name}: the pattern is empty, and would be found in every answer.")
        return _Written(name, flag, kind, value)
    if kind == "judge":
        if not value:
            raise ConfigError(f"{flag} {name}: name the pool entry that judges, judge:ENTRY.")
        if rubric is None:
            raise ConfigError(
                f"{flag} {name}: a judge needs a rubric: a text file that says what is right, --rubric FILE."
            )
        return _Written(name, flag, kind, value, text=_text(Path(rubric), f"--rubric {rubric}"))
    path, _, function = name.rpartition(":")
    if not path.endswith(".py") or not function.isidentifier():
        raise ConfigError(
            f"{flag} {name}: expected {FORMS}. A benchmark's own check is chosen with --benchmark NAME, or in the row."
        )
    return _Written(name, flag, "function", function, str(Path(path).absolute()), _text(Path(path), f"{flag} {name}"))


def _text(path: Path, flag: str) -> str:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag}: cannot be read: {error}.") from None
    if not text.strip():
        raise ConfigError(f"{flag}: the file is empty.")
    return text


def _loaded(written: _Written, *, sees_gold: bool) -> OwnCheck:
    if written.kind == "exact":
        return OwnCheck(name=written.name, says=_exact, needs_gold=True)
    if written.kind == "json-equal":
        return OwnCheck(name=written.name, says=_json_equal, needs_gold=True)
    if written.kind == "judge":
        return OwnCheck(name=written.name, judge=written.value, rubric=written.text)
    function, takes_step = _started(written)

    def says(problem: Problem, answer: str, step: str | None) -> Verdict:
        return Verdict(*function.says(row_of(problem, sees_gold=sees_gold), answer, step))

    return OwnCheck(name=written.name, says=says, is_slow=True, takes_step=takes_step)


_functions: dict[str, tuple[str, OwnFunction, bool]] = {}
_lock = threading.Lock()


def _started(written: _Written) -> tuple[OwnFunction, bool]:
    """The children that run it, one set per process of ours; those of an older text of the same file are ended."""
    key = f"{written.path}:{written.value}"
    with _lock:
        known = _functions.get(key)
        if known is not None and known[0] == written.digest:
            return known[1:]
        if known is not None:
            known[1].close()
        if written.kind == "regex":
            job = {"pattern": written.value}
        else:
            job = {"path": written.path, "function": written.value, "source": written.text}
        function = OwnFunction(job)
        try:
            takes_step = function.load()
        except ConfigError as error:
            raise ConfigError(f"{written.flag} {error}") from None
        _functions[key] = written.digest, function, takes_step
        return function, takes_step


def row_of(problem: Problem, *, sees_gold: bool) -> dict[str, object]:
    """What the user's function is given: the row's own columns, and those that we read under our names for them."""
    return {
        **problem.extra,
        "id": problem.problem_id,
        "question": problem.question,
        "answer": problem.target if sees_gold else None,
        "aliases": list(problem.aliases) if sees_gold else [],
        "choices": list(problem.choices),
        "context": problem.context,
    }


def _exact(problem: Problem, answer: str, step: str | None) -> Verdict:
    if problem.target is None:
        return Verdict(None)
    return Verdict(float(answer.strip() in {gold.strip() for gold in (problem.target, *problem.aliases)}))


def _json_equal(problem: Problem, answer: str, step: str | None) -> Verdict:
    if problem.target is None:
        return Verdict(None)
    try:
        gold = [_json(text) for text in (problem.target, *problem.aliases)]
    except (ValueError, RecursionError) as error:
        return Verdict(None, f"json-equal: the gold answer is not JSON: {error}")
    try:
        found = _json(answer)
    except (ValueError, RecursionError):
        return Verdict(0.0)
    return Verdict(float(any(_same_json(found, one) for one in gold)))


def _json(text: str) -> object:
    """The value of a JSON text, or of one in a fence of Markdown. ValueError for NaN and Infinity too."""
    first_error: Exception = ValueError("it is empty")
    for place, piece in enumerate(fenced_texts(text)):
        try:
            return read_json(piece)
        except (ValueError, RecursionError) as error:
            first_error = error if place == 0 else first_error
    raise first_error


def _same_json(one: object, other: object) -> bool:
    """Numbers by value (1 is 1.0), objects whatever the order of their keys. True and 1 are different."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same_json(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same_json, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other
