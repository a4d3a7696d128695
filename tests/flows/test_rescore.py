"""Scoring stored answers again: prices, parser and checks change what follows from the stored facts, and never the
facts."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from r2.answering.drive import drive
from r2.call import Call, Completion
from r2.errors import ConfigError
from r2.ledger import Price
from r2.methods import method_named
from r2.problem import Problem
from r2.problems.benchmark import result_in
from r2.records.rows import to_rows
from r2.records.tables import CallRow, SubtaskRow, TrajectoryRow
from r2.roster import Roster
from r2.settings import AnswerSettings
from storage.evaluations.rescore import rescore, rescore_run
from storage.lake.lake import Lake
from storage.runs.plan import plan_run
from tests.support.scripted import ROSTER, completion, router

QUESTIONS = [
    {"id": "sum", "question": "What is 4 + 5?", "answer": "9", "benchmark": "arithmetic"},
    {"id": "word", "question": "Which colour is the sky?", "answer": "blue"},
    {"id": "void", "question": "Say nothing.", "answer": "something"},
]
REPLIES = {"sum": "4 + 5 is\nAnswer: 9", "word": "It is blue\nThe colour: Blue.", "void": ""}


def doubled(price: Price) -> Price:
    return Price(2 * price.input, 2 * price.cached_input, 2 * price.output, "2026-11-02", "doubled")


DOUBLE = Roster(replace(card, price=doubled(card.price)) for card in ROSTER.by_name.values())


@pytest.fixture
def answered(tmp_path: Path) -> tuple[Lake, str]:
    """Three questions answered by the model `large` in the lake: one right, one wrong for want of a mark, one without
    any text."""
    source = tmp_path / "q.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), "utf-8")
    settings = AnswerSettings.model_validate(
        {"input": str(source), "lake": str(tmp_path / "lake"), "reasoning": {"method": "cot", "model": "large"}}
    )
    plan = plan_run(settings, "the pool's digest")
    lake, asked = Lake(tmp_path / "lake"), router(method="cot", model="large")
    trajectories: list[TrajectoryRow] = []
    subtasks: list[SubtaskRow] = []
    calls: list[CallRow] = []
    for problem, _ in plan.rows(0):

        async def complete(call: Call, problem: Problem = problem) -> Completion:
            return completion(REPLIES[problem.problem_id], call.model)

        trajectory = asyncio.run(drive(problem, method_named("cot").run(problem, asked), complete))
        row, its_subtasks, its_calls = to_rows(plan.run_id, "cot", trajectory, ROSTER)
        trajectories.append(row)
        subtasks.extend(its_subtasks)
        calls.extend(its_calls)
    lake.commit(plan.run_id, "00000-0", {"trajectories": trajectories, "subtasks": subtasks, "calls": calls})
    return lake, plan.run_id


def test_doubled_prices_double_every_cost_and_change_no_answer(answered: tuple[Lake, str]):
    lake, run_id = answered
    rows = list(rescore_run(lake, run_id, prices=DOUBLE, parser=result_in))
    # 10 prompt tokens at 10 and 5 generated ones at 20 USD per million tokens.
    assert [row.old_cost_usd for row in rows] == pytest.approx([0.0002] * 3)
    assert [row.cost_usd for row in rows] == pytest.approx([0.0004] * 3)
    assert not [row for row in rows if row.is_changed]


def test_a_chain_of_thought_is_charged_as_the_entry_that_thinks_step_by_step(answered: tuple[Lake, str]):
    lake, run_id = answered
    told_apart = [replace(card, weights=name, prompt_mode="direct") for name, card in ROSTER.by_name.items()]
    twin = replace(DOUBLE["large"], name="large-cot", prompt_mode="cot", weights="large", is_solver=False)
    rows = list(rescore_run(lake, run_id, prices=Roster([*told_apart, twin])))
    assert [row.old_cost_usd for row in rows] == pytest.approx([0.0002] * 3)
    assert [row.cost_usd for row in rows] == pytest.approx([0.0004] * 3)


def test_another_parser_reads_the_stored_texts_and_the_checks_judge_what_it_read(answered: tuple[Lake, str]):
    lake, run_id = answered

    def after_the_colon(problem: Problem, text: str) -> str:
        return text.rpartition(":")[2].strip()

    rows = {row.problem_id: row for row in rescore_run(lake, run_id, parser=after_the_colon)}
    assert (rows["sum"].answer, rows["sum"].is_correct) == ("9", True)
    assert (rows["word"].old_answer, rows["word"].old_is_correct) == ("It is blue\nThe colour: Blue.", False)
    assert (rows["word"].answer, rows["word"].is_correct) == ("Blue.", True)
    assert (rows["void"].answer, rows["void"].is_correct) == (None, False)
    assert [name for name, row in rows.items() if row.is_changed] == ["word"]


def test_the_raw_body_is_what_is_read_where_there_is_one(tmp_path: Path, answered: tuple[Lake, str]):
    lake, run_id = answered
    [batch] = lake.iter_rows("calls", run_id)
    body = json.dumps({"choices": [{"message": {"content": "Answer: 8"}, "finish_reason": "stop"}]}).encode()
    first = batch.to_pylist()[0]
    first |= {"raw_body": body, "started_at": first["started_at"].timestamp()}
    [others] = lake.iter_rows("trajectories", run_id)
    trajectory = others.to_pylist()[0]
    trajectory |= {"started_at": trajectory["started_at"].timestamp()}
    other = Lake(tmp_path / "other")
    plan = plan_run(AnswerSettings(input=str(tmp_path / "q.jsonl"), lake=str(tmp_path / "other")), "digest")
    rows = {
        "trajectories": [TrajectoryRow(**trajectory | {"run_id": plan.run_id})],
        "calls": [CallRow(**first | {"run_id": plan.run_id})],
    }
    other.commit(plan.run_id, "00000-0", rows)
    [row] = rescore_run(other, plan.run_id, parser=result_in)
    assert (row.old_answer, row.answer, row.is_correct) == ("9", "8", False)


def test_utility_charges_dollars_and_seconds(answered: tuple[Lake, str]):
    lake, run_id = answered
    first = next(rescore_run(lake, run_id, prices=DOUBLE, lambda_usd=1000, lambda_s=0.1))
    # Right; 0.5 s on the wire and 0.1 s in a queue.
    assert first.old_utility == pytest.approx(1 - 1000 * 0.0002 - 0.1 * 0.6)
    assert first.utility == pytest.approx(1 - 1000 * 0.0004 - 0.1 * 0.6)


def test_the_new_scores_are_a_file_and_the_stored_rows_stay_as_they_are(answered: tuple[Lake, str]):
    lake, run_id = answered
    before = {path: path.read_bytes() for path in lake.root.rglob("*") if path.is_file()}
    done = rescore(lake, run_id, prices=DOUBLE)
    assert done.path.parent == lake.root / "_rescored"
    assert pq.read_table(done.path)["cost_usd"].to_pylist() == pytest.approx([0.0004] * 3)
    assert {path: path.read_bytes() for path in before} == before
    assert rescore(lake, run_id, prices=DOUBLE).path == done.path, "the same scores are the same file"


def test_a_model_without_a_price_and_a_run_that_is_not_there_are_named(answered: tuple[Lake, str]):
    lake, run_id = answered
    with pytest.raises(ConfigError, match="no price for 'large'"):
        rescore(lake, run_id, prices=Roster([DOUBLE["small"]]))
    with pytest.raises(ConfigError, match=run_id):
        rescore(lake, "cot-of-nobody")
