"""Recorded outcome tables in both shapes and three formats, and what is said of bad ones."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2.answering.query_router import pick
from r2.errors import InputFileError
from r2.evaluation.compare import compare
from r2.training.fit_query_router import fit_query_router
from storage.sources.outcome_tables import read_outcome_table

WIDE = """\
sample_id,prompt,eval_name,weak,weak|model_response,weak|total_cost,strong,strong|total_cost,oracle_model_to_route_to
a,2+2?,math,1.0,4,0.001,1.0,0.01,weak
b,17*23?,math,0.0,40,0.002,1.0,0.02,strong
c,Capital of France?,trivia,0.5,Paris?,0.001,1.0,0.01,strong
"""
LONG = [
    {"question": q, "model": m, "correct": right, "cost": cost}
    for q, m, right, cost in [
        ("2+2?", "weak", True, 0.001),
        ("2+2?", "strong", True, 0.01),
        ("17*23?", "weak", False, 0.002),
        ("17*23?", "strong", True, 0.02),
    ]
]


def written(tmp_path: Path, text: str, name: str = "table.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return path


def jsonl(tmp_path: Path, rows: list[dict]) -> Path:
    return written(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "table.jsonl")


def test_a_wide_table_is_read_as_routerbench_publishes_it(tmp_path: Path):
    table = read_outcome_table(written(tmp_path, WIDE))
    assert table.models == ("weak", "strong")
    assert table.is_correct_MP.tolist() == [[1, 0, 0.5], [1, 1, 1]]
    assert table.cost_usd_MP.tolist() == [[0.001, 0.002, 0.001], [0.01, 0.02, 0.01]]
    assert [(p.problem_id, p.question, p.benchmark) for p in table.problems][2] == ("c", "Capital of France?", "trivia")
    assert table.bad == ()


def test_a_long_table_gives_the_same(tmp_path: Path):
    table = read_outcome_table(jsonl(tmp_path, LONG))
    assert table.models == ("weak", "strong")
    assert table.is_correct_MP.tolist() == [[1, 0], [1, 1]]
    assert table.cost_usd_MP.tolist() == [[0.001, 0.002], [0.01, 0.02]]
    assert table.problems[0].question == table.problems[0].problem_id == "2+2?"


def test_parquet_is_read_too(tmp_path: Path):
    pq.write_table(pa.Table.from_pylist(LONG), tmp_path / "table.parquet")
    assert read_outcome_table(tmp_path / "table.parquet").is_correct_MP.tolist() == [[1, 0], [1, 1]]


def test_constants_have_the_tables_accuracy_and_cost(tmp_path: Path):
    weak, strong = read_outcome_table(written(tmp_path, WIDE)).constants()
    assert (weak.label, weak.accuracy, strong.accuracy) == ("weak", 0.5, 1.0)
    assert strong.mean_cost_usd == pytest.approx(0.04 / 3)
    assert weak.difficulty == ("math", "math", "trivia")
    assert weak.model_calls == {"weak": 3.0}


def test_a_router_over_the_table_is_compared_with_its_constants(tmp_path: Path):
    table = read_outcome_table(written(tmp_path, WIDE))
    routed = table.chosen(["weak", "strong", "strong"], "router", "query_router")
    assert routed.is_correct.tolist() == [1, 1, 1]
    assert routed.cost_usd.tolist() == [0.001, 0.02, 0.01]
    assert routed.model_calls_by_difficulty == {"math": {"weak": 1.0, "strong": 1.0}, "trivia": {"strong": 1.0}}
    compared = compare([*table.constants(), routed], constants=["weak", "strong"], subject="router", n_bootstrap=50)
    assert compared["router"].cost_saved.value == pytest.approx(1 - 0.031 / 0.04)
    assert compared.oracle_accuracy == 1.0


def test_a_part_holds_the_problems_asked_for(tmp_path: Path):
    part = read_outcome_table(written(tmp_path, WIDE)).part([2, 0])
    assert [p.problem_id for p in part.problems] == ["c", "a"]
    assert part.is_correct_MP.tolist() == [[0.5, 1], [1, 1]]


def test_what_a_query_level_router_is_fitted_on(tmp_path: Path):
    right, costs = read_outcome_table(written(tmp_path, WIDE)).outcomes_by_model()
    assert right == {"weak": [True, False, True], "strong": [True, True, True]}
    assert costs["weak"] == [0.001, 0.002, 0.001]


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        ("d,q,math,maybe,x,0.001,1,0.01,weak", "weak", "expected 0, 1, true, false or a score between, got 'maybe'"),
        ("d,q,math,1.5,x,0.001,1,0.01,weak", "weak", "expected 0, 1, true, false or a score between, got '1.5'"),
        ("d,q,math,1,x,-1,1,0.01,weak", "weak|total_cost", "expected USD, 0 or more, got -1"),
        ("d,q,math,1,x,0.1,1,,weak", "strong|total_cost", "expected USD, 0 or more, got ''"),
        ("d,,math,1,x,0.1,1,1,weak", "prompt", "expected text, got ''"),
        ("a,q,math,1,x,0.1,1,1,weak", "id", "'a' was already used on line 2"),
        ("d,q", "", "2 fields where the header has 9"),
    ],
)
def test_a_bad_row_is_reported_with_line_and_column_and_the_others_stay(
    tmp_path: Path, row: str, column: str, message: str
):
    table = read_outcome_table(written(tmp_path, WIDE + row + "\n"))
    [bad] = table.bad
    assert (bad.line, bad.column) == (5, column)
    assert message in bad.message
    assert len(table.problems) == 3


def test_a_question_that_lacks_a_model_is_left_out(tmp_path: Path):
    table = read_outcome_table(jsonl(tmp_path, LONG[:3]))
    assert [p.question for p in table.problems] == ["2+2?"]
    assert [(b.line, b.column, b.message) for b in table.bad] == [
        (3, "model", "question '17*23?' has no good row of strong")
    ]


def test_a_model_that_answered_twice_keeps_its_first_answer(tmp_path: Path):
    table = read_outcome_table(jsonl(tmp_path, [*LONG, LONG[2] | {"correct": True}]))
    assert table.is_correct_MP.tolist() == [[1, 0], [1, 1]]
    assert table.bad[0].line == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question,answer\nq,4\n", "neither shape of outcome table.* found question, answer"),
        ("weak,weak|total_cost\n1,0.1\n", "no column question or prompt"),
        ("question,weak|total_cost\nq,0.1\n", r"column 'weak\|total_cost' has no column 'weak'"),
        ("question,model,correct\nq,m,1\n", "no column cost or cost_usd or total_cost"),
        (
            "question,model,correct,cost\nq,m,perhaps,1\n",
            "First of 2 bad rows: line 2, column 'correct': expected 0, 1",
        ),
        ("question,model,correct,cost\n", "no rows"),
    ],
)
def test_a_file_that_is_no_outcome_table_is_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(InputFileError, match=message) as caught:
        read_outcome_table(written(tmp_path, text))
    assert "table.csv" in str(caught.value)


def test_pickles_are_not_opened(tmp_path: Path):
    with pytest.raises(InputFileError, match=r"routerbench\.pkl: a pickle runs code .*to_parquet"):
        read_outcome_table(written(tmp_path, "", "routerbench.pkl"))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InputFileError, match=r"none\.csv: no such file"):
        read_outcome_table(tmp_path / "none.csv")


def test_a_query_level_router_is_fitted_on_one_part_and_compared_on_the_other(tmp_path: Path):
    """The weak model is right on sums and wrong on capitals: a router that reads the question is as right as the strong
    one, cheaper."""
    rows = [
        {
            "question": question,
            "model": model,
            "correct": model == "strong" or "sum" in question,
            "cost": 0.01 if model == "strong" else 0.001,
        }
        for i in range(60)
        for question in (
            f"What is the sum of {i} and {i + 1}?",
            f"Which town is the capital of country {chr(97 + i % 26)}{i}?",
        )
        for model in ("weak", "strong")
    ]
    table = read_outcome_table(jsonl(tmp_path, rows))
    fit, test = table.part(range(60)), table.part(range(60, 120))
    router = fit_query_router(fit.problems, *fit.outcomes_by_model())
    routed = test.chosen([pick(router.p_right(problem), 0.7) for problem in test.problems], "router", "query_router")
    mine = compare([*test.constants(), routed], constants=test.models, subject="router", n_bootstrap=100)["router"]
    assert mine.accuracy.value == 1.0
    assert mine.cost_saved.value == pytest.approx(1 - 0.0055 / 0.01)
