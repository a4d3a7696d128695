"""The views over labelling, on rows whose values can be worked by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from storage.lake.lake import Lake
from storage.sql.query import connect
from tests.support.lake_rows import labelled, problem, unit_of


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Three labelled problems, the third dropped because no plan was right."""
    tables = labelled(unit_of([0, 1, 2]))
    third = tables["trajectories"][2].problem_id
    tables["trajectories"] = [
        replace(
            t,
            method="label",
            **(
                {"status": "failed", "answer": None, "is_correct": False, "error_type": "label_no_right_plan"}
                if t.problem_id == third
                else {}
            ),
        )
        for t in tables["trajectories"]
    ]
    tables["candidates"] = [c for c in tables["candidates"] if c.problem_id != third or c.kind == "plan"]
    tables["candidates"] = [
        replace(c, is_correct=False, is_target=False) if c.problem_id == third else c for c in tables["candidates"]
    ]
    Lake(tmp_path).commit("run-a", "00000-0", tables)
    return tmp_path


def rows(lake: Path, sql: str) -> list[tuple[object, ...]]:
    with connect(lake) as db:
        return db.execute(sql).fetchall()


def test_yield_counts_what_was_kept_and_why_the_rest_was_dropped(lake: Path):
    assert rows(lake, "select outcome, n_problems, round(problem_share, 3) from label_yield order by outcome") == [
        ("kept", 2, 0.667),
        ("label_no_right_plan", 1, 0.333),
    ]


def test_depth_counts_executions_and_what_the_search_saved(lake: Path):
    found = rows(
        lake,
        "select n_plans, mean_executions, right_at_once_share, found_share, mean_target_cost_usd from search_depth",
    )
    assert found == [(2, 2.0, 1.0, 1.0, 0.001)]


def test_scores_are_shown_with_the_share_of_right_plans_by_quartile(lake: Path):
    found = rows(
        lake, "select sum(n_plans), min(min_score), max(max_score), sum(n_plans * right_share) from score_vs_outcome"
    )
    assert found == [(6, 0.5, 0.6, 2.0)]


def test_calibration_compares_confidence_with_whether_a_small_model_was_enough(lake: Path):
    # Targets are (small, large) at confidences (0.95, 0.4): every easy step is above every hard one.
    # Bins: 0.95 against 1 -> gap 0.05; 0.4 against 0 -> gap 0.4; mean 0.225.
    assert rows(lake, "select n_subtasks, n_easy, auroc, round(ece, 4) from difficulty_calibration") == [
        (4, 2, 1.0, 0.225)
    ]


def test_credit_goes_to_the_subtask_whose_cheaper_model_made_the_answer_wrong(lake: Path):
    assert rows(
        lake, "select subtask_index, tier, n_swaps, n_wrong_swaps from credit where problem_id = 'p0' order by 1"
    ) == [
        (0, "small", 0, 0),
        (1, "large", 1, 1),
    ]


def test_the_books_of_labelled_problems_balance(lake: Path):
    for view in ("reconcile_cost", "reconcile_tokens", "reconcile_counts", "reconcile_duplicates"):
        assert rows(lake, f"from {view}") == [], view


def test_a_candidate_stored_twice_is_found(lake: Path):
    tables = labelled(problem(9))
    tables["candidates"].append(tables["candidates"][0])
    Lake(lake).commit("run-a", "00001-0", tables)
    assert rows(lake, "select what, n from reconcile_duplicates") == [("candidates: allocation", 2)]
