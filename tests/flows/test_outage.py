"""Outages, on real servers on loopback: what says nothing about a question is never final, and costs nothing twice."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from flows.answer_questions import answer_questions
from flows.cli.answer import print_result
from r2.settings import AnswerSettings
from storage.sql.query import connect
from tasks.answering.finished import RunResult
from tests.support.loopback import Behaviour, Loopback, answers, free_port, hangs_up, reply_json, says, write_pool
from tests.support.prefect_api import shared_api
from tests.support.prefect_sockets import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS


@pytest.fixture(scope="module", autouse=True)
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["R2_STATE_DIR"] = str(tmp_path_factory.mktemp("state"))
    with shared_api():
        yield


def prepare(folder: Path, n: int, options: str = "") -> int:
    """`n` questions, and a pool of one model at a port that nobody listens on."""
    rows = [json.dumps({"id": str(i), "question": f"What is {i} + {i}?"}) for i in range(n)]
    (folder / "q.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    port = free_port()
    write_pool(folder, {"m": f'endpoint = "http://127.0.0.1:{port}/v1"\n{options}'})
    return port


async def session(folder: Path, **settings: object) -> RunResult:
    chosen = {
        "input": str(folder / "q.jsonl"),
        "pool": str(folder / "pool.toml"),
        "lake": str(folder / "lake"),
        "out": str(folder / "a.jsonl"),
        "reasoning": {"method": "cot"},
        **settings,
    }
    return await answer_questions(AnswerSettings.model_validate(chosen))


def counts(result: RunResult) -> tuple[int, int, int]:
    return result.summary.n_answered, result.summary.n_failed, result.progress.n_deferred


def query(folder: Path, sql: str) -> list[tuple[object, ...]]:
    with connect(folder / "lake") as db:
        return db.execute(sql).fetchall()


def test_questions_of_an_outage_are_deferred_and_the_same_command_answers_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    port = prepare(tmp_path, 10)
    with (tmp_path / "q.jsonl").open("a", encoding="utf-8") as file:
        file.write("not a row\n")
    down = asyncio.run(session(tmp_path))
    assert counts(down) == (0, 1, 10)
    assert print_result(down) == 1
    said = capsys.readouterr().err
    assert "Stopped: no model could be reached; 10 questions are deferred" in said
    assert "disconnected" in said
    assert "The same command resumes it:\n  " in said
    assert query(tmp_path, "select status, n_deferred from runs") == [("failed", 10)]
    statuses = [json.loads(line)["status"] for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()]
    assert statuses == ["deferred"] * 10 + ["failed"]

    async def up() -> RunResult:
        async with Loopback(port=port) as server:
            result = await session(tmp_path)
            assert len(server.arrivals) == 10
            return result

    result = asyncio.run(up())
    assert counts(result) == (10, 1, 0)
    assert print_result(result) == 1, "for the bad row"
    assert query(tmp_path, "select count(*), count(distinct problem_id) from trajectories") == [(11, 11)]


def test_a_session_that_reached_a_model_says_how_many_questions_an_outage_left_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    port = prepare(tmp_path, 3)

    async def scenario() -> RunResult:
        async with Loopback(script=[answers()], after=says(401, "bad key"), port=port):
            return await session(tmp_path, max_in_flight=1)

    result = asyncio.run(scenario())
    assert counts(result) == (1, 0, 2)
    assert print_result(result) == 1
    said = capsys.readouterr().err
    assert "2 questions are deferred: a model could not be reached or used (auth: 1, circuit_open: 1)" in said
    assert "no model could be reached" not in said


@pytest.mark.parametrize(
    ("lost", "error_type"),
    [
        (says(500, "oops"), "server_error"),
        (says(200, "not JSON"), "bad_body"),
        (says(402, "no balance"), "auth"),
        (says(307, ""), "unknown_model"),
    ],
    ids=["500", "200 without a completion", "402", "307"],
)
def test_no_failure_of_the_server_is_final(tmp_path: Path, lost: Behaviour, error_type: str):
    port = prepare(tmp_path, 1)

    async def scenario(behaviour: Behaviour) -> RunResult:
        async with Loopback(after=behaviour, port=port):
            return await session(tmp_path)

    down = asyncio.run(scenario(lost))
    assert (counts(down), down.progress.n_by_outage) == ((0, 0, 1), {error_type: 1})
    assert counts(asyncio.run(scenario(answers()))) == (1, 0, 0)


def test_what_a_lost_call_may_have_cost_is_kept_until_its_question_is_settled(tmp_path: Path):
    port = prepare(tmp_path, 1)

    async def scenario(behaviour: Behaviour) -> RunResult:
        async with Loopback(after=behaviour, port=port):
            return await session(tmp_path, max_cost_usd=1.0)

    down = asyncio.run(scenario(says(200, "x" * 300)))
    lost = down.progress.session_cost_usd
    assert lost > 0
    assert down.progress.unsettled_cost_usd == pytest.approx(lost)
    again = asyncio.run(scenario(says(200, "x" * 300)))
    assert again.progress.unsettled_cost_usd == pytest.approx(2 * lost)
    done = asyncio.run(scenario(answers()))
    assert done.progress.unsettled_cost_usd == pytest.approx(0.0)
    assert done.summary.cost_usd == pytest.approx(2 * lost + done.progress.session_cost_usd)
    [(cost, n_attempts, n_different)] = query(
        tmp_path, "select sum(cost_usd), count(*), count(distinct attempt) from calls"
    )
    assert (cost, n_attempts, n_different) == (pytest.approx(done.summary.cost_usd), 9, 9)


def test_a_failure_that_a_stronger_model_made_up_for_is_not_asked_again(tmp_path: Path):
    """The small model refuses both steps and the large one fails at the second: the next session asks that one call,
    and then for the answer."""
    (tmp_path / "q.jsonl").write_text('{"id": "0", "question": "What is 2 * 3 + 4?"}\n', "utf-8")
    asked: list[str] = []

    def large(*, is_up: bool) -> Behaviour:
        async def behave(request: web.Request) -> web.StreamResponse:
            said = str((await request.json())["messages"][-1])
            steps = ("Result of step 2", "final"), ("Result of step 1", "second"), ("Compute", "first"), ("", "plan")
            what = next(what for mark, what in steps if mark in said)
            asked.append(what)
            if what == "second" and not is_up:
                return web.Response(status=500)
            plan = "1. Compute 2 * 3\n2. Add 4 to the result of step 1 (needs: 1)"
            return web.json_response(reply_json({"plan": plan, "first": "6", "second": "10", "final": "10"}[what]))

        return behave

    ports = free_port(), free_port()
    short = "timeout_s = 5\ndeadline_s = 1"
    write_pool(
        tmp_path,
        {
            "small": f'endpoint = "http://127.0.0.1:{ports[0]}/v1"\n{short}',
            "large": f'endpoint = "http://127.0.0.1:{ports[1]}/v1"\n{short}\ntier = "large"',
        },
    )

    async def scenario(behaviour: Behaviour) -> tuple[RunResult, list[str]]:
        async with (
            Loopback(after=says(429, "slow down"), port=ports[0]) as small,
            Loopback(after=behaviour, port=ports[1]),
        ):
            result = await session(tmp_path, reasoning={"method": "dot", "decomposer": "large"})
            return result, [str(arrival.body["messages"][-1]) for arrival in small.arrivals]

    down, refused_then = asyncio.run(scenario(large(is_up=False)))
    assert (counts(down), down.progress.n_by_outage) == ((0, 0, 1), {"server_error": 1})
    assert len(refused_then) >= 2
    asked.clear()
    up, refused_now = asyncio.run(scenario(large(is_up=True)))
    assert (counts(up), asked) == ((1, 0, 0), ["second", "final"])
    assert not set(refused_now) & set(refused_then), "a step that it never got to send in time may be new to it"
    assert [row["answer"] for row in map(json.loads, (tmp_path / "a.jsonl").read_text("utf-8").splitlines())] == ["10"]


def test_an_outage_in_the_middle_of_a_file_costs_nothing_and_leaves_nothing_unanswered(tmp_path: Path):
    port = prepare(tmp_path, 60)

    async def scenario(server: Loopback) -> tuple[RunResult, int]:
        async with server:
            return await session(tmp_path, max_in_flight=8, shard_size=25), len(server.arrivals)

    first, _ = asyncio.run(scenario(Loopback(script=[answers()] * 30, after=hangs_up(), port=port)))
    assert counts(first) == (30, 0, 30)
    second, n_asked = asyncio.run(scenario(Loopback(port=port)))
    assert (counts(second), n_asked) == ((60, 0, 0), 30)
    assert second.summary.cost_usd == pytest.approx(60 * 20e-6), "10 prompt tokens at 1 USD per million, 5 at 2"
    assert query(tmp_path, "select count(*), count(distinct problem_id) from trajectories") == [(60, 60)]


def test_a_request_that_the_model_refuses_is_final(tmp_path: Path):
    port = prepare(tmp_path, 2)

    async def scenario() -> RunResult:
        async with Loopback(script=[says(400, "no such parameter")], port=port):
            return await session(tmp_path, max_in_flight=1)

    assert counts(asyncio.run(scenario())) == (1, 1, 0)
    assert counts(asyncio.run(scenario())) == (1, 1, 0)
