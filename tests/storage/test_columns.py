"""A table as lines that fit a terminal."""

import pytest

from storage.sql.columns import cut, laid_out

NAMES = ["run_id", "mean_cost_usd", "text"]
CELLS = [["run-a", "0.25", "short"], ["run-b", "12.5", "a text that is rather long"]]
IS_NUMBER = [False, True, False]


def test_a_table_that_fits_is_as_wide_as_its_cells():
    expected = (
        "run_id  mean_cost_usd  text\n"
        "------  -------------  --------------------------\n"
        "run-a            0.25  short\n"
        "run-b            12.5  a text that is rather long\n"
    )
    assert laid_out(NAMES, CELLS, IS_NUMBER) == expected
    assert laid_out(NAMES, CELLS, IS_NUMBER, 49) == expected


def test_headings_break_at_underscores_before_a_text_is_cut():
    assert laid_out(NAMES, CELLS, IS_NUMBER, 41) == (
        "        mean_\n"
        "        cost_\n"
        "run_id    usd  text\n"
        "------  -----  --------------------------\n"
        "run-a    0.25  short\n"
        "run-b    12.5  a text that is rather long\n"
    )


def test_then_texts_are_cut_and_numbers_never():
    assert laid_out(NAMES, CELLS, IS_NUMBER, 34).splitlines()[-1] == "run-b   12.5  a text that is rath…"


def test_rows_stand_one_below_the_other_where_columns_do_not_fit():
    row = ["1234567890", "1234567890", "a text that is rather long"]
    assert laid_out(["a", "bb", "c"], [row, row], [True, True, False], 25) == (
        "--- row 1\n"
        "a   1234567890\n"
        "bb  1234567890\n"
        "c   a text that is rathe…\n"
        "--- row 2\n"
        "a   1234567890\n"
        "bb  1234567890\n"
        "c   a text that is rathe…\n"
    )


def test_and_each_value_below_its_name_where_that_is_too_wide_as_well():
    assert laid_out(["a_name_of_many_words"], [["a text"]], [False], 5) == "--- row 1\na_na…\n  a …\n"


def test_no_line_is_wider_than_the_terminal_whatever_its_width():
    for width in range(9, 60):
        assert max(map(len, laid_out(NAMES, CELLS, IS_NUMBER, width).splitlines())) <= width


def test_room_that_is_left_goes_to_headings():
    names, cells = ["a_long_name", "another_name", "t"], [["1", "2", "x" * 60]]
    head = laid_out(names, cells, [True, True, False], 84).splitlines()
    assert head[0].split() == ["another_"] and head[1].split() == ["a_long_name", "name", "t"]
    assert max(map(len, head)) <= 84


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("漢字漢字", 5, "漢字…"), ("e\u0301a", 2, "e\u0301a"), ("漢字", 4, "漢字")],
)
def test_a_text_is_cut_by_the_room_that_its_signs_take(text: str, width: int, expected: str):
    assert cut(text, width) == expected


def test_an_empty_table_has_its_headings():
    assert laid_out(["run_id"], [], [True], 80) == "run_id\n------\n"
