"""`--retry-failed`: questions that failed for good are asked again, and the lake has each question once at any time."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from flows.answer_questions import answer_questions
from r2.settings import AnswerSettings
from storage.lake.lake import Lake
from storage.runs import reopened
from storage.sql.query import connect
from tasks.answering.finished import RunResult
from tests.support.loopback import Behaviour, Loopback, free_port, reply_json, write_pool
from tests.support.prefect_api import shared_api
from tests.support.prefect_sockets import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS
RECONCILE = ("reconcile_cost", "reconcile_tokens", "reconcile_counts", "reconcile_duplicates")


@pytest.fixture(scope="module", autouse=True)
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["R2_STATE_DIR"] = str(tmp_path_factory.mktemp("state"))
    with shared_api():
        yield


@pytest.fixture
def port(tmp_path: Path) -> int:
    """Six questions in shards of two, with answers to check against and one bad row, for one model at this port."""
    rows = [
        json.dumps({"id": str(i), "question": f"What is {i} + {i}?", "answer": str(2 * i), "benchmark": "arithmetic"})
        for i in range(6)
    ]
    (tmp_path / "q.jsonl").write_text("\n".join([*rows, "not a row"]) + "\n", "utf-8")
    port = free_port()
    write_pool(tmp_path, {"m": f'endpoint = "http://127.0.0.1:{port}/v1"\n'})
    return port


def refuses(*ids: int, usage: tuple[int, int] = (10, 5)) -> Behaviour:
    """Answers right, and refuses these questions: the first of them with an empty text that is billed."""

    async def behave(request: web.Request) -> web.StreamResponse:
        said = str((await request.json())["messages"])
        [number] = [i for i in range(6) if f"{i} + {i}" in said]
        if number not in ids:
            return web.json_response(reply_json(f"Answer: {2 * number}", usage=usage))
        if number == ids[0]:
            return web.json_response(reply_json("", usage=usage))
        return web.Response(status=400, text="refused")

    return behave


def session(folder: Path, port: int, behave: Behaviour | None, **options: object) -> tuple[RunResult, int]:
    """One session, and how many requests it made. None: nothing listens."""
    settings = {
        "input": str(folder / "q.jsonl"),
        "pool": str(folder / "pool.toml"),
        "lake": str(folder / "lake"),
        "out": str(folder / "a.jsonl"),
        "reasoning": {"method": "cot"},
        "shard_size": 2,
        "max_cost_usd": 1.0,
    }

    async def scenario() -> tuple[RunResult, int]:
        chosen = AnswerSettings.model_validate(settings)
        if behave is None:
            return await answer_questions(chosen, **options), 0  # type: ignore[arg-type]
        async with Loopback(after=behave, port=port) as server:
            result = await answer_questions(chosen, **options)  # type: ignore[arg-type]
            return result, len(server.arrivals)

    return asyncio.run(scenario())


def counts(result: RunResult) -> tuple[int, int, int]:
    return result.summary.n_answered, result.summary.n_failed, result.progress.n_deferred


def query(folder: Path, sql: str) -> list[tuple[object, ...]]:
    with connect(folder / "lake") as db:
        return db.execute(sql).fetchall()


def assert_books_balance(folder: Path) -> None:
    for view in RECONCILE:
        assert query(folder, f"from {view}") == [], view
    assert query(folder, "select count(*) - count(distinct problem_id) from trajectories") == [(0,)]
    assert Lake(folder / "lake").verify() == []


def test_failed_questions_alone_are_asked_again_and_what_they_cost_before_stays_theirs(tmp_path: Path, port: int):
    first, _ = session(tmp_path, port, refuses(1, 4))
    assert counts(first) == (4, 3, 0), "two questions, and the row that is none"
    again, n_asked = session(tmp_path, port, refuses())
    assert (counts(again), n_asked) == ((4, 3, 0), 0), "without the flag they stay failed"
    done, n_asked = session(tmp_path, port, refuses(), retry_failed=True)
    assert (counts(done), n_asked, done.n_reopened) == ((6, 1, 0), 2, 2)
    assert done.summary.accuracy == 1.0
    assert_books_balance(tmp_path)
    each = 20e-6  # 10 prompt tokens at 1 USD per million, 5 generated at 2
    assert done.progress.session_cost_usd == pytest.approx(2 * each)
    assert done.summary.cost_usd == pytest.approx(7 * each), "five answers, the empty one, and two now"
    assert query(tmp_path, "select n_calls, n_attempts, cost_usd from trajectories where problem_id = '1'") == [
        (2, 2, pytest.approx(2 * each))
    ]
    assert query(tmp_path, "select call_index, status, output_text from calls where problem_id = '4' order by 1") == [
        (0, 400, None),
        (1, 200, "Answer: 8"),
    ]
    assert query(tmp_path, "select session, status, n_answered, n_failed, n_deferred from runs order by 1") == [
        (0, "completed_with_errors", 4, 3, 0),
        (1, "completed_with_errors", 4, 3, 0),
        (2, "interrupted", 4, 1, 2),
        (3, "completed_with_errors", 6, 1, 0),
    ]
    last, n_asked = session(tmp_path, port, refuses(), retry_failed=True)
    assert (counts(last), n_asked, last.n_reopened) == ((6, 1, 0), 0, 0), "nothing is left to ask"
    assert last.summary.cost_usd == pytest.approx(7 * each)


def test_questions_that_fail_again_are_failed_once_with_all_their_calls(tmp_path: Path, port: int):
    session(tmp_path, port, refuses(1, 4))
    twice, n_asked = session(tmp_path, port, refuses(4, 1), retry_failed=True)
    assert (counts(twice), n_asked) == ((4, 3, 0), 2)
    thrice, n_asked = session(tmp_path, port, refuses(4), retry_failed=True)
    assert (counts(thrice), n_asked) == ((5, 2, 0), 2)
    assert_books_balance(tmp_path)
    assert query(
        tmp_path, "select problem_id, n_calls from trajectories where problem_id in ('1', '4') order by 1"
    ) == [
        ("1", 3),
        ("4", 3),
    ]


def test_where_no_model_is_reached_they_are_deferred_and_the_plain_command_asks_them(tmp_path: Path, port: int):
    first, _ = session(tmp_path, port, refuses(1, 4))
    down, _ = session(tmp_path, port, None, retry_failed=True)
    assert counts(down) == (4, 1, 2)
    assert down.progress.is_cut_off
    assert down.progress.unsettled_cost_usd + down.summary.cost_usd == pytest.approx(first.summary.cost_usd)
    assert_books_balance(tmp_path)
    up, n_asked = session(tmp_path, port, refuses())
    assert (counts(up), n_asked) == ((6, 1, 0), 2)
    assert up.progress.unsettled_cost_usd == pytest.approx(0.0)
    assert_books_balance(tmp_path)


def test_a_kill_before_they_leave_the_lake_changes_nothing(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch):
    first, _ = session(tmp_path, port, refuses(1, 4))

    def killed(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(reopened.Lake, "leave_out", killed)
        with pytest.raises(KeyboardInterrupt):
            session(tmp_path, port, None, retry_failed=True)
    after, n_asked = session(tmp_path, port, refuses())
    assert (counts(after), n_asked) == ((4, 3, 0), 0)
    assert after.summary.cost_usd == pytest.approx(first.summary.cost_usd)
    assert after.progress.unsettled_cost_usd == 0.0
    assert_books_balance(tmp_path)


def test_a_run_of_which_everything_failed_can_be_asked_again(tmp_path: Path, port: int):
    (tmp_path / "q.jsonl").write_text('{"id": "1", "question": "What is 1 + 1?"}\n', "utf-8")
    session(tmp_path, port, refuses(1))
    done, n_asked = session(tmp_path, port, refuses(), retry_failed=True)
    assert (counts(done), n_asked) == ((1, 0, 0), 1)
    assert_books_balance(tmp_path)
