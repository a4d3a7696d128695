"""How units differ in ease, fitted on made trials whose truth is known."""

from dataclasses import replace

import numpy as np

from r2.problem import Problem
from r2.training.scorer.ease import fit_eases
from r2.training.scorer.trials import Trials

RIGHT = (0.0, 2.0, 4.0, 8.0)
ARMS = tuple(f"m{n}" for n in range(len(RIGHT)))


def made(n: int = 1200, spread: float = 2.0, seed: int = 0) -> tuple[Trials, np.ndarray]:
    """Trials of one kind, and what the text tells of each unit's ease: a half of it. Confidences are as right as they
    say, but for a noise of half a logit."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=n)
    ease = np.sqrt(0.5) * (difficulty + rng.normal(size=n))
    logits = np.array(RIGHT)[:, None] + spread * ease
    right = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    sure = 1 / (1 + np.exp(-(logits + rng.normal(0, 0.5, logits.shape))))
    results = np.where(right > 0, 0, 1 + rng.integers(0, 4, logits.shape))
    problems = tuple(Problem(f"q{unit}", f"question {unit}") for unit in range(n))
    known = np.ones(logits.shape)
    return Trials(ARMS, problems, ("made",) * n, right, known, known, sure, results), difficulty


def test_what_made_the_trials_is_found_again():
    trials, difficulty = made()
    found = fit_eases(trials, difficulty, ["made"])
    assert abs(found.spread["made"] - 2.0) < 0.4
    assert abs(found.text["made"] - np.sqrt(0.5)) < 0.1
    for arm, right in list(zip(ARMS, RIGHT, strict=True))[:3]:
        assert abs(found.arms["made"][arm].right - right) < 0.5


def test_an_arm_that_hardly_errs_is_as_right_as_its_confidences_say():
    trials, difficulty = made(n=150)
    ours = fit_eases(trials, difficulty, ["made"]).arms["made"]["m3"]
    assert trials.right_AU[3].mean() > 0.98
    assert 6.5 < ours.right < 9.0  # and not what the few errors of 150 say
    never = replace(trials, right_AU=np.vstack([trials.right_AU[:3], np.ones(150)]), results_AU=trials.results_AU * 0)
    assert fit_eases(never, difficulty, ["made"]).arms["made"]["m3"].right < 9.0


def test_where_nobody_errs_no_more_is_claimed_than_the_rows_of_all_say():
    """Of 200 rows without an error and without a confidence: about half an error in 250."""
    trials, difficulty = made(n=100)
    trials = replace(trials, kinds=("made",) * 50 + ("sure",) * 50, confidence_AU=np.full((4, 100), np.nan))
    right, results = trials.right_AU.copy(), trials.results_AU.copy()
    right[:, 50:], results[:, 50:] = 1.0, 0
    found = fit_eases(replace(trials, right_AU=right, results_AU=results), difficulty, ["made", "sure"])
    for arm in ARMS:
        assert 4.5 < found.arms["sure"][arm].right < np.log(2 * 250) + 0.2


def test_a_kind_of_few_rows_has_no_eases():
    trials, difficulty = made(n=5)
    assert not fit_eases(trials, difficulty, ["made", ""]).arms
