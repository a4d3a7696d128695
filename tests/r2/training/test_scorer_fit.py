"""The scorer's fit on made trials whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from r2.answering.attempts import Attempt
from r2.answering.lookahead import decide
from r2.answering.scored import ScoredBeliefs
from r2.answering.scorer import ArmProfile, KindProfile, Scorer, independent
from r2.errors import ConfigError
from r2.problem import Problem
from r2.training.scorer.fit import Quality, claims, ece, fit_scorer
from r2.training.scorer.pairs import count_pairs, shortlists_of
from r2.training.scorer.profiles import arm_profiles
from r2.training.scorer.trials import Trials

ARMS = ("cheap", "middle", "dear")
COSTS = {"cheap": 0.001, "middle": 0.002, "dear": 0.02}


def made(n: int = 240, seed: int = 0, confidence: bool = False) -> Trials:
    """Half of the questions say "simple" and everybody is mostly right; half say "knotty", where only the dear arm is.
    Wrong results repeat each other in one of four."""
    rng = np.random.default_rng(seed)
    p = {"cheap": (0.95, 0.2), "middle": (0.97, 0.4), "dear": (0.99, 0.95)}
    problems, right, results = [], np.zeros((3, n)), np.zeros((3, n), np.int64)
    for unit in range(n):
        is_hard = unit % 2
        words = " ".join(rng.choice(["red", "blue", "green", "box", "tree"], 4))
        problems.append(Problem(f"q{unit}", f"a {'knotty' if is_hard else 'simple'} question about {words} {unit}"))
        for row, arm in enumerate(ARMS):
            right[row, unit] = rng.random() < p[arm][is_hard]
            results[row, unit] = 0 if right[row, unit] else 1 + rng.integers(4)
    sure = np.where(right > 0, rng.beta(8, 2, (3, n)), rng.beta(3, 3, (3, n)))
    unknown = np.full((3, n), np.nan)
    costs = np.array([[COSTS[arm]] * n for arm in ARMS])
    tokens = rng.integers(20, 200, (3, n)).astype(float)
    return Trials(ARMS, tuple(problems), ("made",) * n, right, costs, tokens, sure if confidence else unknown, results)


@pytest.fixture(scope="module")
def fitted() -> tuple[Scorer, Quality]:
    return fit_scorer(made())


def beliefs(scorer: Scorer, text: str, arms: tuple[str, ...] = ARMS) -> ScoredBeliefs:
    return ScoredBeliefs(scorer, Problem("new", text), "made", {arm: scorer.arms[arm] for arm in arms})


def test_it_tells_hard_texts_from_easy_ones_by_their_words(fitted: tuple[Scorer, Quality]) -> None:
    one = (Attempt("cheap", 0),)
    easy = beliefs(fitted[0], "a simple question about red tree").p_right(one)[0]
    hard = beliefs(fitted[0], "a knotty question about red tree").p_right(one)[0]
    assert easy > 0.8
    assert hard < 0.45


def test_agreement_raises_and_disagreement_lowers_what_is_believed(fitted: tuple[Scorer, Quality]) -> None:
    its = beliefs(fitted[0], "a knotty question about a box")
    alone = its.p_right((Attempt("middle", 0),))[0]
    agreed = its.p_right((Attempt("middle", 0), Attempt("dear", 0)))[0]
    against = its.p_right((Attempt("middle", 0), Attempt("dear", 1)))
    assert agreed > alone > against[0]
    assert against[1] > against[0]
    assert sum(against) <= 1


def test_the_rule_asks_the_dear_arm_for_hard_texts_alone(fitted: tuple[Scorer, Quality]) -> None:
    easy = decide(beliefs(fitted[0], "a simple question about red tree"), (), 0.1)
    hard = decide(beliefs(fitted[0], "a knotty question about red tree"), (), 0.1)
    assert easy.arm in ("cheap", "middle")
    assert hard.arm == "dear"


def test_order_and_size_of_the_pool_change_nothing(fitted: tuple[Scorer, Quality]) -> None:
    text, state = "a knotty question about a box", (Attempt("middle", 0, None, 90), Attempt("dear", 1))
    usual = beliefs(fitted[0], text)
    turned = beliefs(fitted[0], text, ("dear", "cheap", "middle"))
    fewer = beliefs(fitted[0], text, ("middle", "dear"))
    assert usual.p_right(state) == turned.p_right(state) == fewer.p_right(state)
    assert usual.p_right(state) == usual.p_right((Attempt("dear", 1), Attempt("middle", 0, None, 90)))
    first, second = (its.outcomes((Attempt("middle", 0),), "dear") for its in (usual, fewer))
    assert [attempt for _, attempt in first] == [attempt for _, attempt in second]
    assert [p for p, _ in first] == pytest.approx([p for p, _ in second], rel=1e-12)


def test_outcomes_have_probabilities_that_sum_to_one(fitted: tuple[Scorer, Quality]) -> None:
    its = beliefs(fitted[0], "a simple question")
    for state in ((), (Attempt("cheap", 0),), (Attempt("cheap", 0), Attempt("middle", 1)), (Attempt("cheap", None),)):
        for arm in set(ARMS) - {one.arm for one in state}:
            assert sum(p for p, _ in its.outcomes(state, arm)) == pytest.approx(1)


def test_a_new_arm_needs_a_profile_and_no_training(fitted: tuple[Scorer, Quality]) -> None:
    scorer = fitted[0]
    profiles = {**scorer.arms, "new": ArmProfile({"": KindProfile(100, 0.97, 0.0005)})}
    its = ScoredBeliefs(scorer, Problem("p", "a knotty question about a tree"), "made", profiles)
    assert decide(its, (), 0.1).arm == "new"


def test_confidence_counts_where_the_arm_has_it() -> None:
    scorer, _ = fit_scorer(made(confidence=True))
    its = beliefs(scorer, "a knotty question about red tree")
    assert its.p_right((Attempt("middle", 0, 0.98),))[0] > its.p_right((Attempt("middle", 0, 0.3),))[0] + 0.1
    levels = {attempt.confidence for _, attempt in its.outcomes((), "middle")}
    assert len(levels) == 3


def test_it_is_calibrated_on_questions_it_had_not_seen(fitted: tuple[Scorer, Quality]) -> None:
    quality = fitted[1]
    assert quality.n >= 400
    assert quality.ece < 0.1
    assert quality.auroc["made"] > 0.7


def test_it_is_the_same_again_from_its_json(fitted: tuple[Scorer, Quality]) -> None:
    again = Scorer.from_json(fitted[0].to_json())
    state = (Attempt("middle", 0, None, 90), Attempt("dear", 1))
    text = "a knotty question about a box"
    assert beliefs(again, text).p_right(state) == pytest.approx(beliefs(fitted[0], text).p_right(state), abs=1e-5)


@pytest.mark.parametrize("text", [b"", b"[]", b'{"format": "r2-scorer-1"}', b'{"format": "other"}'])
def test_another_file_is_refused_with_the_command_that_makes_one(text: bytes) -> None:
    with pytest.raises(ConfigError, match="r2 sft --policy scorer"):
        Scorer.from_json(text, "scorer.json")


def test_what_nothing_can_be_learned_from_is_refused_by_name() -> None:
    trials = made(20)
    with pytest.raises(ConfigError, match="every one of 60 outcomes is right"):
        replace(trials, right_AU=np.ones((3, 20)))
    never = trials.right_AU.copy()
    never[1] = np.nan
    with pytest.raises(ConfigError, match="middle: it has no outcome"):
        replace(trials, right_AU=never)


def test_arms_that_ran_on_some_units_alone_are_learned_from_too() -> None:
    trials = made()
    right = trials.right_AU.copy()
    right[2, ::3] = np.nan
    scorer, _ = fit_scorer(replace(trials, right_AU=right))
    assert scorer.arms["dear"].at("made").n == 160


def test_a_profile_counts_and_shrinks() -> None:
    trials = made()
    its = arm_profiles(trials)["cheap"].at("made")
    right = trials.right_AU[0].sum()
    overall = (right + 4 * 0.5) / 244
    assert its.accuracy == pytest.approx((right + 4 * overall) / 244)
    assert its.cost_usd == pytest.approx(0.001)


def test_pairs_are_counted_and_shrunk_towards_independence() -> None:
    trials = made()
    pairs, kappa = count_pairs(trials, arm_profiles(trials), "made")
    assert 0.15 < kappa < 0.4  # wrong results repeat each other in one of four
    right, results = trials.right_AU, trials.results_AU
    apart = results[0] != results[2]
    share = right[2, apart].mean()
    assert abs(pairs["dear"]["cheap"].beats - share) < 0.05
    assert pairs["dear"]["cheap"].beats > pairs["middle"]["cheap"].beats > pairs["cheap"]["middle"].beats


def test_an_unknown_pair_is_as_if_they_were_independent() -> None:
    pair = independent(0.8, 0.5, 0.25)
    assert pair.agree == pytest.approx(0.4 / (0.4 + 0.1 * 0.25))
    assert pair.beats == pytest.approx(0.4 / (1 - 0.4 - 0.025))


def test_arms_that_ask_together_best_are_shortlisted_where_all_were_asked_everywhere() -> None:
    trials = made()
    assert set(shortlists_of(trials, ["made"])["made"]) >= {"dear"}
    missing = trials.right_AU.copy()
    missing[0, 0] = np.nan
    assert shortlists_of(replace(trials, right_AU=missing), ["made"])["made"] == ()


def test_calibration_error_by_hand() -> None:
    p, right = np.array([0.2, 0.2, 0.8, 0.8]), np.array([0.0, 1.0, 1.0, 1.0])
    assert ece(p, right, n_bins=2) == pytest.approx(0.5 * 0.3 + 0.5 * 0.2)


def test_what_it_claims_of_questions_it_has_not_seen_is_what_happens(fitted: tuple[Scorer, Quality]) -> None:
    claimed, is_wrong = claims(fitted[0], made(seed=1))
    assert len(claimed) == len(is_wrong) == 240 * 12
    assert claimed.sum() == pytest.approx(is_wrong.sum(), rel=0.2)
    sure = claimed < 0.05
    assert sure.sum() > 200
    assert is_wrong[sure].sum() < 3 * claimed[sure].sum() + 3
