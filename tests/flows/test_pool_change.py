"""A changed pool under a router that stays as it is: the changed files, the figures, and a small run on simulated
models."""

import asyncio
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench_pool_change import AS_TRAINED, changes_of, markdown, measured, rows_of
from r2.errors import PoolFileError
from r2.evaluation.outcomes import MethodOutcomes
from r2.evaluation.settings import EvaluateSettings
from r2.pool.file.variants import with_entries, without
from storage.sql.query import connect
from tests.support.paths import ROOT
from tests.support.prefect_sockets import LEAVES_SOCKETS

SIMULATED = (ROOT / "pools/simulated.toml").read_text("utf-8")
ADDED = (ROOT / "benchmarks/added_model.toml").read_text("utf-8")
SWIFT = re.compile(r"ttft_s = [\d.]+, tokens_per_s = \d+")
pytestmark = LEAVES_SOCKETS


def test_a_removed_model_is_no_solver_any_more_and_the_rest_of_the_file_stays():
    changed = without(SIMULATED, ["sim-4b"])
    before, after = tomllib.loads(SIMULATED), tomllib.loads(changed)
    assert after["models"]["sim-4b"].pop("solver") is False
    assert after == before
    assert changed.startswith(SIMULATED.splitlines()[0]), "comments stay"
    with pytest.raises(PoolFileError, match="no model 'sim-9b'"):
        without(SIMULATED, ["sim-9b"])


def test_an_added_model_stands_beside_the_others_and_names_stay_unique():
    after = tomllib.loads(with_entries(SIMULATED, ADDED))
    assert after["models"].pop("sim-new")["profile"]["scan_command"] == 0.79
    assert after == tomllib.loads(SIMULATED)
    with pytest.raises(PoolFileError, match="'sim-new' already"):
        with_entries(with_entries(SIMULATED, ADDED), ADDED)
    with pytest.raises(PoolFileError, match=r"no \[models\.NAME\] table"):
        with_entries(SIMULATED, "[router]\n")


def outcomes(label: str, correct: list[float], usd: float, calls: dict[str, float]) -> MethodOutcomes:
    n = len(correct)
    ones = np.ones(n)
    ids = tuple(str(i) for i in range(n))
    return MethodOutcomes(label, "r2", ids, ("",) * n, np.array(correct), usd * ones, ones, ones, ones, 0 * ones, calls)


def test_every_change_is_held_against_the_pool_as_trained_problem_by_problem():
    trained = outcomes(AS_TRAINED, [1, 1, 1, 0], 0.002, {"small": 6, "large": 2})
    removed = outcomes("without small", [1, 1, 0, 0], 0.003, {"large": 4})
    added = outcomes("with an added model", [1, 1, 1, 0], 0.001, {"small": 3, "new": 1})
    first, second, third = rows_of([trained, removed, added], {"new"})
    assert (first.accuracy_change, first.cost_change, first.top_model, first.top_share) == (0.0, 0.0, "small", 0.75)
    assert (second.accuracy_change, second.cost_change) == (-0.25, pytest.approx(0.5))
    assert second.accuracy_change_interval is not None
    assert -0.75 <= second.accuracy_change_interval.low < second.accuracy_change_interval.high == 0
    assert (third.accuracy_change, third.cost_change, third.new_share) == (0.0, pytest.approx(-0.5), 0.25)
    assert third.accuracy_change_interval is not None
    assert (third.accuracy_change_interval.low, third.accuracy_change_interval.high) == (0, 0), (
        "the same problems right"
    )
    lines = markdown([first, second, third], 4).splitlines()
    assert lines[4].startswith("| as trained | 75.0%")
    assert "| -25.0 [-75, 0] | 3 [3, 3] | +50% | large 100% | 0% |" in lines[5]


def test_a_prompted_allocator_is_asked_about_each_changed_pool_and_a_second_time_only_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("R2_STATE_DIR", str(tmp_path / "state"))
    swift, added = (SWIFT.sub("ttft_s = 0.0, tokens_per_s = 1e9", text) for text in (SIMULATED, ADDED))
    changes, everything = changes_of(swift, added, ["sim-0.6b"], 2, tmp_path / "pools")
    labels = [AS_TRAINED, "without sim-0.6b", "with an added model", "shuffled (2 orders a problem)"]
    assert [change.label for change in changes] == labels
    settings = EvaluateSettings(problems=("scan", "arithmetic"), limit=6, pool="", lake=str(tmp_path / "lake"))
    rows = asyncio.run(measured(settings, changes, everything, None, None))
    assert [row.label for row in rows] == labels
    assert all(row.outcomes.n_problems == 12 for row in rows)
    assert "sim-0.6b" in rows[0].outcomes.model_calls
    assert "sim-0.6b" not in rows[1].outcomes.model_calls
    assert rows[1].cost_change > 0, "without the cheapest model it costs more"
    assert rows[3].outcomes.n_seeds == 2
    n_calls = _n_distinct_calls(tmp_path / "lake")
    again = asyncio.run(measured(settings, changes, everything, None, None))
    assert [row.outcomes.accuracy for row in again] == [row.outcomes.accuracy for row in rows]
    assert _n_distinct_calls(tmp_path / "lake") == n_calls


def _n_distinct_calls(lake: Path) -> int:
    with connect(lake) as db:
        [(n,)] = db.execute("select count(distinct request_sha) from calls").fetchall()
    return int(n)
