"""What one run paid for, no other pays again: an appended file, another price, another file of the same lake."""

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
from storage.runs.recording import record_run
from storage.sql.query import connect
from tasks.answering.finished import RunResult
from tests.support.loopback import Loopback, free_port, reply_json, write_pool
from tests.support.prefect_api import shared_api
from tests.support.prefect_sockets import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS
RECONCILE = ("reconcile_cost", "reconcile_tokens", "reconcile_counts", "reconcile_duplicates")
EACH_USD = 20e-6
"""10 prompt tokens at 1 USD per million, 5 generated at 2."""


@pytest.fixture(scope="module", autouse=True)
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["R2_STATE_DIR"] = str(tmp_path_factory.mktemp("state"))
    with shared_api():
        yield


def write_questions(path: Path, n: int) -> None:
    rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i), "benchmark": "arithmetic"} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


async def adds(request: web.Request) -> web.StreamResponse:
    said = str((await request.json())["messages"])
    [number] = [i for i in range(30) if f" {i} + {i}?" in said]
    return web.json_response(reply_json(f"Answer: {2 * number}", usage=(10, 5)))


def pool(folder: Path, port: int, *, input_usd: float = 1.0, served: str = "") -> None:
    price = f'{{input = {input_usd}, output = 2.0, date = "2026-11-01", source = "made up for tests"}}'
    lines = f'endpoint = "http://127.0.0.1:{port}/v1"\nprice_usd_per_mtok = {price}\n'
    write_pool(folder, {"m": lines + (f'served_model = "{served}"\n' if served else "")})


def session(folder: Path, port: int, name: str = "q", **settings: object) -> tuple[RunResult, int]:
    """One session over `<name>.jsonl`, and how many requests it made."""
    chosen = AnswerSettings.model_validate(
        {
            "input": str(folder / f"{name}.jsonl"),
            "pool": str(folder / "pool.toml"),
            "lake": str(folder / "lake"),
            "out": str(folder / f"{name}.answers.jsonl"),
            "reasoning": {"method": "cot"},
            "shard_size": 8,
            **settings,
        }
    )

    async def scenario() -> tuple[RunResult, int]:
        async with Loopback(after=adds, port=port) as server:
            result = await answer_questions(chosen)
            return result, len(server.arrivals)

    return asyncio.run(scenario())


def money(result: RunResult) -> tuple[float, float, int]:
    """In millionths: paid by the run, saved, and the calls that saved it."""
    summary = result.summary
    return round(1e6 * summary.cost_usd, 3), round(1e6 * summary.saved_usd, 3), summary.n_reused


def test_a_longer_file_another_price_and_another_file_pay_only_for_what_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    port, lake = free_port(), tmp_path / "lake"
    pool(tmp_path, port)
    write_questions(tmp_path / "q.jsonl", 20)
    first, n_asked = session(tmp_path, port)
    assert (n_asked, money(first)) == (20, (400, 0, 0))
    assert "answered before" not in capsys.readouterr().err

    write_questions(tmp_path / "q.jsonl", 25)
    longer, n_asked = session(tmp_path, port)
    assert (n_asked, money(longer)) == (5, (100, 400, 20))
    assert longer.summary.accuracy == 1.0
    assert longer.summary.usd_per_1k == pytest.approx(1000 * EACH_USD), "what a question costs, whoever paid"
    said = capsys.readouterr().err
    assert f"was answered before (run {first.summary.run_id}), and this is another run" in said
    assert "the file has other content (20 rows then, 25 now): new rows are asked. 20 stored answers" in said
    answers = [json.loads(line) for line in (tmp_path / "q.answers.jsonl").read_text("utf-8").splitlines()]
    assert [(row["cost_usd"], row["saved_usd"]) for row in (answers[0], answers[24])] == [
        (0, pytest.approx(EACH_USD)),
        (pytest.approx(EACH_USD), 0),
    ]

    pool(tmp_path, port, input_usd=4.0)  # 10 * 4 + 5 * 2 = 50 millionths a call; a cap that no call fits under
    dearer, n_asked = session(tmp_path, port, max_cost_usd=1e-9)
    assert (n_asked, money(dearer), dearer.progress.stop_reason) == (0, (0, 25 * 50, 25), None)
    assert "m has another price: stored tokens are priced anew; asked is only" in capsys.readouterr().err

    pool(tmp_path, port, input_usd=4.0, served="another")
    changed, n_asked = session(tmp_path, port, limit=2)
    assert (n_asked, money(changed)) == (2, (100, 0, 0)), "another model's answers are no answers of this one"
    assert "m has another endpoint, model or option" in capsys.readouterr().err

    write_questions(tmp_path / "other.jsonl", 2)
    assert session(tmp_path, port, "other")[1] == 2
    write_questions(tmp_path / "third.jsonl", 3)
    shared, n_asked = session(tmp_path, port, "third", reuse=True)
    assert (n_asked, money(shared)) == (1, (50, 100, 2))
    assert "--no-reuse asks anew" in capsys.readouterr().err

    with connect(lake) as db:
        for view in RECONCILE:
            assert db.execute(f"from {view}").fetchall() == [], view
        marked = db.execute(
            "select reused_from, count(*), sum(cost_usd) from calls where run_id = ? group by 1 order by 1",
            [longer.summary.run_id],
        ).fetchall()
        assert marked == [(first.summary.run_id, 20, 0), (None, 5, pytest.approx(5 * EACH_USD))]
        by_price = db.execute(
            "select distinct reused_from, price_version from calls where run_id = ? order by 1", [dearer.summary.run_id]
        ).fetchall()
        assert by_price == sorted((run.summary.run_id, "2026-11-01:4/4/2") for run in (first, longer))
    assert record_run(Lake(lake), longer.summary.run_id, tmp_path / "calls.jsonl.gz") == 25


def test_calls_of_a_run_that_was_stopped_in_the_middle_are_paid_once_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def killed(*args: object, **kwargs: object) -> bool:
        raise KeyError("killed")

    port = free_port()
    pool(tmp_path, port)
    write_questions(tmp_path / "q.jsonl", 20)
    with monkeypatch.context() as at_the_commit, pytest.raises(ExceptionGroup):
        at_the_commit.setattr(Lake, "commit", killed)
        session(tmp_path, port, shard_size=20)
    pool(tmp_path, port, input_usd=4.0)
    dearer, n_asked = session(tmp_path, port)
    assert (n_asked, money(dearer)) == (0, (0, 1000, 20))
