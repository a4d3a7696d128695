"""Free text from a strict imitation of a provider to the answers file and the lake: every answer whole."""

import asyncio
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.answer_questions import RunResult, answer_questions
from r2.errors import ConfigError
from r2.settings import AnswerSettings
from storage.runs.plan import plan_run, read_plan
from storage.sql.query import connect
from tests.support.prefect_api import shared_api
from tests.support.prefect_sockets import LEAVES_SOCKETS
from tests.support.providers.brain import LAST_WORDS
from tests.support.providers.openai import OpenAI

pytestmark = LEAVES_SOCKETS
LIST = "- Rhine\n- Nile\n\n- Amur"
OBJECT = '{\n  "name": "Ann",\n  "age": 31\n}'
CODE = "```python\nx = 1\n\n\ny = 2\n```"
ROWS: list[dict[str, Any]] = [
    {"id": "list", "question": f"Copy this exactly:\n{LIST}"},
    {"id": "object", "question": f"Copy this exactly:\n{OBJECT}"},
    {"id": "code", "question": f"Copy this exactly:\n{CODE}"},
    {"id": "summary", "question": "Summarize in three paragraphs: Rivers run. Seas wait. Rain falls. Ice melts."},
    {"id": "sum", "question": "What is 17 + 25?", "answer": "42"},
    {"id": "steps", "question": "What is 17 + 25, then add 8", "answer": "50"},
    {"id": "bench", "question": "What is 6 * 7?", "answer": "42", "benchmark": "arithmetic"},
]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", autouse=True)
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("R2_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        with shared_api():
            yield


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_rows(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def settings(name: str, out: str, **reasoning: Any) -> AnswerSettings:
    return AnswerSettings.model_validate(
        {"input": name, "pool": "pool.toml", "lake": "lake", "out": out, "reasoning": reasoning}
    )


async def answered(openai: OpenAI, *runs: AnswerSettings) -> list[RunResult]:
    tables = '[router]\ndecomposer = "mini"\nallocator = "mini"\n'
    entry = openai.entry("mini", "gpt-4.1-mini", tier="small", key_env="IMITATED_KEY")
    Path("pool.toml").write_text(f"{tables}\n{entry}", "utf-8")
    return [await answer_questions(run) for run in runs]


def lines(path: str) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in map(json.loads, Path(path).read_text("utf-8").splitlines())}


def test_every_answer_is_whole_in_each_file_and_in_the_lake(monkeypatch: pytest.MonkeyPatch):
    write_rows("q.jsonl", ROWS)
    outs = ("a.jsonl", "a.csv", "a.parquet")

    async def run() -> None:
        async with OpenAI() as openai:
            monkeypatch.setenv("IMITATED_KEY", openai.key)
            [result, *_] = await answered(openai, *(settings("q.jsonl", out) for out in outs))
            assert result.summary.cost_usd == pytest.approx(float(openai.bill_usd), abs=1e-9)

    asyncio.run(run())
    got = lines("a.jsonl")
    assert {row["status"] for row in got.values()} == {"answered"}
    assert [got[name]["answer"] for name in ("list", "object", "code")] == [LIST, OBJECT, CODE]
    assert got["summary"]["answer"].count("\n\n") == 3 and got["summary"]["answer"].endswith(LAST_WORDS)
    assert [(got[name]["short_answer"], got[name]["is_correct"]) for name in ("sum", "steps")] == [
        ("42", True),
        ("50", True),
    ]
    assert (got["list"]["short_answer"], got["bench"]["short_answer"], got["bench"]["answer"]) == (None, None, "42")
    whole = {name: row["answer"] for name, row in got.items()}
    with Path("a.csv").open(encoding="utf-8", newline="") as file:
        assert {row["id"]: row["answer"] for row in csv.DictReader(file)} == whole
    assert {row["id"]: row["answer"] for row in pq.read_table("a.parquet").to_pylist()} == whole
    with connect("lake") as db:
        assert dict(db.execute("select problem_id, answer from trajectories").fetchall()) == whole
        [(text,)] = db.execute(
            "select input_messages from calls where problem_id = 'list' and purpose = 'solve'"
        ).fetchall()
        assert json.loads(text) == [["user", ROWS[0]["question"]]], "the user's own words, and nothing else"
        finals = db.execute("select problem_id from calls where purpose = 'final'").fetchall()
        assert finals == [("steps",)], "a plan ends with a final call, a benchmark's row with its last step"


def test_a_schema_and_a_system_text_are_kept_to_and_the_value_comes_back(monkeypatch: pytest.MonkeyPatch):
    people = [
        {"id": "ann", "question": "The name is Ann, the age is 31."},
        {"id": "ben", "question": "name: Ben, age: 7"},
    ]
    write_rows("p.jsonl", people)
    Path("person.json").write_text(json.dumps(PERSON), "utf-8")
    Path("clerk.txt").write_text("You are a clerk.\n", "utf-8")
    wanted = {"method": "cot", "schema_file": "person.json", "system_file": "clerk.txt"}

    async def run() -> None:
        async with OpenAI() as openai:
            monkeypatch.setenv("IMITATED_KEY", openai.key)
            outs = ("a.jsonl", "a.csv", "a.parquet")
            await answered(openai, *(settings("p.jsonl", out, **wanted) for out in outs))
            asked = openai.requests[0].body
            assert asked["messages"][0]["content"].startswith("You are a clerk.\n\n")
            assert asked["response_format"]["type"] == "json_schema"
            assert len(openai.requests) == 2, "other files of the same answers ask nothing"
            Path("clerk.txt").write_text("You are a judge.\n", "utf-8")
            await answered(openai, settings("p.jsonl", "b.jsonl", **wanted))
            assert len(openai.requests) == 4, "another system text is another run"

    asyncio.run(run())
    values = {"ann": {"name": "Ann", "age": 31}, "ben": {"name": "Ben", "age": 7}}
    assert {name: row["value"] for name, row in lines("a.jsonl").items()} == values, "a value, and no text"
    with Path("a.csv").open(encoding="utf-8", newline="") as file:
        assert {row["id"]: json.loads(row["value"]) for row in csv.DictReader(file)} == values
    assert {row["id"]: json.loads(row["value"]) for row in pq.read_table("a.parquet").to_pylist()} == values
    with connect("lake") as db:
        stored = db.execute("select distinct problem_id, value from trajectories").fetchall()
    assert {name: json.loads(value) for name, value in stored} == values
    Path("person.json").write_text('{"type": "objct"}', "utf-8")
    with pytest.raises(ConfigError, match=r"--schema person.json: not a JSON Schema: \$.type"):
        asyncio.run(answer_questions(settings("p.jsonl", "c.jsonl", **wanted)))


def test_a_run_of_short_answers_that_an_earlier_version_planned_is_not_gone_on_with(tmp_path: Path):
    write_rows("q.jsonl", ROWS[:2])
    write_rows("b.jsonl", ROWS[-1:])
    for name, is_continued in (("q.jsonl", False), ("b.jsonl", True)):
        chosen = settings(name, "a.jsonl")
        first = plan_run(chosen, "digest")
        manifest = first.run_dir / "manifest.json"
        stored = json.loads(manifest.read_bytes())
        assert stored.pop("answers_whole") is True
        manifest.write_text(json.dumps(stored), "utf-8")
        assert read_plan(first.run_dir).answers_whole is False
        again = plan_run(chosen, "digest")
        assert (again.run_id == first.run_id) is is_continued
        assert plan_run(chosen, "digest").run_id == again.run_id
