"""Allocator rows with the models in other orders: letters follow their models, nothing the answer needs is left out."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2.answering.allocation import format_allocation, parse_allocation
from r2.answering.prompts import allocate_messages
from r2.plan import parse_plan
from r2.problem import Problem
from r2.training.data import ChatRow, chat_row
from r2.training.sft.augment import AllocatorPrompt, augmented, drawn_order, reordered, shuffled_rows, used_models
from r2.training.sft.settings import SftSettings
from storage.runs.label_sets import SCHEMA
from tasks.training.training_rows import training_rows
from tests.support.scripted import ROSTER

PROBLEM = Problem("p", "What is 3 * 4 + 2?", context="A: this line is no model")
PLAN = parse_plan("1. Compute 3 * 4\n2. Add 2 to the result of step 1 (needs: 1)")
SMALL, MIDDLE, LARGE = ROSTER.solvers


def row(problem: Problem = PROBLEM) -> ChatRow:
    return chat_row(allocate_messages(problem, PLAN, ROSTER.solvers), format_allocation(["C", "A"]))


def test_a_reordered_row_is_what_an_allocator_is_asked_with_the_models_in_that_order():
    turned = reordered(row(), [2, 0, 1])
    assert turned == chat_row(allocate_messages(PROBLEM, PLAN, [LARGE, SMALL, MIDDLE]), format_allocation(["A", "B"]))


def test_a_model_that_the_answer_does_not_use_can_be_left_out():
    assert used_models(row()) == {0, 2}
    assert reordered(row(), [2, 0]) == chat_row(
        allocate_messages(PROBLEM, PLAN, [LARGE, SMALL]), format_allocation(["A", "B"])
    )
    with pytest.raises(ValueError, match="uses model A"):
        reordered(row(), [2, 1])


def test_an_order_keeps_every_used_model_and_at_least_two():
    for seed in range(50):
        assert {4, 7} <= set(drawn_order(10, {4, 7}, random.Random(seed), 0.5))
        assert len(drawn_order(10, {4}, random.Random(seed), 1.0)) == 2
    assert drawn_order(1, {0}, random.Random(0), 1.0) == [0]
    assert sorted(drawn_order(10, set(), random.Random(0), 0.0)) == list(range(10))


def test_every_view_means_the_same_models():
    views = augmented([row()], 20, seed=1)
    assert len(views) == 20
    assert views[0] == row()
    cards = {
        AllocatorPrompt.of(allocate_messages(PROBLEM, PLAN, [card])[1][1]).profiles[0]: card for card in ROSTER.solvers
    }
    orders = set()
    for view in views:
        shown = [cards[profile] for profile in AllocatorPrompt.of(view["prompt"][-1]["content"]).profiles]
        orders.add(tuple(card.name for card in shown))
        assert parse_allocation(view["completion"][0]["content"], 2, shown) == ["large", "small"]
    assert {len(order) for order in orders} == {2, 3}
    assert len(orders) >= 6, "both orders of two and most of three"


def test_the_same_seed_gives_the_same_views_and_one_view_changes_nothing():
    rows = [row(), row()]
    assert augmented(rows, 4, seed=3) == augmented(rows, 4, seed=3) != augmented(rows, 4, seed=4)
    assert augmented(rows, 4)[1:4] != augmented(rows, 4)[5:8], "equal rows get views of their own"
    assert augmented(rows, 0) == augmented(rows, 1) == rows


def test_a_shuffled_row_has_all_its_models_in_another_order():
    mixed = shuffled_rows([row(), row()] * 20, seed=1)
    profiles = [AllocatorPrompt.of(one["prompt"][-1]["content"]).profiles for one in mixed]
    as_served = AllocatorPrompt.of(row()["prompt"][-1]["content"]).profiles
    assert {tuple(sorted(one)) for one in profiles} == {tuple(sorted(as_served))}
    assert as_served not in profiles
    assert len(set(profiles)) == 5, "every other order of three"


def test_a_prompt_without_models_is_refused():
    with pytest.raises(ValueError, match="not an allocator's"):
        augmented([chat_row((("system", "plan"), ("user", "Question: 1 + 1")), "DIRECT")], 2)


def test_an_allocator_is_trained_on_further_views_and_examined_on_rows_as_labelled(tmp_path: Path):
    other = Problem("q", "What is 5 * 4 + 2?")
    rows = [
        {**row(problem), "problem_id": f"p{i}", "split": side}
        for i, (problem, side) in enumerate([(PROBLEM, "train"), (PROBLEM, "train"), (other, "test")])
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "allocator.parquet")
    settings = SftSettings(policy="allocator", labels=str(tmp_path), prompt_mode="direct", augment=3)
    found = training_rows(settings, "allocator")
    assert (len(found.train), len(found.held_out)) == (6, 1)
    assert found.train[0] == found.train[3] == row()
    assert found.held_out == [row(other)]
    as_labelled = settings.model_copy(update={"augment": 0})
    assert training_rows(as_labelled, "allocator").train == [row(), row()]
    assert settings.run_id({}) != as_labelled.run_id({}), "other rows are another run"
