"""Recorded outcome tables in both shapes and three formats, and what is said of bad ones."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2.answering.query_router import pick
from r2.errors import InputFileError
from r2.evaluation.compare import compare
from r2.training.fit_query_router import fit_query_router
from storage.sources.outcome_tables import read_outcome_table, read_outcome_tables

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


REPLIES = [
    {"id": "q1", "benchmark": "gsm8k", "question": "How many?", "answer": "18", "model": m, "correct": r, "cost": 0.1}
    | more
    for m, r, more in [
        ("a", True, {"output": "It is 18.", "model_answer": "18", "output_tokens": 3, "confidence": 0.9}),
        ("b", True, {"output": "$18.00", "model_answer": "18.00", "output_tokens": None, "confidence": None}),
        ("c", False, {"output": "", "model_answer": None, "output_tokens": 0, "confidence": 0.1}),
    ]
]


def test_replies_results_tokens_and_confidences_are_read(tmp_path: Path):
    table = read_outcome_table(jsonl(tmp_path, [row | {"note": "x"} for row in REPLIES]))
    assert table.replies is not None
    assert table.replies.results.tolist() == [[0], [0], [-1]]
    assert table.replies.texts.tolist() == [["It is 18."], ["$18.00"], [""]]
    assert table.replies.parsed.tolist() == [["18"], ["18.00"], [""]]
    assert table.output_tokens_MP[:, 0].tolist()[::2] == [3, 0]
    assert math.isnan(table.output_tokens_MP[1, 0])
    assert table.confidence_MP[0, 0] == 0.9
    assert table.input_tokens_MP is None
    assert (table.problems[0].target, table.problems[0].benchmark) == ("18", "gsm8k")
    assert table.unused_columns == ("note",)


def test_without_parsed_results_they_are_found_in_the_replies(tmp_path: Path):
    rows = [{key: value for key, value in row.items() if key != "model_answer"} for row in REPLIES]
    assert read_outcome_table(jsonl(tmp_path, rows)).replies.results.tolist() == [[0], [0], [-1]]


def test_the_wide_form_has_replies_too(tmp_path: Path):
    text = (
        "sample_id,prompt,eval_name,weak,weak|model_response,weak|total_cost,strong,strong|model_response,"
        "strong|total_cost\na,2+2?,mmlu,1,['A'],0.1,1,['A'],1\nb,3+3?,mmlu,0,['B'],0.1,1,['C'],1\n"
    )
    table = read_outcome_table(written(tmp_path, text))
    assert table.replies.results.tolist() == [[0, 0], [0, 1]]
    assert table.replies.parsed is None
    assert read_outcome_table(written(tmp_path, WIDE)).replies is None, "one model without replies: nobody agrees"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_tokens": -1}, "expected tokens, 0 or more, got -1"),
        ({"output_tokens": "many"}, "expected tokens, 0 or more, got 'many'"),
        ({"confidence": 1.5}, "expected a confidence between 0 and 1, got 1.5"),
        ({"correct": None}, "expected 0, 1, true, false or a score between, got None"),
        ({"question": "Another?"}, "another question than line 1 has with the id 'q1'"),
    ],
)
def test_a_bad_cell_of_a_reply_is_reported(tmp_path: Path, change: dict, message: str):
    good = [row | {"id": "q0", "question": "Which?"} for row in REPLIES]
    table = read_outcome_table(jsonl(tmp_path, [*REPLIES[:2], REPLIES[2] | change, *good]))
    assert message in table.bad[1 if table.bad[0].line == 1 else 0].message
    assert [p.problem_id for p in table.problems] == ["q0"]


def test_a_cell_that_is_no_number_in_parquet_is_reported_too(tmp_path: Path):
    rows = [row | {"correct": 1.0, "cost": math.nan if row == LONG[2] else 0.1} for row in LONG]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    table = read_outcome_table(tmp_path / "table.parquet")
    assert [p.question for p in table.problems] == ["2+2?"]
    assert "expected USD, 0 or more, got nan" in table.bad[0].message


def test_a_model_without_any_outcome_is_refused_by_name(tmp_path: Path):
    rows = [row | ({"correct": None} if row["model"] == "strong" else {}) for row in LONG]
    with pytest.raises(InputFileError, match="model 'strong' has no outcome on any question"):
        read_outcome_table(jsonl(tmp_path, rows))
    with pytest.raises(InputFileError, match="model 'strong' has no outcome"):
        read_outcome_table(written(tmp_path, "prompt,weak,weak|total_cost,strong,strong|total_cost\nq,1,1,,1\n"))


def test_files_are_joined_over_the_models_that_all_of_them_have(tmp_path: Path):
    one = written(tmp_path, "".join(json.dumps(row | {"id": "7"}) + "\n" for row in REPLIES), "one.jsonl")
    two_rows = [row | {"id": "7", "question": "Else?"} for row in REPLIES if row["model"] != "c"]
    two = written(tmp_path, "".join(json.dumps(row | {"odd": 1}) + "\n" for row in two_rows), "two.jsonl")
    joined = read_outcome_tables([one, two])
    assert joined.table.models == ("a", "b")
    assert [p.problem_id for p in joined.table.problems] == ["7", "two:7"]
    assert joined.table.replies.results.tolist() == [[0, 0], [0, 0]]
    assert [remark.partition(": ")[2] for remark in joined.remarks] == [
        "left out, for not being in every file: c",
        "columns that are not used: odd",
    ]
    again = read_outcome_tables([one, one])
    assert len(again.table.problems) == 1


def test_a_question_that_an_earlier_file_has_is_left_out_and_said(tmp_path: Path):
    one = written(tmp_path, "".join(json.dumps(row) + "\n" for row in REPLIES), "one.jsonl")
    more = [row | {"id": "q2", "question": "New?"} for row in REPLIES]
    two = written(tmp_path, "".join(json.dumps(row) + "\n" for row in [*REPLIES, *more]), "two.jsonl")
    joined = read_outcome_tables([one, two])
    assert [p.problem_id for p in joined.table.problems] == ["q1", "q2"]
    assert "1 questions were in an earlier file already" in joined.remarks[-1]


def test_files_without_a_common_model_are_refused(tmp_path: Path):
    one = written(tmp_path, "".join(json.dumps(row) + "\n" for row in REPLIES), "one.jsonl")
    two = written(tmp_path, "".join(json.dumps(row) + "\n" for row in LONG), "two.jsonl")
    with pytest.raises(InputFileError, match=r"no model is in every file.*one.jsonl: a, b, c; .*two.jsonl: weak, str"):
        read_outcome_tables([one, two])
    with pytest.raises(InputFileError, match="no model of x is in every file"):
        read_outcome_tables([one], ["x"])


def test_a_file_without_replies_takes_those_of_the_others(tmp_path: Path):
    one = written(tmp_path, "".join(json.dumps(row) + "\n" for row in REPLIES), "one.jsonl")
    bare = [{k: v for k, v in row.items() if k in ("model", "correct", "cost")} | {"question": "q"} for row in REPLIES]
    two = written(tmp_path, "".join(json.dumps(row) + "\n" for row in bare), "two.jsonl")
    joined = read_outcome_tables([one, two])
    assert joined.table.replies is None
    assert "two.jsonl: no replies" in joined.remarks[-1]
    assert joined.table.output_tokens_MP[0, 0] == 3
    assert math.isnan(joined.table.output_tokens_MP[0, 1])


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
