"""A run whose process is killed while it closes: the same command finds it and brings the rest to an end."""

import asyncio
import contextlib
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from r2.settings import AnswerSettings
from storage.lake.lake import Lake
from storage.runs.plan import read_plan
from tasks.answering import finish_run
from tasks.answering.answer_rows import answer_rows
from tasks.answering.finished import finished_run
from tasks.answering.plan_file import plan_file
from tests.support.shards import session_for

N = 3
POOL = """[router]
decomposer = "small"
allocator = "small"

[models.small]
endpoint = "http://127.0.0.1:9/v1"
tier = "small"
price_usd_per_mtok = {input = 1.0, output = 2.0, date = "2026-11-01", source = "made up"}
"""
"""Nobody answers there, and nobody is asked."""


class Killed(BaseException):
    """The process is gone: nothing catches it."""


def killed(*args: Any, **kwargs: Any) -> None:
    raise Killed


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnswerSettings:
    """Of a run that is answered whole and not closed."""
    monkeypatch.setenv("R2_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "pool.toml").write_text(POOL, "utf-8")
    (tmp_path / "q.csv").write_text("id,question\n" + "".join(f"q{i},What is {i} + 1?\n" for i in range(N)), "utf-8")
    settings = AnswerSettings.model_validate(
        {
            "input": str(tmp_path / "q.csv"),
            "pool": str(tmp_path / "pool.toml"),
            "lake": str(tmp_path / "lake"),
            "out": str(tmp_path / "answers.csv"),
            "reasoning": {"method": "cot", "model": "small"},
        }
    )
    plan = read_plan(plan_file(settings))

    async def answered() -> None:
        session = session_for(plan, lambda call: "Answer: 1")
        with contextlib.closing(session.checks):
            await answer_rows(session, 0)

    asyncio.run(answered())
    return settings


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (finish_run, "add_session"),
        (finish_run, "store_jobs"),
        (Lake, "compact"),
        (finish_run, "refresh_database"),
        (finish_run, "write_answers"),
    ],
)
def test_a_run_killed_while_it_closes_is_closed_by_the_same_command(
    owner: Any, name: str, settings: AnswerSettings, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as at_this_step, pytest.raises(Killed):
        at_this_step.setattr(owner, name, killed)
        finished_run(settings)
    result = finished_run(settings)
    assert result is not None
    assert [path.read_text("utf-8").count("\n") for path in result.out] == [N + 1]
    lake, run_id = Lake(settings.lake), result.summary.run_id
    assert lake.compact(run_id) is None, "what other programs read is one file per table already"
    with closing(duckdb.connect(str(Path(settings.lake) / "lake.duckdb"), read_only=True)) as db:
        assert db.execute("select count(*) from trajectories").fetchall() == [(N,)]
        assert db.execute("select n_answered, n_deferred from runs").fetchall() == [(N, 0)]


def test_a_database_of_this_moment_is_left_alone_and_one_that_is_not_is_written(settings: AnswerSettings):
    finished_run(settings)
    database, script = (Path(settings.lake) / name for name in ("lake.duckdb", "lake.sql"))
    before = database.stat().st_mtime_ns
    finished_run(settings)
    assert database.stat().st_mtime_ns == before
    script.write_text("select 1;\n", "utf-8")
    finished_run(settings)
    assert database.stat().st_mtime_ns > before
    database.unlink()
    finished_run(settings)
    assert database.is_file()
