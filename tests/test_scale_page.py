"""docs/scale.md: what its second table says follows from the unit costs in its first."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.scale_model import UnitCosts, day, read_costs, short, tables, write_into
from tests.support.paths import ROOT

PAGE = (ROOT / "docs/scale.md").read_text("utf-8")
COSTS = UnitCosts(
    calls=4,
    input_tokens=600,
    output_tokens=60,
    usd=0.0001,
    cpu_ms=2.16,
    process_mb=300,
    files_per_shard=6,
    fresh_bytes=1000,
    lake_bytes=400,
    compaction_cpu_ms=0.36,
    journal_calls_per_s=10_000,
    journal_bytes=1500,
    claims_per_s=500,
)
"""Round ones, of which the day is worked by hand below."""


def test_the_pages_tables_are_what_its_unit_costs_give():
    assert tables(read_costs(PAGE)) in PAGE


def test_a_day_is_worked_out_from_unit_costs():
    lines = {line.what: line.figure for line in day(COSTS)}
    by_hand = {
        "questions a second": 1157.41,  # 1e8 / 86,400
        "calls a day, million": 400,
        "calls a second": 4629.63,
        "calls in flight": 9259.26,
        "input tokens a minute, million": 41.6667,  # 6e10 / 1,440
        "output tokens a minute, million": 4.16667,
        "USD a day for models": 10_000,
        "cores of clients": 2.5,  # 216,000 s of CPU in 86,400 s
        "joining processes": 5,  # 2.5 / 0.6 = 4.17
        "calls a second of one process": 925.926,
        "memory of all processes, GB": 1.5,
        "runs": 20,
        "shards": 10_000,
        "files before compaction": 60_000,
        "GB written before compaction": 100,
        "GB a day that stay": 40,
        "TB a year": 14.6,
        "core hours of compaction": 10,  # 36,000 s
        "GB through journals": 600,
        "share of a journal's speed, %": 9.25926,
        "claims a second": 0.115741,
        "grants of limits a second": 25,
    }
    assert lines == {what: pytest.approx(figure, rel=1e-4) for what, figure in by_hand.items()}


def test_a_dearer_question_makes_a_dearer_day():
    before, after = ({line.what: line.figure for line in day(c)} for c in (COSTS, replace(COSTS, usd=0.0002)))
    assert {what for what in before if before[what] != after[what]} == {"USD a day for models"}


def test_the_tables_are_written_between_the_marks_and_read_again(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(PAGE, "utf-8")
    write_into(page, COSTS)
    assert read_costs(page.read_text("utf-8")) == COSTS
    assert re.sub(r"^\|.*\n", "", page.read_text("utf-8"), flags=re.MULTILINE) == re.sub(
        r"^\|.*\n", "", PAGE, flags=re.MULTILINE
    )
    with pytest.raises(ValueError, match="calls a question"):
        read_costs("no table")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0000473834, "0.0000474"),
        (0.115741, "0.116"),
        (7.106, "7.11"),
        (926, "926"),
        (12_345, "12,300"),
        (99_960, "100,000"),
    ],
)
def test_three_digits_count(value: float, text: str):
    assert short(value) == text
