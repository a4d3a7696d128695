"""Off-policy estimates: worked weights, refusals, coverage of the simulated truth, and reading logs from a lake."""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.bench_offpolicy import coverage, known_plans, simulate_log, target, true_values
from r2.errors import LakeError, SupportError
from r2.evaluation.offpolicy import (
    LoggedStep,
    LoggedTrajectory,
    _student,
    accuracy,
    cost_usd,
    cross_fitted,
    estimate_value,
    fit_additive,
    support_of,
    utility,
)
from r2.records.tables import Candidate
from storage.lake.lake import Lake
from storage.runs.offpolicy_logs import at_temperature, read_offpolicy_logs
from tests.support.lake_rows import RUN, problem, together

EVEN = {"small": 0.5, "large": 0.5}


def logged(problem_id: str, models: str, is_correct: float, cost: float = 1.0) -> LoggedTrajectory:
    """A trajectory whose steps' models (s or l) were drawn evenly."""
    names = {"s": "small", "l": "large"}
    return LoggedTrajectory(problem_id, tuple(LoggedStep(names[m], EVEN) for m in models), is_correct, cost)


def mostly_large(one: LoggedTrajectory) -> list[dict[str, float]]:
    return [{"small": 0.2, "large": 0.8} for _ in one.steps]


WORKED = [logged("a", "s", 0), logged("b", "l", 1), logged("c", "ll", 1), logged("d", "sl", 0)]
"""Weights under `mostly_large`: 0.4, 1.6, 2.56, 0.64; their sum is 5.2."""


def worked(outcome=accuracy, **options):
    return estimate_value(WORKED, mostly_large, outcome, min_ess=1, **options)


def test_a_weight_is_the_product_over_the_subtasks():
    support, weights = support_of(WORKED, mostly_large)
    assert weights == pytest.approx([0.4, 1.6, 2.56, 0.64])
    assert support.ess == pytest.approx(5.2**2 / (0.16 + 2.56 + 6.5536 + 0.4096))
    assert (support.mean_weight, support.max_weight) == (pytest.approx(1.3), pytest.approx(2.56))
    assert support.unsupported_mass == support.unsupported_decisions == support.clipped_share == 0


def test_ips_and_snips_by_hand():
    values = worked()
    assert values.logged.value == 0.5
    assert values.ips.value == pytest.approx((1.6 + 2.56) / 4)
    assert values.snips.value == pytest.approx((1.6 + 2.56) / 5.2)


def test_the_doubly_robust_value_by_hand():
    """An outcome model that says 0.25 whatever is chosen: 0.25 + mean of w * (outcome - 0.25)."""
    values = worked(fit=lambda logs, outcomes: lambda one, distributions: 0.25)
    corrections = [0.4 * -0.25, 1.6 * 0.75, 2.56 * 0.75, 0.64 * -0.25]
    assert values.doubly_robust.value == pytest.approx(0.25 + sum(corrections) / 4)


def test_weights_are_clipped_on_request_and_the_share_is_reported():
    values = worked(max_weight=1.0)
    assert values.support.clipped_share == 0.5
    assert values.ips.value == pytest.approx((1 + 1) / 4)


def test_the_logging_allocator_itself_has_the_logged_value():
    values = estimate_value(WORKED, lambda one: [EVEN] * len(one.steps), min_ess=4)
    assert values.ips.value == values.snips.value == values.logged.value == 0.5
    assert values.support.ess == pytest.approx(4)


def test_utility_weighs_accuracy_against_cost():
    assert utility(0.1)(logged("a", "s", 1, cost=3.0)) == pytest.approx(0.7)
    assert cost_usd(logged("a", "s", 1, cost=3.0)) == 3.0


def test_students_quantile_agrees_with_scipy():
    for freedom in (3, 5, 10, 100, 1000):
        assert _student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=0.03)


