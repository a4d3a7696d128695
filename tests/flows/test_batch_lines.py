"""OpenAI Batch lines through a whole run: every field is honoured or its row refused by that name, against an imitation
that refuses what OpenAI refuses."""

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flows.answer_questions import answer_questions
from r2.settings import AnswerSettings
from storage.sql.query import connect
from tests.support.prefect_api import shared_api
from tests.support.prefect_sockets import LEAVES_SOCKETS
from tests.support.providers.imitation import Exchange
from tests.support.providers.openai import OpenAI

pytestmark = LEAVES_SOCKETS
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
MEMORY = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "My name is Ann."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "What is my name?"},
]
SUMMARY = "Summarise in three paragraphs: Rain fell all day. The river rose. People left the town."


def sum_of(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is {number} + 1?"}]


def text(said: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": said}]


BODIES: dict[str, dict[str, Any]] = {
    "turns": {"messages": MEMORY, "metadata": {"k": "v"}, "user": "u", "store": False},
    "limit": {"messages": text(SUMMARY), "max_tokens": 5},
    "new-limit": {"messages": text(SUMMARY), "max_completion_tokens": 6},
    "drawn": {"messages": sum_of(3), "temperature": 0.3, "top_p": 0.9, "seed": 7},
    "stop": {"messages": text(SUMMARY), "stop": ["Part 2"]},
    "three": {"messages": sum_of(5), "n": 3},
    "schema": {
        "messages": text("The city is Bern."),
        "response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA, "strict": True}},
    },
    "open-schema": {
        "messages": text("The city is Rome."),
        "response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": {**SCHEMA, "required": []}}},
    },
    "object": {"messages": text("What is 7 + 1? Answer as JSON."), "response_format": {"type": "json_object"}},
    "logprobs": {"messages": sum_of(8), "logprobs": True, "top_logprobs": 2},
    # Refused, each by its field.
    "tools": {"messages": sum_of(9), "tools": [{"type": "function", "function": {"name": "f"}}]},
    "image": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
    "prefill": {"messages": [*sum_of(1), {"role": "assistant", "content": "It is"}]},
    "unknown": {"messages": sum_of(9), "temprature": 1},
}
REFUSED = {
    "tools": ("unsupported_field", "body.tools"),
    "image": ("bad_message", "body.messages[0].content[0]"),
    "prefill": ("missing_question", "body.messages"),
    "unknown": ("unsupported_field", "body.temprature"),
}
EFFORT = {"effort": {"messages": sum_of(11), "reasoning_effort": "low", "stop": "Z", "temperature": 0.5}}


class Answered:
    """A finished run: its lines by `custom_id`, and what was asked of the imitation."""

    def __init__(self, folder: Path, server: OpenAI, lines: Mapping[str, Any], errors: Mapping[str, Any]) -> None:
        self.folder, self.server, self.lines, self.errors = folder, server, lines, errors

    def choices(self, custom_id: str) -> list[dict[str, Any]]:
        choices: list[dict[str, Any]] = self.lines[custom_id]["response"]["body"]["choices"]
        return choices

    def asked(self, said: str) -> list[Exchange]:
        return [one for one in self.server.requests if one.body["messages"][-1]["content"] == said]

    def query(self, sql: str) -> list[Any]:
        with connect(self.folder / "lake") as db:
            return db.execute(sql).fetchall()


@pytest.fixture(scope="module", autouse=True)
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["R2_STATE_DIR"] = str(tmp_path_factory.mktemp("state"))
    with shared_api():
        yield


