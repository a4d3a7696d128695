"""Spans of a run, sent to a real collector on loopback: the same as the view `otel_spans` of its lake has, and no text
of anybody. Without a collector nothing is loaded and nothing is sent."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r2.call import Attempt, Call
from r2.errors import ConfigError
from r2.telemetry.spans import RATIO, attempt_span, is_wanted, problem_span, sampled_share, trace_id_of, tracing
from storage.sql.query import connect
from tasks.answering.answer_rows import answer_rows
from tasks.answering.session import open_session
from tests.support.collector import Collector
from tests.support.loopback import Loopback, answers, free_port, says
from tests.support.paths import ROOT
from tests.support.shards import planned

pytest.importorskip("opentelemetry.sdk", reason="the extra otel")

SECRET_QUESTION = "What is the colour of my grandmother's door?"
SECRET_ANSWER = "Answer: aquamarine"
KEY = "sk-not-for-a-collector"
POOL = """
[router]
decomposer = "small"
allocator = "small"

[models.small]
endpoint = "{url}"
tier = "small"
api_key_env = "KEY_OF_SMALL"
price_usd_per_mtok = {{input = 1.0, output = 2.0, date = "2026-11-01", source = "made up"}}
"""


@pytest.fixture(autouse=True)
def _no_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KEY_OF_SMALL", KEY)
    monkeypatch.setenv("R2_STATE_DIR", str(tmp_path / "state"))


async def answered(tmp_path: Path, server: Loopback, n: int, **settings: Any) -> str:
    """A run of `n` questions in shards of 2; its id."""
    (tmp_path / "pool.toml").write_text(POOL.format(url=server.base_url), "utf-8")
    rows = [{"id": f"q{i}", "question": f"{SECRET_QUESTION} {i}"} for i in range(n)]
    plan = planned(tmp_path, rows, shard_size=2, pool=str(tmp_path / "pool.toml"), **settings)
    async with open_session(plan) as session:
        for shard in list(session.open_shards()):
            await answer_rows(session, shard.index)
    return plan.run_id


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110  another thread makes it so
            await asyncio.sleep(0.05)


def test_a_runs_spans_are_the_rows_of_the_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def run() -> tuple[str, Collector]:
        refusal = says(500, '{"error": {"message": "the door is aquamarine"}}')
        async with Collector() as collector, Loopback([refusal], answers(SECRET_ANSWER)) as server:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
            return await answered(tmp_path, server, 3), collector

    run_id, collector = asyncio.run(run())
    with connect(tmp_path / "lake") as db:
        rows = db.execute("select * from otel_spans order by start_time")
        names = [column[0] for column in rows.description]
        view = [dict(zip(names, row, strict=True)) for row in rows.fetchall()]
    calls = sorted(collector.named("chat"), key=lambda span: span.start_ns)
    assert len(calls) == len(view) == 4
    for call, row in zip(calls, view, strict=True):
        assert (call.trace_id, call.name) == (row["trace_id"], row["name"])
        assert call.start_ns == pytest.approx(row["start_time"].timestamp() * 1e9, abs=2_000)
        assert call.end_ns == pytest.approx(row["end_time"].timestamp() * 1e9, abs=3_000)
        columns = {name: value for name, value in row.items() if "." in name and value is not None}
        del columns["gen_ai.input.messages"]
        assert call.attributes == {
            name: pytest.approx(value) if isinstance(value, float) else value for name, value in columns.items()
        }
    assert [call.is_error for call in calls].count(True) == 1
    [failed] = [call for call in calls if call.is_error]
    assert failed.attributes["http.response.status_code"] == 500

    [whole] = collector.named("run")
    assert whole.attributes == {"r2.run_id": run_id, "r2.method": "cot"}
    shards = collector.named("shard")
    assert sorted(shard.attributes["r2.shard"] for shard in shards) == [0, 1]
    assert all((shard.trace_id, shard.parent_id) == (whole.trace_id, whole.span_id) for shard in shards)
    problems = {span.trace_id: span for span in collector.named("problem")}
    assert len(problems) == 3
    for call in calls:
        problem = problems[call.trace_id]
        assert call.parent_id == problem.span_id
        assert problem.attributes["r2.status"] == "answered"
        assert int(call.trace_id, 16) == trace_id_of(run_id, problem.attributes["r2.problem_id"])


def test_no_text_and_no_key_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def run() -> Collector:
        refusal = says(400, '{"error": {"message": "grandmother is refused"}}')
        async with Collector() as collector, Loopback([refusal], answers(SECRET_ANSWER)) as server:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=of-the-collector")
            await answered(tmp_path, server, 2)
            return collector

    collector = asyncio.run(run())
    assert len(collector.named("chat")) == 2
    assert {headers["api-key"] for headers in collector.headers} == {"of-the-collector"}
    for text in ("grandmother", "aquamarine", KEY, "of-the-collector"):
        assert text.encode() not in collector.raw


def test_a_share_of_the_problems_is_sent_each_whole_and_the_same_ones_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def run(collector: Collector) -> None:
        async with tracing("run-1", "cot", dict(os.environ), print):
            for number in range(400):
                with problem_span("run-1", f"q{number}", "cot"):
                    for _ in range(2):
                        attempt_span(Attempt("m", 0, 200, time.time()), Call("m", (("user", "x"),), "solve", 10))

    async def twice() -> tuple[Collector, Collector]:
        async with Collector() as first, Collector() as second:
            for collector in (first, second):
                monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
                await run(collector)
            return first, second

    monkeypatch.setenv(RATIO, "0.1")
    first, second = asyncio.run(twice())
    kept = {span.attributes["r2.problem_id"] for span in first.named("problem")}
    assert 15 <= len(kept) <= 70, "40 of 400 are expected"
    assert kept == {span.attributes["r2.problem_id"] for span in second.named("problem")}
    assert len(first.named("chat")) == 2 * len(kept)
    assert len(first.named("run")) == 1


def test_nothing_is_lost_of_ten_thousand_calls_at_once(monkeypatch: pytest.MonkeyPatch):
    async def run() -> Collector:
        async with Collector() as collector:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
            async with tracing("run-1", "cot", dict(os.environ), print):
                with problem_span("run-1", "q", "cot"):
                    for _ in range(10_000):
                        attempt_span(Attempt("m", 0, 200, 1.0), Call("m", (("user", "x"),), "solve", 10))
                # The end alone has two seconds, which a busy machine may not send them in.
                await until(lambda: len(collector.named("chat")) == 10_000)
            return collector

    assert len(asyncio.run(run()).named("chat")) == 10_000


@pytest.mark.parametrize("how", ["nobody listens", "it refuses", "it is silent"])
def test_a_collector_that_is_away_costs_two_seconds_and_one_line(monkeypatch: pytest.MonkeyPatch, how: str):
    said: list[str] = []

    async def run() -> float:
        async with contextlib.AsyncExitStack() as stack:
            url = f"http://user:password@127.0.0.1:{free_port()}"
            if how == "it refuses":
                url = (await stack.enter_async_context(Collector(status=400))).url
            if how == "it is silent":
                silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # it takes connections, no more
                url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
            async with contextlib.AsyncExitStack() as traced:
                await traced.enter_async_context(tracing("run-1", "cot", dict(os.environ), said.append))
                for number in range(2_000):
                    with problem_span("run-1", f"q{number}", "cot"):
                        attempt_span(Attempt("m", 0, 200, 1.0), Call("m", (("user", "x"),), "solve", 10))
                await until(lambda: bool(said))
                began = time.monotonic()
            return time.monotonic() - began

    assert asyncio.run(run()) < 2.5
    assert len(said) == 1, said
    assert "the collector at http://127.0.0.1:" in said[0]
    assert "password" not in said[0]


def test_without_the_variable_nothing_is_loaded_and_spans_are_no_ones():
    code = (
        "import asyncio, sys; from r2.telemetry.spans import *; from r2.call import Attempt, Call\n"
        "async def run():\n"
        "    async with tracing('r', 'cot', {}, print):\n"
        "        with shard_span('r', 0), problem_span('r', 'q', 'cot') as note:\n"
        "            note({'r2.status': 'answered'})\n"
        "            attempt_span(Attempt('m', 0, 200, 1.0), Call('m', (), 'solve', 1))\n"
        "asyncio.run(run()); print([name for name in sys.modules if 'opentelemetry' in name or 'threading' == name])"
    )
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert "opentelemetry" not in said.stdout


def test_without_the_sdk_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    said: list[str] = []

    async def run() -> None:
        async with tracing("r", "cot", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, said.append):
            with problem_span("r", "q", "cot") as note:
                note({})

    asyncio.run(run())
    assert len(said) == 1
    assert "r2-reasoner[otel]" in said[0]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_spans_are_wanted_where_a_collector_is_named(environ: dict[str, str], expected: bool):
    assert is_wanted(environ) is expected


@pytest.mark.parametrize(("text", "expected"), [("", 1.0), ("0", 0.0), ("0.01", 0.01), (" 1 ", 1.0)])
def test_the_share_is_read(text: str, expected: float):
    assert sampled_share({RATIO: text}) == expected


@pytest.mark.parametrize("text", ["1.1", "-0.1", "all", "nan"])
def test_a_share_that_is_none_is_refused(text: str):
    with pytest.raises(ConfigError, match=RATIO):
        sampled_share({RATIO: text})