def test_the_interval_of_a_mean_by_hand():
    """Outcomes 0, 1, 1, 0: standard error of the mean with n - 1 is 0.28868; no skewness; kurtosis 1, so the normal
    quantile all but stands."""
    interval = worked().logged.interval
    error = np.std([0, 1, 1, 0], ddof=1) / 2
    assert interval.high - 0.5 == pytest.approx(0.5 - interval.low)
    assert interval.high - 0.5 == pytest.approx(stats.t.ppf(0.975, 16) * error, abs=1e-4)


def test_rollouts_of_one_problem_count_once_in_the_interval():
    """Each problem logged ten times says no more about the spread over problems than once."""
    again = [one for one in WORKED for _ in range(10)]
    once, tenfold = worked(), estimate_value(again, mostly_large, min_ess=1)
    assert tenfold.ips.interval.low == pytest.approx(once.ips.interval.low)
    assert tenfold.ips.interval.high == pytest.approx(once.ips.interval.high)
    assert tenfold.support.n_problems == 4


def test_the_bootstrap_interval_agrees_with_the_normal_one_on_a_large_log():
    logs = simulate_log(known_plans(100), 400, 3)
    normal = estimate_value(logs, target).snips
    resampled = estimate_value(logs, target, interval="bootstrap").snips
    assert resampled.value == normal.value
    assert resampled.interval.low == pytest.approx(normal.interval.low, abs=0.02)
    assert resampled.interval.high == pytest.approx(normal.interval.high, abs=0.02)


def test_the_additive_model_finds_the_effect_of_each_model_and_skill():
    logs = [
        LoggedTrajectory(f"p{i}", (LoggedStep(m, EVEN, "add"),), 0.0, c)
        for i, (m, c) in enumerate([("small", 1.0), ("large", 5.0)] * 50)
    ]
    model = fit_additive(logs, np.array([one.cost_usd for one in logs]), ridge=1e-9)
    assert model(logs[0], [{"small": 1.0}]) == pytest.approx(1)
    assert model(logs[0], [{"small": 0.25, "large": 0.75}]) == pytest.approx(4)


def test_no_problem_is_predicted_by_a_model_that_saw_it():
    logs = [logged(f"p{i // 2}", "s", 1) for i in range(12)]
    seen = []

    def fit(train, outcomes):
        seen.append({one.problem_id for one in train})
        return lambda one, distributions: float(one.problem_id in seen[-1])

    expected, fitted = cross_fitted(logs, np.ones(12), mostly_large, fit, 3, 0)
    assert len(seen) == 3
    assert not expected.any()
    assert not fitted.any()


def test_choices_that_were_never_logged_are_refused():
    certain = [LoggedTrajectory(f"p{i}", (LoggedStep("small", {"small": 1.0}),), 1, 1.0) for i in range(200)]
    with pytest.raises(
        SupportError, match=r"200 logged trajectories, .* 80\.0% of the candidate's trajectories"
    ) as caught:
        estimate_value(certain, mostly_large)
    assert "Log with an allocator that samples" in str(caught.value)
    assert support_of(certain, mostly_large)[0].unsupported_decisions == 1


def test_too_few_logs_like_the_candidate_are_refused():
    with pytest.raises(SupportError, match=r"effective sample size 2\.8, at least 50 needed; .* Log more"):
        estimate_value(WORKED, mostly_large)
    with pytest.raises(SupportError, match="0 logged trajectories"):
        estimate_value([], mostly_large)


def test_a_choice_with_no_probability_of_its_own_is_refused():
    with pytest.raises(SupportError, match="'small' was chosen with probability 0"):
        support_of([LoggedTrajectory("a", (LoggedStep("small", {"large": 1.0}),), 1, 1.0)], mostly_large)


@functools.cache
def covered():
    """Hundred logs of the simulated pool."""
    return coverage(known_plans(300), accuracy, 100, 400)


@pytest.mark.parametrize("estimator", ["ips", "snips", "doubly_robust"])
def test_intervals_cover_the_true_accuracy_in_90_of_100_simulated_logs(estimator: str):
    assert covered()[0][estimator] >= 90


