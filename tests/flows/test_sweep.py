"""`r2 policy sweep` on simulated models: from its flags to the files, paid once, refused where it cannot work."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from r2.evaluation.compare import compare
from r2.evaluation.outcomes import MethodOutcomes
from r2.evaluation.sweep import SweepMeasurement, SweepSettings, concluded, points_of
from r2.settings import AnswerSettings
from storage.evaluations.promise import promised
from storage.evaluations.sweeps import read_sweep
from storage.sql.query import connect
from tasks.evaluation.finished import finished_sweep
from tests.support.paths import ROOT
from tests.support.prefect_api import shared_api
from tests.support.prefect_sockets import LEAVES_SOCKETS

SIMULATED = ROOT / "pools/simulated.toml"
pytestmark = LEAVES_SOCKETS


def measured(b: float, accuracy: float, usd: float) -> SweepMeasurement:
    return SweepMeasurement(b, f"run-{b}", accuracy, accuracy, accuracy, usd, usd, usd, 3.0, "small", 0.5)


def outcomes(label: str, correct: list[float], usd: list[float]) -> MethodOutcomes:
    ids = tuple(str(i) for i in range(len(correct)))
    ones = [1.0] * len(correct)
    rest = (ones, ones, ones, ones)
    return MethodOutcomes(label, "r2", ids, ("",) * len(ids), correct, usd, *rest)  # type: ignore[arg-type]


def test_points_carry_means_and_intervals_in_the_order_of_b():
    rows = [outcomes("dear", [1, 1, 1, 1], [0.004] * 4), outcomes("cheap", [1, 0, 1, 0], [0.001] * 4)]
    low, high = points_of(compare(rows), {0.4: "cheap", 0.0: "dear"}, {row.label: row for row in rows})
    assert (low.b, low.accuracy, low.usd_per_1k) == (0.0, 1.0, pytest.approx(4.0))
    assert (high.b, high.accuracy, high.usd_per_1k) == (0.4, 0.5, pytest.approx(1.0))
    assert high.accuracy_low < 0.5 < high.accuracy_high
    assert (low.n_right, high.n_right) == (4, 2)


def test_shares_refer_to_the_best_point_or_to_the_solver_that_was_asked_beside_them():
    points = [measured(0.0, 0.90, 10.0), measured(0.2, 0.80, 4.0)]
    settings = SweepSettings(problems=("scan",), min_accuracy_share=0.95)
    of_best = concluded("s", "completed", settings, 10, points, None, 0.0)
    assert (of_best.reference_accuracy, of_best.advice[0].point.b) == (0.90, 0.0)  # 0.855
    of_solver = concluded("s", "completed", settings, 10, points, 0.84, 0.0)
    assert (of_solver.reference_accuracy, of_solver.advice[0].point.b) == (0.84, 0.2)  # 0.798
    assert of_best.notes == ()


def test_a_knob_that_moves_nothing_is_said():
    same = [measured(0.0, 0.9, 4.0), measured(0.5, 0.9, 4.0)]
    assert "Every b came to the same" in concluded("s", "completed", SweepSettings(), 10, same, None, 0.0).notes[0]


def test_an_allocator_without_log_probabilities_is_refused_before_anything_is_asked(tmp_path: Path):
    pool = tmp_path / "mute.toml"
    pool.write_text(SIMULATED.read_text("utf-8").replace("logprobs = true", "logprobs = false"), "utf-8")
    outcome = CliRunner().invoke(
        app, ["policy", "sweep", "--pool", str(pool), "--problems", "scan", "--lake", str(tmp_path / "lake")]
    )
    assert outcome.exit_code != 0
    assert "'sim-4b' has logprobs = false" in str(outcome.exception)
    assert not (tmp_path / "lake").exists()


@pytest.fixture
def prefect_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("R2_STATE_DIR", str(tmp_path / "state"))
    with shared_api():
        yield


def costs(lake: Path) -> tuple[float, float]:
    """USD of the distinct calls, and of all."""
    with connect(lake) as db:
        [(usd, charged)] = db.execute(
            "select sum(cost_usd) filter (nth = 1), sum(cost_usd) from (select cost_usd, row_number() over "
            "(partition by request_sha) as nth from calls)"
        ).fetchall()
    return float(usd), float(charged)


def test_a_sweep_writes_its_points_and_says_which_b_to_use_and_more_values_pay_for_new_calls_only(
    prefect_api: None, tmp_path: Path
):
    pool, lake = tmp_path / "swift.toml", tmp_path / "lake"
    text = re.sub(
        r"ttft_s = [\d.]+, tokens_per_s = \d+", "ttft_s = 0.0, tokens_per_s = 1e9", SIMULATED.read_text("utf-8")
    )
    pool.write_text(text, "utf-8")

    def swept(b: str) -> str:
        flags = ["--problems", "arithmetic", "--limit", "12", "--budget-usd-per-1k", "9", "--min-accuracy-share", "0.5"]
        flags += ["--target-accuracy", "0.3", "--delta", "0.1"]
        outcome = CliRunner().invoke(
            app, ["policy", "sweep", "--pool", str(pool), "--lake", str(lake), "--b", b, *flags], catch_exceptions=False
        )
        assert outcome.exit_code == 0, outcome.output
        return outcome.output

    said = swept("0,3")
    assert "the most accurate point at no more than 9 USD per 1k problems" in said
    assert re.search(r"Setting [03]: at least 30\.0% are right, with 90\.0% confidence: \d+ of 12 rows", said)
    [file] = (lake / "_sweeps").glob("*.json")
    sweep = read_sweep(lake, file.stem)
    assert [point.b for point in sweep.points] == [0.0, 3.0]
    assert sweep.points[1].usd_per_1k < sweep.points[0].usd_per_1k
    assert (sweep.status, sweep.n_problems) == ("completed", 12)
    with file.with_suffix(".csv").open() as lines:
        assert [float(row["usd_per_1k"]) for row in csv.DictReader(lines)] == [p.usd_per_1k for p in sweep.points]
    usd, charged = costs(lake)
    assert sweep.paid_usd == pytest.approx(usd)
    assert sweep.paid_usd < charged, "who is asked first about a question is asked once for both"
    with connect(lake) as db:
        means = dict(db.execute("select run_id, 1000 * avg(cost_usd) from trajectories group by 1").fetchall())
    assert [p.usd_per_1k for p in sweep.points] == [pytest.approx(means[p.run_id]) for p in sweep.points]
    promise = promised(AnswerSettings(input="q.jsonl", pool=str(pool), lake=str(lake), target_accuracy=0.3, delta=0.1))
    assert promise is not None and promise.floor == sweep.floor
    swept("0,0.2,3")
    more = read_sweep(lake, file.stem)
    assert [point.b for point in more.points] == [0.0, 0.2, 3.0]
    assert more.points[0] == sweep.points[0]
    assert more.paid_usd == pytest.approx(costs(lake)[0]), "what was asked before is not paid again"
    settings = SweepSettings.model_validate(more.settings)
    assert finished_sweep(settings) == more
    assert finished_sweep(settings.model_copy(update={"b": (0.0, 3.0)})) is None
    assert finished_sweep(settings.model_copy(update={"budget_usd_per_1k": 1.0})) is None
