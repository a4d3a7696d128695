"""The learned query-level router: features, its JSON, and that a fit finds which questions a model can answer."""

import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2.answering.prompts import QUESTION_MARK
from r2.answering.query_router import N_BUCKETS, NUMBERS, ModelCurve, QueryRouter, features, make_query_router, sigmoid
from r2.errors import ConfigError
from r2.pool.simulated.mind import p_right, read_job
from r2.problem import Problem
from r2.problems import arithmetic, scan
from r2.training.fit_query_router import fit_query_router
from tests.support.paths import ROOT

CURVES = {
    "dear": ModelCurve({N_BUCKETS + 1: -0.25, 7: 0.125}, 2.0, 0.5, 0.25, 0.01),
    "cheap": ModelCurve({}, 0.0, 1.0, 0.0, 0.001),
}


def test_counts_come_behind_the_buckets_as_logarithms():
    found = features(Problem("p", "What is 12 + 345 - 6?"))
    # What, is and three numbers count as words; the longest number has 3 digits, all have 6; + and - are operators.
    assert [found[N_BUCKETS + i] for i in range(len(NUMBERS))] == pytest.approx(
        [math.log(6), math.log(4), math.log(4), math.log(7), math.log(3)]
    )
    assert math.sqrt(sum(v * v for i, v in found.items() if i < N_BUCKETS)) == pytest.approx(1)


def test_numbers_of_as_many_digits_and_another_case_are_the_same_question_to_it():
    assert features(Problem("p", "What is 12 + 34?")) == features(Problem("q", "WHAT is 98 + 76?"))
    assert features(Problem("p", "x", benchmark="scan")) != features(Problem("p", "x"))


@given(st.text(alphabet=st.characters(), max_size=60))
def test_any_question_has_features_and_a_probability(question: str):
    curve = CURVES["dear"]
    assert 0 <= curve.p_right(features(Problem("p", question))) <= 1


def test_a_probability_is_the_calibrated_sigmoid_of_the_weighted_features():
    # One number: ln 2; (2 - 0.25 ln 2) * 0.5 + 0.25.
    found = {N_BUCKETS + 1: math.log(2)}
    assert CURVES["dear"].p_right(found) == pytest.approx(sigmoid((2 - 0.25 * math.log(2)) * 0.5 + 0.25))
    assert sigmoid(-800) == 0.0
    assert sigmoid(800) == 1.0


def test_json_keeps_the_router_and_the_order_of_its_models():
    stored = make_query_router(CURVES, 12).to_json()
    read = QueryRouter.from_json(stored)
    assert list(read.models) == ["cheap", "dear"]
    assert (read.models, read.n_questions) == (CURVES, 12)


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "[]",
        "{}",
        "null",
        "not json",
        json.dumps({"format": "r2-query-router-0"}),
        make_query_router(CURVES, 1).to_json().replace('"bias":2.0', '"bias":"2"'),
        make_query_router(CURVES, 1).to_json().replace('"n_buckets":1024', '"n_buckets":512'),
        make_query_router({}, 1).to_json(),
    ],
)
def test_a_file_that_is_no_router_is_named(broken: str):
    with pytest.raises(ConfigError, match=r"router\.json: not a query router"):
        QueryRouter.from_json(broken, "router.json")


def test_predicting_loads_neither_scikit_learn_nor_numpy():
    code = (
        "import sys, r2.answering.query_router, r2.methods; print(*sorted({'sklearn', 'numpy', 'scipy'} & "
        "set(sys.modules)))"
    )
    root = ROOT
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert out.stdout.strip() == ""


ABILITY = {"weak": 1.2, "strong": 4.0}


def truth(problem: Problem, model: str) -> float:
    job = read_job(QUESTION_MARK + problem.question)
    assert job is not None
    return p_right(ABILITY[model], job.difficulty)


def test_a_fit_to_right_and_wrong_answers_finds_the_probabilities_behind_them_on_new_questions():
    chance = random.Random(0)
    seen = [*arithmetic.generate(150, 1), *scan.generate(150, 1)]
    new = [*arithmetic.generate(100, 2), *scan.generate(100, 2)]
    outcomes = {model: [chance.random() < truth(problem, model) for problem in seen] for model in ABILITY}
    costs = {"weak": [0.001] * len(seen), "strong": [0.01] * len(seen)}
    fitted = fit_query_router(seen, outcomes, costs)
    assert list(fitted.models) == ["weak", "strong"]
    assert fitted.models["strong"].cost_usd == pytest.approx(0.01)
    for model in ABILITY:
        true_p = np.array([truth(problem, model) for problem in new])
        found_p = np.array([fitted.p_right(problem)[model] for problem in new])
        base_rate = np.mean(outcomes[model])
        assert abs(found_p.mean() - true_p.mean()) < 0.07, "calibrated in the large"
        assert np.abs(found_p - true_p).mean() < 0.7 * np.abs(base_rate - true_p).mean(), "and tells questions apart"
    again = fit_query_router(seen, outcomes, costs)
    assert again.to_json() == fitted.to_json()


def test_a_model_that_is_always_right_gets_its_smoothed_rate_for_every_question():
    seen = arithmetic.generate(18, 1)
    fitted = fit_query_router(seen, {"m": [True] * 18}, {"m": [0.0] * 18})
    assert fitted.p_right(Problem("p", "anything"))["m"] == pytest.approx(19 / 20)


def test_outcomes_that_do_not_fit_the_questions_name_the_model():
    seen = arithmetic.generate(3, 1)
    with pytest.raises(ConfigError, match="m: 2 outcomes and 3 costs for 3 questions"):
        fit_query_router(seen, {"m": [True, False]}, {"m": [0.0] * 3})
    with pytest.raises(ConfigError, match="0 questions"):
        fit_query_router([], {"m": []}, {"m": []})
