"""What a session finds on disk before it pays for anything: plans, shards and journals as earlier sessions left them,
or damaged since."""

import asyncio
import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r2.errors import LakeError
from storage.lake.lake import Lake
from storage.runs.answers import write_answers
from storage.runs.journal import Journal
from storage.runs.journal_mark import mark_of
from storage.runs.plan import RunPlan
from tasks.answering.answer_rows import answer_rows
from tasks.answering.session import RunSession, open_session
from tests.support.shards import ScriptedClient, planned, session_for

ROWS = [{"id": f"q{i}", "question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(12)]


POOL = """[router]
decomposer = "small"
allocator = "small"

[models.small]
endpoint = "http://127.0.0.1:9/v1"
tier = "small"
price_usd_per_mtok = {input = 1.0, output = 2.0, date = "2026-11-01", source = "made up"}
"""
"""Nobody answers there, and nobody is asked."""


def reply(call: Any) -> str:
    return "Answer: 1"


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPlan:
    """Two shards of six; six calls of the first are in its journal, and nothing is committed, as after a kill."""
    monkeypatch.setenv("R2_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "pool.toml").write_text(POOL, "utf-8")
    plan = planned(tmp_path, ROWS, shard_size=6, pool=str(tmp_path / "pool.toml"))

    def killed(*args: object, **kwargs: object) -> bool:
        raise KeyError("killed")

    async def session() -> None:
        session = session_for(plan, reply)
        with contextlib.closing(session.checks), pytest.raises(KeyError):
            await answer_rows(session, 0)

    with monkeypatch.context() as at_the_commit:
        at_the_commit.setattr(Lake, "commit", killed)
        asyncio.run(session())
    with Journal.open(plan.journal_file(0)) as journal:
        assert len(journal) == 6
    return plan


def opened(plan: RunPlan) -> RunSession:
    """A session of the run, opened and closed again."""

    async def session() -> RunSession:
        async with open_session(plan) as session:
            return session

    return asyncio.run(session())


def test_a_whole_journal_is_no_warning_and_its_money_counts(plan: RunPlan):
    session = opened(plan)
    assert session.progress.warnings == []
    assert session.progress.unsettled_cost_usd > 0
    assert session.progress.n_calls_lost == 0


@pytest.mark.parametrize(
    ("harm", "least"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), 2),
        (lambda path: path.write_bytes(b""), 6),
        (Path.unlink, 6),
    ],
)
def test_a_journal_that_was_cut_is_said_before_the_first_call_and_counted(
    harm: Callable[[Path], object], least: int, plan: RunPlan
):
    path = plan.journal_file(0)
    paid_usd = opened(plan).progress.unsettled_cost_usd
    harm(path)
    session = opened(plan)
    [warning] = session.progress.warnings
    found = re.search(r"cut or taken away: (\d+) of the 6 answers", warning)
    assert found is not None
    n_missing = int(found[1])
    assert n_missing >= least
    assert str(path) in warning
    assert f"up to {n_missing} calls are paid twice" in warning
    assert session.progress.unsettled_cost_usd == pytest.approx(paid_usd), "what is lost was paid all the same"

    async def goes_on() -> RunSession:
        session = session_for(plan, reply)
        with contextlib.closing(session.checks):
            await answer_rows(session, 0)
        return session

    done = asyncio.run(goes_on())
    assert isinstance(done.client, ScriptedClient) and done.client.n_sent == n_missing
    assert done.progress.n_calls_lost == n_missing
    assert not path.exists()
    assert not mark_of(path).exists()
    later = opened(plan).progress
    assert later.n_calls_lost == n_missing, "later sessions know of it"
    twice_usd = n_missing * paid_usd / 6
    assert later.settled_cost_usd + later.unsettled_cost_usd == pytest.approx(paid_usd + twice_usd)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"hello" * 100),
        Path.unlink,
    ],
)
def test_a_shard_file_that_was_cut_is_refused_at_once_by_name(harm: Callable[[Path], object], plan: RunPlan):
    path = plan.shard_file(1)
    harm(path)
    with pytest.raises(LakeError) as told:
        opened(plan)
    assert str(path) in str(told.value)
    assert "another lake" in str(told.value)
    with pytest.raises(LakeError, match=path.name):
        write_answers(plan, Lake(plan.settings.lake), path.parent / "answers.jsonl")


def test_a_damaged_journal_is_refused_at_once_by_name(plan: RunPlan):
    path = plan.journal_file(0)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    with pytest.raises(LakeError, match="is damaged") as told:
        opened(plan)
    assert str(path) in str(told.value)


def test_neither_a_journal_nor_the_answers_follow_a_link(plan: RunPlan, tmp_path: Path):
    precious = tmp_path / "precious"
    precious.write_text("somebody's")
    out = tmp_path / "answers.jsonl"
    out.symlink_to(precious)
    write_answers(plan, Lake(plan.settings.lake), out)
    assert not out.is_symlink()
    assert out.read_text("utf-8").count("\n") == 12
    plan.journal_file(1).symlink_to(precious)
    with pytest.raises(LakeError, match="a link, where the journal"):
        opened(plan)
    assert precious.read_text() == "somebody's"