async def answered(folder: Path, model: str, bodies: Mapping[str, Any]) -> Answered:
    """One run of these lines, with one model of the imitation."""
    async with OpenAI() as server:
        os.environ["BATCH_LINES_KEY"] = server.key
        (folder / "pool.toml").write_text(
            '[router]\ndecomposer = "m"\nallocator = "m"\n\n'
            + server.entry("m", model, tier="small", key_env="BATCH_LINES_KEY"),
            "utf-8",
        )
        lines = [
            {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-x", **body}}
            for name, body in bodies.items()
        ]
        (folder / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        chosen = {"input": str(folder / "q.jsonl"), "pool": str(folder / "pool.toml"), "lake": str(folder / "lake")}
        settings = AnswerSettings.model_validate({**chosen, "reasoning": {"method": "cot"}})
        out, errors = (await answer_questions(settings)).out
    return Answered(folder, server, _by_id(out), _by_id(errors))


def _by_id(path: Path) -> dict[str, Any]:
    return {line["custom_id"]: line for line in map(json.loads, path.read_text("utf-8").splitlines())}


@pytest.fixture(scope="module")
def run(prefect_api: None, tmp_path_factory: pytest.TempPathFactory) -> Answered:
    return asyncio.run(answered(tmp_path_factory.mktemp("run"), "gpt-4.1-mini", BODIES))


@pytest.fixture(scope="module")
def thinking_run(prefect_api: None, tmp_path_factory: pytest.TempPathFactory) -> Answered:
    return asyncio.run(answered(tmp_path_factory.mktemp("thinking"), "gpt-6-luna", EFFORT))


def test_every_line_comes_back_with_its_id_answered_or_refused_by_the_fields_name(run: Answered):
    assert sorted([*run.lines, *run.errors]) == sorted(BODIES)
    assert {
        name: (line["error"]["code"], REFUSED[name][1] in line["error"]["message"]) for name, line in run.errors.items()
    } == {name: (code, True) for name, (code, _) in REFUSED.items()}


def test_the_conversation_is_sent_as_the_line_has_it(run: Answered):
    [asked] = run.asked("What is my name?")
    assert asked.body["messages"] == MEMORY
    assert not {"metadata", "user", "store"} & asked.body.keys()
    assert run.choices("turns")[0]["message"]["content"] == "Ann"


def test_a_limit_under_either_name_is_the_answers(run: Answered):
    limits = sorted(one.body["max_completion_tokens"] for one in run.asked(SUMMARY))
    assert limits[:2] == [5, 6]
    assert len(limits) == 3, "none is asked again for being cut: the third is the line with stop texts"
    assert [run.choices(name)[0]["finish_reason"] for name in ("limit", "new-limit")] == ["length", "length"]


def test_sampling_parameters_and_stop_texts_reach_the_wire(run: Answered):
    [drawn] = run.asked("What is 3 + 1?")
    assert {name: drawn.body[name] for name in ("temperature", "top_p", "seed")} == {
        "temperature": 0.3,
        "top_p": 0.9,
        "seed": 7,
    }
    [stopped] = [one for one in run.asked(SUMMARY) if "stop" in one.body]
    assert stopped.body["stop"] == ["Part 2"]
    assert "Part 2" not in run.choices("stop")[0]["message"]["content"]


def test_n_answers_are_n_choices_and_are_stored(run: Answered):
    assert [(one["index"], one["message"]["content"]) for one in run.choices("three")] == [(0, "6"), (1, "6"), (2, "6")]
    assert len(run.asked("What is 5 + 1?")) == 3
    [(stored,)] = run.query("select answers from trajectories where problem_id = 'three'")
    assert [one["answer"] for one in json.loads(stored)] == ["6", "6", "6"]


def test_a_form_is_asked_for_and_comes(run: Answered):
    for name, city in (("schema", "Bern"), ("open-schema", "Rome")):
        assert json.loads(run.choices(name)[0]["message"]["content"]) == {"city": city}, name
    [closed], [free] = run.asked("The city is Bern."), run.asked("The city is Rome.")
    assert [one.body["response_format"]["json_schema"]["strict"] for one in (closed, free)] == [True, False]
    [asked] = run.asked("What is 7 + 1? Answer as JSON.")
    assert asked.body["response_format"] == {"type": "json_object"}
    assert isinstance(json.loads(run.choices("object")[0]["message"]["content"]), dict)


def test_log_probabilities_come_back_in_openais_form(run: Answered):
    [token] = run.choices("logprobs")[0]["logprobs"]["content"]
    assert token["token"] == "9" and token["logprob"] <= 0
    assert len(token["top_logprobs"]) == 2
    assert run.choices("turns")[0]["logprobs"] is None


def test_every_attempt_is_on_our_bill_as_on_the_imitations(run: Answered):
    [(cost,)] = run.query("select sum(cost_usd) from calls")
    assert cost == pytest.approx(float(run.server.bill_usd), abs=1e-9)


def test_a_model_that_thinks_gets_the_effort_and_what_it_does_not_take_is_said(thinking_run: Answered):
    [asked] = thinking_run.asked("What is 11 + 1?")
    assert asked.body["reasoning_effort"] == "low"
    assert not {"stop", "temperature"} & asked.body.keys()
    line = thinking_run.lines["effort"]["response"]["body"]
    assert line["choices"][0]["message"]["content"] == "12"
    assert line["notes"] == (
        "stop: not sent, m does not take it; its text ends before the first stop text all the same; "
        "temperature: not sent, m does not take it"
    )
