"""What the views make of the rule's decisions."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from storage.lake.lake import Lake
from storage.sql.query import connect
from tests.support.lake_rows import problem


def decision(action: str, q: float, reason: str, n: int, arm: str | None = None, step: int | None = None) -> Any:
    candidates = [{"arm": "large", "cost_usd": 0.1, "p_right": 0.9, "p1": 0.9, "p0": 0.8, "value_usd": 4.2}]
    return {
        "subtask_index": step,
        "n_attempts": n,
        "action": action,
        "arm": arm,
        "q": q,
        "v_usd": 5.0,
        "value_usd": 4.5,
        "cost_usd": 0.01,
        "reason": reason,
        "candidates": candidates if arm else [],
    }


ASKED = [decision("ask", 0.0, "no_result_yet", 0, "small"), decision("ask", 0.6, "worth_asking", 1, "large")]


@pytest.fixture
def query(tmp_path: Path) -> Callable[[str], list[tuple[Any, ...]]]:
    """Two questions answered at once, the second wrong; one by a plan; one that was routed by the allocator."""
    ends = [
        (True, [*ASKED, decision("accept", 0.97, "not_worth_more", 2)]),
        (False, [*ASKED[:1], decision("accept", 0.96, "nobody_left", 1)]),
        (
            True,
            [decision("decompose", 0.0, "plan_worth_more", 0), decision("accept", 0.99, "not_worth_more", 1, step=1)],
        ),
        (True, None),
    ]
    for index, (is_correct, made) in enumerate(ends):
        tables = problem(index)
        stored = None if made is None else orjson.dumps(made).decode()
        tables["trajectories"][0] = replace(tables["trajectories"][0], is_correct=is_correct, decisions=stored)
        Lake(tmp_path).commit("run-a", f"0000{index}-0", tables)

    def rows(sql: str) -> list[tuple[Any, ...]]:
        with connect(tmp_path) as connection:
            return connection.execute(sql).fetchall()

    return rows


def test_decisions_are_rows_in_their_order(query):
    assert query(
        "select decision_index, subtask_index, n_attempts, action, arm, q, v_usd, value_usd, cost_usd, reason, "
        "candidates[1].value_usd from decisions where problem_id = 'p0' order by 1"
    ) == [
        (0, None, 0, "ask", "small", 0.0, 5.0, 4.5, 0.01, "no_result_yet", 4.2),
        (1, None, 1, "ask", "large", 0.6, 5.0, 4.5, 0.01, "worth_asking", 4.2),
        (2, None, 2, "accept", None, 0.97, 5.0, 4.5, 0.01, "not_worth_more", None),
    ]
    assert query("select count(*), count(distinct problem_id) from decisions") == [(7, 3)]


def test_beliefs_are_held_against_what_was_right(query):
    [(q_range, n, mean_q, accuracy)] = query("select q_range, n_questions, mean_q, accuracy from calibration")
    assert (q_range, n, mean_q, accuracy) == ("0.95 to 0.99", 2, pytest.approx(0.965), 0.5)


def test_why_nobody_else_was_asked_is_counted(query):
    assert query("select action, reason, n_units, mean_attempts, mean_q from stop_reasons order by 1, 2") == [
        ("accept", "nobody_left", 1, 1.0, 0.96),
        ("accept", "not_worth_more", 2, 1.5, pytest.approx(0.98)),
        ("decompose", "plan_worth_more", 1, 0.0, 0.0),
    ]
