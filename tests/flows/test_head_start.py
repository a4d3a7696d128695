"""Models are asked while Prefect's API still starts; the flow goes on from there, and nothing is asked twice."""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from flows.answer_questions import answer_questions
from flows.support import head_start as tested
from flows.support.head_start import head_start
from r2.errors import EndpointError, RunLockedError
from r2.pool.file.config import load_pool
from r2.settings import AnswerSettings, Reasoning
from storage.lake.lake import Lake
from tasks.answering.finished import RunResult
from tests.support.prefect_api import shared_api
from tests.support.prefect_sockets import LEAVES_SOCKETS
from tests.support.provider import Provider

pytestmark = LEAVES_SOCKETS
N_QUESTIONS, SHARD_SIZE = 24, 4


class SlowApi:
    """An API that comes when `until` says so, or raises; reached by the tests' shared one."""

    def __init__(self, until: Callable[[], object]) -> None:
        self.until = until
        self.is_closed = threading.Event()

    def load(self, importing: str) -> None:
        """Everything is loaded in a test."""

    def wait(self) -> None:
        deadline = time.monotonic() + 30
        while not self.until() and not self.is_closed.is_set():
            assert time.monotonic() < deadline, "never came"
            time.sleep(0.01)

    def reached(self) -> nullcontext[None]:
        return nullcontext()

    def close(self) -> None:
        self.is_closed.set()


@pytest.fixture(autouse=True, scope="module")
def prefect_api() -> Iterator[None]:
    with shared_api():
        yield


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[AnswerSettings, Provider]]:
    monkeypatch.setenv("R2_STATE_DIR", str(tmp_path / "state"))
    rows = [{"id": f"q{i}", "question": f"What is {i} + {4 - i}?", "answer": "4"} for i in range(N_QUESTIONS)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Provider() as provider:
        pool = provider.pool(tmp_path / "pool.toml")
        yield (
            AnswerSettings(
                input=str(tmp_path / "q.jsonl"),
                pool=str(pool),
                lake=str(tmp_path / "lake"),
                out=str(tmp_path / "a.jsonl"),
                shard_size=SHARD_SIZE,
                reasoning=Reasoning(method="cot"),
            ),
            provider,
        )


def answered(settings: AnswerSettings, api: SlowApi, monkeypatch: pytest.MonkeyPatch) -> RunResult:
    """As the command does it, with `api` in the place of the one that starts."""

    @contextmanager
    def starting() -> Iterator[SlowApi]:
        yield api

    monkeypatch.setattr(tested, "api_starting", starting)

    async def command() -> RunResult:
        async with head_start(settings, load_pool(settings.pool), importing="flows.answer_questions") as stopped:
            return stopped or await answer_questions(settings)

    return asyncio.run(command())


def written(settings: AnswerSettings) -> list[str]:
    assert settings.out is not None
    return [json.loads(line)["status"] for line in Path(settings.out).read_text().splitlines()]


def test_the_first_shards_are_answered_before_the_api_is_there(
    settings: tuple[AnswerSettings, Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, provider = settings
    n_first = run.shards_in_flight * SHARD_SIZE
    assert 0 < n_first < N_QUESTIONS
    n_seen: list[int] = []

    def came() -> bool:
        if len(provider.questions) < n_first:
            return False
        n_seen.append(len(provider.questions))
        return True

    result = answered(run, SlowApi(came), monkeypatch)
    assert n_seen == [n_first], "only the first shards begin before the flow"
    assert sorted(provider.questions) == sorted(set(provider.questions)), "none is asked twice"
    assert (result.summary.n_answered, result.summary.n_calls) == (N_QUESTIONS, N_QUESTIONS)
    assert result.progress.session_cost_usd == pytest.approx(result.summary.cost_usd)
    assert written(run) == ["answered"] * N_QUESTIONS


def test_a_run_that_was_answered_whole_before_the_api_came_is_closed_by_its_flow(
    settings: tuple[AnswerSettings, Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = settings[0].model_copy(update={"shard_size": N_QUESTIONS})
    lake = Lake(Path(run.lake))

    def all_committed() -> bool:
        return any(lake.units(run_id) for run_id in lake.manifest.run_ids())

    result = answered(run, SlowApi(all_committed), monkeypatch)
    assert (result.summary.n_answered, result.progress.n_deferred) == (N_QUESTIONS, 0)
    assert written(run) == ["answered"] * N_QUESTIONS


def test_where_the_api_never_comes_what_was_paid_is_kept(
    settings: tuple[AnswerSettings, Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, provider = settings

    def fails() -> bool:
        if len(provider.questions) < SHARD_SIZE:
            return False
        raise EndpointError("no API")

    with pytest.raises(EndpointError, match="no API"):
        answered(run, SlowApi(fails), monkeypatch)
    n_asked = len(provider.questions)
    assert SHARD_SIZE <= n_asked < N_QUESTIONS
    result = asyncio.run(answer_questions(run))
    assert result.summary.n_answered == N_QUESTIONS
    again = len(provider.questions) - N_QUESTIONS
    assert 0 <= again <= 8, "what was in flight when the API failed, at most"


def test_ctrl_c_before_the_api_is_there_sums_up_without_it(
    settings: tuple[AnswerSettings, Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, provider = settings
    provider.at_first_question = lambda: os.kill(os.getpid(), signal.SIGINT)
    result = answered(run, SlowApi(lambda: False), monkeypatch)
    assert result.progress.stop_reason == "interrupted"
    assert result.summary.n_answered + result.progress.n_deferred == N_QUESTIONS == result.progress.n_requested
    assert result.progress.n_deferred > 0
    assert asyncio.run(answer_questions(run)).summary.n_answered == N_QUESTIONS
    assert sorted(provider.questions) == sorted(set(provider.questions))


def test_a_run_that_somebody_works_on_is_refused_before_anything_is_asked(
    settings: tuple[AnswerSettings, Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.answering.plan_file import plan_file

    run, provider = settings
    held = plan_file(run).name
    with Lake(Path(run.lake)).run_lock(held), pytest.raises(RunLockedError):
        answered(run, SlowApi(lambda: False), monkeypatch)
    assert provider.questions == []
