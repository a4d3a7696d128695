"""Trials as matrices: what is refused by name, which of several trials counts, and prices read off a table."""

import math
from dataclasses import replace

import numpy as np
import pytest

from r2.errors import ConfigError
from r2.evaluation.recorded.table import OutcomeTable
from r2.problem import Problem
from r2.training.scorer.profiles import arm_profiles
from r2.training.scorer.table_method import prices_of, trials_of
from r2.training.scorer.trials import Trial, Trials, trials_from
from r2.training.sft.settings import SftSettings

HARD, EASY = Problem("hard", "17 * 23?"), Problem("easy", "1 + 1?")


def trial(problem: Problem, arm: str, is_right: bool, result: str | None, confidence: float | None = None) -> Trial:
    return Trial(problem, "sums", arm, is_right, result, 0.001, 12, confidence)


def table(right: list[list[float]], cost: list[list[float]]) -> OutcomeTable:
    return OutcomeTable(
        ("small", "large"),
        (HARD, EASY),
        np.array(right),
        np.array(cost),
        input_tokens_MP=np.array([[100.0, 40.0], [100.0, 40.0]]),
        output_tokens_MP=np.array([[10.0, 30.0], [10.0, 30.0]]),
    )


def test_trials_are_matrices_of_arms_and_units_with_equal_results_numbered_alike():
    found = trials_from(
        [
            trial(HARD, "small", False, "381"),
            trial(HARD, "large", True, "391"),
            trial(EASY, "small", True, "2"),
            trial(EASY, "middle", True, "2"),
            trial(HARD, "middle", False, None),
        ]
    )
    assert found.arms == ("small", "large", "middle")
    assert found.kinds == ("sums", "sums")
    assert found.results_AU.tolist() == [[0, 0], [1, -1], [-1, 0]]
    assert found.right_AU[1].tolist()[0] == 1 and math.isnan(found.right_AU[1, 1])
    assert found.n_trials == 5


def test_of_several_trials_the_last_one_with_a_confidence_counts():
    first = [trial(HARD, "small", True, "391", 0.9), trial(HARD, "small", False, "1"), trial(EASY, "small", False, "3")]
    assert trials_from(first).confidence_AU[0, 0] == 0.9
    later = trials_from([*first, trial(HARD, "small", False, "381", 0.5), trial(EASY, "small", True, "2")])
    assert later.right_AU.tolist() == [[0.0, 1.0]]
    assert later.confidence_AU[0, 0] == 0.5


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("right_AU", np.inf, "inf is no outcome"),
        ("right_AU", 2.0, "2 is no outcome"),
        ("cost_usd_AU", -1.0, "-1 is no cost in USD"),
        ("cost_usd_AU", np.nan, "no cost in USD (NaN)"),
        ("tokens_AU", np.inf, "inf is no number of tokens"),
        ("confidence_AU", 1.5, "1.5 is no confidence"),
    ],
)
def test_a_number_that_cannot_be_is_refused_with_its_arm_and_question(field: str, value: float, said: str):
    good = trials_from([trial(HARD, "small", False, "381"), trial(EASY, "small", True, "2")])
    matrix = getattr(good, field).copy()
    matrix[0, 1] = value
    with pytest.raises(ConfigError, match="small, question easy") as refused:
        replace(good, **{field: matrix})
    assert said in str(refused.value)


def test_outcomes_of_one_class_and_arms_without_any_are_refused_by_name():
    with pytest.raises(ConfigError, match="every one of 2 outcomes is right"):
        trials_from([trial(HARD, "small", True, "391"), trial(EASY, "small", True, "2")])
    good = trials_from([trial(HARD, "small", False, "381"), trial(EASY, "large", True, "2")])
    with pytest.raises(ConfigError, match="large: it has no outcome"):
        good.part([0])
    with pytest.raises(ConfigError, match="nothing can be learned"):
        trials_from([])


def test_prices_are_read_off_a_table_whose_costs_follow_from_its_tokens():
    fits = [1e-6 * (100 * 2 + 10 * 6), 1e-6 * (40 * 2 + 30 * 6)]
    found = table([[0, 1], [1, 1]], [fits, [0.01, 5.0]])
    assert prices_of(found)["small"] == pytest.approx((2.0, 6.0))
    assert list(prices_of(found)) == ["small"]
    assert prices_of(replace(found, input_tokens_MP=None)) == {}
    assert arm_profiles(trials_of(found))["small"].price_usd_per_mtok == pytest.approx((2.0, 6.0))


def test_a_table_with_one_class_is_refused():
    with pytest.raises(ConfigError, match="every one of 4 outcomes is wrong"):
        trials_of(table([[0, 0], [0, 0]], [[1, 1], [1, 1]]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "a scorer needs --outcomes"),
        ({"outcomes": ("a.csv",), "pool": "pool.toml"}, "recorded answers need no pool"),
        ({"outcomes": ("a.csv",), "steps": 3}, "steps has no meaning for a scorer"),
        ({"policy": "both", "outcomes": ("a.csv",)}, "--outcomes trains a scorer, not both"),
    ],
)
def test_settings_that_do_not_fit_a_scorer_are_refused_by_name(given: dict[str, object], said: str):
    with pytest.raises(ValueError, match=said):
        SftSettings.model_validate({"policy": "scorer", **given})


def test_settings_of_other_policies_are_what_they_were():
    assert "outcomes" not in SftSettings().identity()
    assert SftSettings(policy="scorer", pool="p.toml").identity() == {"policy": "scorer", "seed": 0}
    again = SftSettings.model_validate_json(SftSettings(policy="scorer", outcomes=("a",)).model_dump_json())
    assert again.policy_name("scorer") == "scorer"


def test_profiles_keep_what_a_stored_trial_says(fitted_arms: Trials):
    profile = arm_profiles(fitted_arms)["small"]
    assert profile.weights == "same" and profile.price_usd_per_mtok == (1.0, 2.0)


@pytest.fixture
def fitted_arms() -> Trials:
    return trials_from(
        [trial(HARD, "small", False, "381"), trial(EASY, "small", True, "2")],
        {"small": "same", "other": "x"},
        {"small": (1.0, 2.0)},
    )
