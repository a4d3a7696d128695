"""The shipped comparison: its recording replays to its own figures, and the results page and README say these."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks.headline import is_same
from r2.evaluation.compare import Comparison, from_json
from r2.pool.file.recording import recorded_evaluation
from tests.support.paths import ROOT

RECORDING = ROOT / "benchmarks" / "headline.jsonl.gz"
ROW_OF = {
    "tot (2 thoughts, 1 level)": "tot",
    "decompose_one (qwen-1.5b)": "decompose_one",
    "dot (qwen-1.5b plans)": "dot",
    "random, in tiny's shares": "random",
    "r2, prompted (qwen-1.5b)": "prompted",
    "r2, SFT (SmolLM2 decomposer)": "sft",
    "r2, SFT + GRPO": "grpo",
    "r2, tiny decomposer": "tiny",
}
"""What the page calls a row -> what the evaluation does."""
LINE = re.compile(
    r"^    (?P<row>.+?) {2,}(?P<right>[\d.]+) % \[(?P<low>\d+), (?P<high>\d+)\] +(?P<usd>[\d.]+)(?P<rest>.*)$", re.M
)


@pytest.fixture(scope="module")
def recorded() -> Comparison:
    evaluation = recorded_evaluation(RECORDING)
    assert evaluation is not None
    return from_json(evaluation["comparison"])


def test_the_results_page_says_what_was_recorded(recorded: Comparison):
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    section = page.partition("\n## Real local models\n")[2].partition("\n## ")[0]
    said = {ROW_OF.get(line["row"], line["row"]): line for line in LINE.finditer(section)}
    assert set(said) == {method.label for method in recorded.methods}
    for method in recorded.methods:
        line, right, usd = said[method.label], method.accuracy, method.usd_per_1k
        assert right.interval is not None and usd.interval is not None
        assert line["right"] == f"{100 * right.value:.1f}", method.label
        assert (line["low"], line["high"]) == (f"{100 * right.interval.low:.0f}", f"{100 * right.interval.high:.0f}")
        assert float(line["usd"]) == pytest.approx(usd.value, abs=10 ** -_decimals(line["usd"]) * 0.51), method.label
        saved = re.search(r"([\d.]+) %(?: saved| \[|$)", line["rest"])
        if method.cost_saved is not None and method.cost_saved.value:
            assert saved is not None, method.label
            assert saved[1] == f"{100 * method.cost_saved.value:.1f}", method.label


def test_the_readme_says_what_was_recorded(recorded: Comparison):
    readme = (ROOT / "README.md").read_text("utf-8")
    tiny, best = recorded["tiny"], recorded["cot qwen-1.5b"]
    assert tiny.cost_saved is not None and tiny.cost_saved.interval is not None
    low, high = tiny.cost_saved.interval.low, tiny.cost_saved.interval.high
    assert f"{100 * tiny.cost_saved.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]" in readme
    assert f"{100 * best.accuracy.value:.1f} % [42, 60] at {best.usd_per_1k.value:.3g}" in readme


def test_the_recording_replays_to_every_figure():
    done = subprocess.run(
        [sys.executable, "benchmarks/headline.py"], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Every figure is the one that was recorded." in done.stdout
    assert "tiny: 294 of 294 steps are allocated as by the rule" in done.stdout


def test_a_figure_that_is_off_by_more_than_a_processors_last_digits_is_another_one(recorded: Comparison):
    tiny = recorded["tiny"]
    usd = tiny.usd_per_1k
    assert is_same(tiny, replace(tiny, usd_per_1k=replace(usd, value=usd.value * (1 + 1e-14))))
    assert not is_same(tiny, replace(tiny, usd_per_1k=replace(usd, value=usd.value * (1 + 1e-6))))
    assert not is_same(tiny, replace(tiny, model_shares={**tiny.model_shares, "another": 0.0}))
    assert not is_same(recorded.methods, recorded.methods[1:])


def _decimals(number: str) -> int:
    return len(number.partition(".")[2])
