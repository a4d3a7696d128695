"""`make providers`: mixed rows on one pool of strict imitations, answered whole and billed as they bill."""

import asyncio
import json
from pathlib import Path

import pytest

from benchmarks.providers import defect, rows, run
from tests.support.prefect_sockets import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS


def test_every_kind_of_row_is_answered_whole_by_a_pool_that_says_nothing_of_its_models_and_the_bills_are_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert asyncio.run(run(24, tmp_path, is_plain=True)) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "24 rows, 0 failed or not whole; 0 bills differ" in said
    assert said.count("none") == 6, "one line for each provider"


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("sum", "41"),
        ("summary", "Part 1 of 3. It ends here"),
        ("json", '{"city": "Oslo"}'),
        ("json", "}"),
        ("code", "def double_3(values):"),
        ("conversation", "Noted."),
        ("choice", "C"),
    ],
)
def test_a_wrong_or_cut_answer_is_seen(kind: str, answer: str):
    row = next(row for row in rows(6) if row["kind"] == kind)
    assert defect(row, {"status": "answered", "answer": answer}) is not None
    assert defect(row, {"status": "failed", "error_message": "no"}) == "failed: no"


def test_a_right_answer_passes():
    row = next(row for row in rows(6) if row["kind"] == "json")
    pretty = json.dumps(json.loads(row["expected"]), indent=2)
    assert defect(row, {"status": "answered", "answer": pretty}) is None
