"""Whatever is read from outside is read, or refused with an error of ours: replies, pool files, question files, plans,
answers and journals, each from a kept corpus and with changes drawn by Hypothesis.

An input that was read wrongly once is added to `tests/support/data/fuzz/KIND/`, and met by every later run.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2.errors import ConfigError, InputFileError, LakeError, PlanParseError, PoolFileError
from r2.plan import parse_plan
from r2.pool.client.refusals import classify, provider_message
from r2.pool.client.wire import ParsedReply, parse_body
from r2.pool.file.config import load_pool
from r2.problem import Problem
from r2.problems.checks import extract_answer
from r2.settings import Columns
from storage.runs.journal import Journal
from storage.runs.journal_mark import mark_of
from storage.sources.questions import read_questions
from tests.support.paths import ROOT

CORPUS = ROOT / "tests" / "support" / "data" / "fuzz"
KEPT = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
PIECES = [b"\0", b"\xff", b"\n", b'"', b"\\", b"[", b"{", b"}", b",", b"= ", b"1e999", b"-1", b"\\ud800", b"\x1b[2J"]


@st.composite
def changed(draw: st.DrawFn, kept: list[Path]) -> tuple[Path, bytes]:
    """A file of the corpus, and its content after up to five changes: a bit, a cut, a piece put in, a part doubled."""
    path = draw(st.sampled_from(kept))
    content = bytearray(path.read_bytes())
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(["flip", "cut", "insert", "double", "remove"])):
            case "flip" if content:
                content[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del content[at:]
            case "insert":
                content[at:at] = draw(st.sampled_from(PIECES) | st.binary(max_size=8))
            case "double":
                content[at:at] = content[at : at + draw(st.integers(1, 200))]
            case "remove":
                del content[at : at + draw(st.integers(1, 20))]
    return path, bytes(content)


def read_reply(path: Path, content: bytes) -> None:
    parsed = parse_body(content)
    if isinstance(parsed, ParsedReply):
        parsed.text.encode()  # it can be stored
        assert parsed.usage is None or min(parsed.usage.input_tokens, parsed.usage.output_tokens) >= 0
    assert len(provider_message(content)) <= 300
    for status in (200, 400, 429, 500):
        assert (classify(status, content) is None) == (status == 200)


def read_pool(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        pool = load_pool(path)
    except (PoolFileError, ConfigError) as error:
        assert str(error).startswith(str(path))
        assert "hunter2" not in str(error)
    else:
        assert all(pool.price(name).input >= 0 and pool.price(name).output >= 0 for name in pool.models)


def read_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(InputFileError):
        for row in read_questions(path, Columns()):
            assert not isinstance(row, Problem) or row.question.strip()


def read_plan(path: Path, content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    with contextlib.suppress(PlanParseError):
        plan = parse_plan(text)
        assert sorted(i for wave in plan.waves() for i in wave) == list(range(len(plan.subtasks)))


def read_answer(path: Path, content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    assert len(extract_answer(text)) <= len(text)


def read_journal(path: Path, content: bytes) -> None:
    """Opened as after a kill, twice: what the first found whole, the second finds."""
    path.write_bytes(content)
    mark_of(path).unlink(missing_ok=True)
    try:
        with Journal.open(path) as journal:
            stored = list(journal.records())
    except LakeError as error:
        assert str(path) in str(error)
        assert path.read_bytes() == content, "what is refused is left alone"
        return
    with Journal.open(path) as journal:
        assert list(journal.records()) == stored


READERS: dict[str, Callable[[Path, bytes], None]] = {
    "reply": read_reply,
    "pool": read_pool,
    "questions": read_file,
    "plan": read_plan,
    "answer": read_answer,
    "journal": read_journal,
}


def test_the_corpus_has_files_of_every_kind():
    assert {path.parent.name for path in KEPT} == set(READERS)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_kept_input_is_read_or_refused(path: Path, tmp_path: Path):
    READERS[path.parent.name](tmp_path / path.name, path.read_bytes())


@pytest.mark.parametrize("kind", READERS)
def test_any_change_of_a_kept_input_is_read_or_refused(kind: str, tmp_path: Path):
    kept = [path for path in KEPT if path.parent.name == kind]

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(changed(kept))
    def read(one: tuple[Path, bytes]) -> None:
        path, content = one
        READERS[kind](tmp_path / path.name, content)

    read()
