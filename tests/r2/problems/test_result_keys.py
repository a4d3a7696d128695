"""When two results are the same, by the benchmark's own equality."""

import os
from pathlib import Path

import pytest

from r2.problems.result_keys import result_key
from storage.sources.outcome_tables import read_outcome_table

HOSTED = Path(os.environ.get("R2_DATA_DIR") or "no-such-folder") / "hosted"


@pytest.mark.parametrize(
    ("benchmark", "one", "other"),
    [
        ("gsm8k", "$1,200", "1200.0"),
        ("gsm8k", "The answer is 18", "18"),
        ("grade-school-math", "#### 7", "7"),
        ("cruxeval_output", "'ab'", '"ab"'),
        ("cruxeval_output", "ab c", "'ab c'"),
        ("cruxeval_output", "{'a': 1, 'b': [2]}", '{"b":[2], "a":1}'),
        ("cruxeval_output", "[ -4, 4]", "[-4,4]"),
        ("cruxeval_output", "8.50", "8.5"),
        ("cruxeval_output", "", "''"),
        ("csqa", "A", "a"),
        ("", "The Eiffel Tower.", "eiffel tower"),
    ],
)
def test_these_are_the_same(benchmark: str, one: str, other: str):
    assert result_key(benchmark, one) == result_key(benchmark, other) is not None


@pytest.mark.parametrize(
    ("benchmark", "one", "other"),
    [
        ("gsm8k", "18", "-18"),
        ("gsm8k", "18", "18.5"),
        ("cruxeval_output", "1001", "'1001'"),
        ("cruxeval_output", "True", "1"),
        ("cruxeval_output", "[1, 2]", "(1, 2)"),
        ("cruxeval_output", "[1, 2]", "[2, 1]"),
        ("csqa", "A", "B"),
        ("", "Paris", "Rome"),
    ],
)
def test_these_are_not(benchmark: str, one: str, other: str):
    assert result_key(benchmark, one) != result_key(benchmark, other)


@pytest.mark.parametrize(("benchmark", "text"), [("gsm8k", "no idea"), ("gsm8k", ""), ("", "  "), ("csqa", None)])
def test_these_are_no_results(benchmark: str, text: str | None):
    assert result_key(benchmark, text) is None


@pytest.mark.parametrize("text", ["(" * 500, "1" * 20_000, "\x00", "{1: [}", "lambda: 0", "-" * 3000 + "1"])
def test_any_text_has_a_key(text: str):
    assert result_key("cruxeval_output", text) is not None


@pytest.mark.skipif(not HOSTED.is_dir(), reason="R2_DATA_DIR has no folder hosted/ of recorded answers")
@pytest.mark.parametrize(("name", "at_most"), [("gsm8k", 0), ("cruxeval_output", 5)])
def test_equal_results_of_real_models_are_equally_right(name: str, at_most: int):
    """The check of the recorded answers and this equality part on at most a handful of questions (escapes in unquoted
    texts)."""
    table = read_outcome_table(HOSTED / f"{name}.parquet")
    replies = table.replies
    assert replies is not None
    mixed = [
        at
        for at in range(table.n_problems)
        for number in set(replies.results[:, at].tolist()) - {-1}
        if len(set(table.is_correct_MP[replies.results[:, at] == number, at].tolist())) > 1
    ]
    assert len(set(mixed)) <= at_most