def test_averaging_the_logged_outcomes_misses_the_true_accuracy():
    counts, values = covered()
    truth = true_values(known_plans(300))[accuracy]
    assert counts["logged"] <= 40
    assert np.mean([one.logged.value for one in values]) < truth - 0.03


def test_the_outcome_model_narrows_the_interval_of_the_cost():
    values = estimate_value(simulate_log(known_plans(300), 500, 1), target, cost_usd)
    width = {
        name: getattr(values, name).interval.high - getattr(values, name).interval.low
        for name in ("snips", "doubly_robust")
    }
    assert width["doubly_robust"] < 0.6 * width["snips"]


def test_propensities_follow_the_temperature_of_the_allocators_call():
    assert at_temperature({"small": 0.8, "large": 0.2}, 1.0, "small") == pytest.approx({"small": 0.8, "large": 0.2})
    assert at_temperature({"small": 0.8, "large": 0.2}, 0.5, "small") == pytest.approx(
        {"small": 16 / 17, "large": 1 / 17}
    )
    assert at_temperature({"small": 0.8, "large": 0.2}, 0.0, "large") == {"large": 1.0}


def stored(root: Path, *, temperature: float, config: str = "{}", propensity: float | None = 0.1, **changes) -> Lake:
    """A run of one problem with two subtasks, both given to small with probability 0.9 at temperature 1."""
    lake, rows = Lake(root), problem(0, **changes)
    candidates = (
        Candidate("small", -0.1, None if propensity is None else 1 - propensity, 0.0),
        Candidate("large", None, propensity, 0.0),
    )
    rows["subtasks"] = [replace(row, candidates=candidates) for row in rows["subtasks"]]
    rows["calls"] = [
        replace(rows["calls"][0], purpose="allocate", temperature=temperature),
        *(replace(row, temperature=0.0) for row in rows["calls"][1:]),
    ]
    lake.commit("run-a", "00000-0", together(rows))
    lake.commit("run-a", "session-0000", {"runs": [replace(RUN, config=config)]})
    return lake


def test_a_run_of_a_sampling_allocator_is_read_with_its_propensities(tmp_path: Path):
    [one] = read_offpolicy_logs(stored(tmp_path, temperature=1.0), "run-a").trajectories
    assert (one.problem_id, one.is_correct, one.cost_usd) == ("p0", 1.0, 0.0012)
    assert [step.model for step in one.steps] == ["small", "small"]
    assert one.steps[0].propensities == pytest.approx({"small": 0.9, "large": 0.1})
    assert one.steps[0].skill == "arithmetic"


@pytest.mark.parametrize(("temperature", "config"), [(0.0, "{}"), (1.0, '{"reasoning": {"b": 0.5}}')])
def test_a_choice_that_was_not_drawn_is_certain(tmp_path: Path, temperature: float, config: str):
    [one] = read_offpolicy_logs(stored(tmp_path, temperature=temperature, config=config), "run-a").trajectories
    assert one.steps[0].propensities == {"small": 1.0}


def test_rows_an_estimate_cannot_use_are_counted(tmp_path: Path):
    unjudged = read_offpolicy_logs(stored(tmp_path / "a", temperature=1.0, is_correct=None, target=None), "run-a")
    assert (unjudged.trajectories, unjudged.left_out) == ((), {"not judged: no target": 1})
    unknown = read_offpolicy_logs(stored(tmp_path / "b", temperature=1.0, propensity=None), "run-a")
    assert unknown.left_out == {"the allocator gave no probability for its choice": 1}


def test_a_run_without_trajectories_is_named(tmp_path: Path):
    with pytest.raises(LakeError, match=r"run 'run-b' has no trajectories of method 'r2' .* Runs: run-a"):
        read_offpolicy_logs(stored(tmp_path, temperature=1.0), "run-b")
