"""What `r2 demo` asks, and in which ways."""

import re

import orjson
import pytest

from benchmarks.demo_questions import questions
from flows.cli.demo import ways_of
from r2.errors import ConfigError
from r2.pool.file.config import load_pool
from tests.support.paths import ROOT

LINES = (ROOT / "flows" / "demo_questions.jsonl").read_bytes().splitlines()
ROWS = [orjson.loads(line) for line in LINES]


def test_there_are_thirty_questions_each_once():
    assert len({row["question"] for row in ROWS}) == len({row["id"] for row in ROWS}) == len(ROWS) == 30


def test_they_are_those_of_the_first_seed():
    assert [dict(row) for row in ROWS] == questions(5, 1)


def test_what_is_to_be_learned_from_is_never_asked():
    asked = {row["question"] for seed in range(1, 6) for row in questions(5, seed)}
    learned = questions(150, 100, to_learn_from=True)
    assert len(learned) == 900
    assert not asked & {row["question"] for row in learned}


@pytest.mark.parametrize("row", [row for row in ROWS if row["benchmark"] == "arithmetic"], ids=lambda row: row["id"])
def test_the_answers_are_right(row: dict):
    if found := re.fullmatch(r"What is ([\d +*()-]+)\?", row["question"]):
        assert eval(found[1]) == row["answer"]
        return
    left, right = re.fullmatch(r"Solve for x: (.+) = (\d+)", row["question"]).groups()
    assert eval(left, {"x": row["answer"]}) == int(right)


def test_it_is_held_against_the_chain_of_thought_and_the_programs_of_the_largest_model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("r2.problems.sandbox.check_sandbox", lambda: None)
    local = load_pool("pools/local.toml").roster()
    cot, program = {"method": "cot", "model": "qwen-1.5b-cot"}, {"method": "program", "model": "qwen-1.5b-program"}
    assert ways_of(local) == [{"method": "r2"}, cot, program]
    routed = {"method": "r2", "scorer": "local-scorer", "value_usd": 0.0003}
    assert ways_of(local, is_default=True) == [routed, cot, program]
    assert ways_of(load_pool("pools/specialists.toml").roster()) == [{"method": "r2"}, cot]

    def none_here() -> None:
        raise ConfigError("no sandbox here.")

    monkeypatch.setattr("r2.problems.sandbox.check_sandbox", none_here)
    assert ways_of(local) == [{"method": "r2"}, cot]
