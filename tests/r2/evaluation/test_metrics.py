"""Every figure of a comparison, worked by hand, against scipy and scikit-learn where they have it,
and as properties."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import ConvexHull
from sklearn.metrics import auc

from r2.errors import ConfigError
from r2.evaluation.compare import MethodOutcomes, compare, from_json, to_json, verdict
from r2.evaluation.curves import (
    aiq,
    area_under_curve,
    average_pgr,
    best_mixture,
    cost_to_reach,
    frontier,
    hull,
    performance_gap_recovered,
)
from r2.evaluation.intervals import paired_interval, percentile_interval, resampled_means
from r2.evaluation.outcomes import from_seeds, mix_of, oracle_of


def outcomes(label: str, right: list[float], cost: list[float], method: str = "cot", **changes) -> MethodOutcomes:
    n = len(right)
    zeros = np.zeros(n)
    one = MethodOutcomes(
        label,
        method,
        tuple(f"p{i}" for i in range(n)),
        ("all",) * n,
        np.array(right),
        np.array(cost),
        zeros,
        zeros,
        zeros,
        zeros,
    )
    return replace(one, **changes)


WEAK = outcomes("weak", [1, 0, 0, 0], [1, 1, 1, 1])
STRONG = outcomes("strong", [1, 1, 1, 0], [10, 10, 10, 10])
ROUTER = outcomes(
    "router",
    [1, 1, 0, 1],
    [1, 4, 1, 2],
    "r2",
    difficulty=("easy", "easy", "hard", "hard"),
    router_cost_usd=np.array([0.5, 0.5, 0.5, 0.5]),
    n_calls=np.array([2, 3, 2, 3]),
    n_tokens=np.array([10, 20, 30, 40]),
    latency_s=np.array([1, 2, 3, 4]),
    model_calls={"strong": 2, "weak": 6},
    model_calls_by_difficulty={"easy": {"weak": 4}, "hard": {"weak": 2, "strong": 2}},
)


def compared(*more: MethodOutcomes, **options):
    return compare(
        [WEAK, STRONG, ROUTER, *more], constants=["weak", "strong"], subject="router", n_bootstrap=200, **options
    )


def test_plain_figures_by_hand():
    mine = compared()["router"]
    assert mine.accuracy.value == 0.75
    assert mine.accuracy_by_difficulty == {"easy": 1.0, "hard": 0.5}
    assert mine.usd_per_1k.value == 2000
    assert mine.usd_per_solved == pytest.approx(8 / 3)
    assert (mine.calls_per_problem, mine.tokens_per_problem) == (2.5, 25)
    assert mine.latency_p50_s == 2.5
    assert mine.latency_p95_s == pytest.approx(3.85)
    assert mine.router_share == 0.25


def test_model_shares_and_collapse_by_hand():
    """Shares 3/4 and 1/4 have 0.8113 bits."""
    mine = compared()["router"]
    assert list(mine.model_shares.items()) == [("weak", 0.75), ("strong", 0.25)]
    assert mine.model_shares_by_difficulty == {"easy": {"weak": 1.0}, "hard": {"strong": 0.5, "weak": 0.5}}
    assert (mine.top_model, mine.top_model_share) == ("weak", 0.75)
    assert mine.model_entropy_bits == pytest.approx(0.811278)
    assert mine.effective_models == pytest.approx(2**0.811278)
    assert mine.model_entropy_bits == pytest.approx(stats.entropy([0.75, 0.25], base=2))


def test_a_method_that_always_asks_one_model_has_collapsed():
    alone = compared(replace(ROUTER, label="one", model_calls={"weak": 4}))["one"]
    assert (alone.top_model_share, alone.model_entropy_bits, alone.effective_models) == (1.0, 0.0, 1.0)
    assert compared()["weak"].effective_models is None


def test_cost_saved_at_equal_accuracy_by_hand():
    """Router 0.75 right at 2 USD, the best constant 0.75 at 10: it saves 0.8."""
    saved = compared()["router"].cost_saved
    assert (saved.reference, saved.operating_point, saved.value) == ("strong", "router", 0.8)
    assert saved.interval.low <= 0.8 <= saved.interval.high


def test_cost_saved_takes_the_cheapest_operating_point_that_reaches_the_accuracy():
    points = [
        outcomes("r 0", [0, 0, 0, 1], [1, 1, 1, 1], "r2", sweep="r2"),
        outcomes("r 1", [0, 1, 1, 1], [3, 3, 3, 3], "r2", sweep="r2"),
        outcomes("r 2", [1, 1, 1, 1], [5, 5, 5, 5], "r2", sweep="r2"),
    ]
    made = compared(*points)
    for label in ("r 0", "r 1", "r 2"):
        assert (made[label].cost_saved.operating_point, made[label].cost_saved.value) == ("r 1", 0.7)
    assert compared(*points, tau=1.2)["r 0"].cost_saved.operating_point == "r 2"
    assert compared(*points, tau=1.4)["r 0"].cost_saved is None


def test_what_never_reaches_the_accuracy_saves_nothing_at_it():
    weak = compared()["weak"]
    assert weak.cost_saved is None
    assert weak.cheaper_by.value == 0.9


def test_performance_gap_recovered_by_hand():
    assert performance_gap_recovered(0.6, 0.4, 0.8) == pytest.approx(0.5)
    assert compared()["router"].performance_gap_recovered == 1.0
    assert compared()["weak"].performance_gap_recovered == 0.0


def test_without_a_gap_there_is_nothing_to_recover():
    assert performance_gap_recovered(0.6, 0.8, 0.8) is None
    assert average_pgr([(1.5, 0.8)], (1, 0.8), (2, 0.8)) is None
    assert (
        compare([WEAK, replace(WEAK, label="twin")], constants=["weak", "twin"])["twin"].performance_gap_recovered
        is None
    )


def test_random_at_matched_cost_by_hand():
    """2 USD between 1 and 10: one call in nine is strong, so 0.25 + 0.5 / 9 right."""
    mine = compared()["router"]
    assert mine.random_mix == pytest.approx({"weak": 8 / 9, "strong": 1 / 9})
    assert mine.random_accuracy == pytest.approx(0.25 + 0.5 / 9)
    assert mine.gain_over_random.value == pytest.approx(0.5 - 0.5 / 9)


def test_a_mixtures_expected_outcomes_cost_what_was_matched():
    mixed = mix_of("random", [WEAK, STRONG], [8 / 9, 1 / 9])
    assert mixed.mean_cost_usd == pytest.approx(2)
    assert mixed.is_correct == pytest.approx([1, 1 / 9, 1 / 9, 0])


def test_the_oracle_takes_the_cheapest_right_model_and_the_cheapest_where_none_is():
    oracle = oracle_of([WEAK, STRONG])
    assert oracle.is_correct.tolist() == [1, 1, 1, 0]
    assert oracle.cost_usd.tolist() == [1, 10, 10, 1]
    assert (compared().oracle_accuracy, compared().oracle_usd_per_1k) == (0.75, 5500)


def test_headroom_captured_by_hand():
    """Random 0.3056, oracle 0.75. With accuracy worth 0.02 a USD: (0.75 - 0.04 - 0.2656) / (0.75 - 0.11 - 0.2656)."""
    assert compared()["router"].headroom_captured == pytest.approx(1.0)
    random = 0.25 + 0.5 / 9 - 0.02 * 2
    expected = (0.71 - random) / (0.64 - random)
    assert compared(cost_weight=0.02)["router"].headroom_captured == pytest.approx(expected)


def test_headroom_is_undefined_where_hindsight_is_no_better_than_chance():
    assert compare([WEAK], constants=["weak"])["weak"].headroom_captured is None


def test_the_frontier_by_hand():
    assert frontier([(1, 0.5), (2, 0.4), (2, 0.7), (3, 0.7), (1, 0.5)]) == [True, False, True, False, True]
    assert [one.is_on_frontier for one in compared().methods] == [True, False, True]
    assert compared()["strong"].beaten_by == ("router",)


def test_the_hull_by_hand():
    """(2, 0.3) lies below the line from (1, 0.2) to (3, 0.8); (4, 0.7) is dearer and worse; (1, 0.1) is as dear and
    worse."""
    assert hull([(2, 0.3), (1, 0.2), (4, 0.7), (3, 0.8), (1, 0.1)]) == [(1, 0.2), (3, 0.8)]
    assert hull([]) == []


def test_aiq_by_hand():
    """Line from (1, 0.2) to (3, 0.8): mean 0.5. Up to cost 5 flat at 0.8: (1.0 + 1.6) / 4. From 0: nothing there, (1.0)
    / 3."""
    points = [(1, 0.2), (2, 0.3), (3, 0.8)]
    assert aiq(points) == pytest.approx(0.5)
    assert aiq(points, 1, 5) == pytest.approx(2.6 / 4)
    assert aiq(points, 0, 3) == pytest.approx(1 / 3)


def test_areas_of_one_point_and_of_none():
    assert (aiq([(2, 0.7)]), area_under_curve([(2, 0.7)])) == (0.7, 0.7)
    assert aiq([(2, 0.7)], 0, 4) == pytest.approx(0.35)
    assert aiq([(2, 0.7)], 0, 2) == 0.0
    assert (aiq([]), area_under_curve([])) == (None, None)


def test_the_area_of_a_curve_that_falls_uses_the_best_so_far():
    """0.2, 0.6, 0.4 at costs 1, 2, 3 becomes 0.2, 0.6, 0.6: (0.4 + 0.6) / 2."""
    assert area_under_curve([(3, 0.4), (1, 0.2), (2, 0.6)]) == pytest.approx(0.5)


def test_of_equally_dear_points_the_best_counts():
    assert area_under_curve([(1, 0.2), (1, 0.4), (2, 0.6)]) == pytest.approx(0.5)
    assert aiq([(1, 0.2), (1, 0.4), (2, 0.6)]) == pytest.approx(0.5)


def test_areas_agree_with_scikit_learn():
    costs, accuracies = [1.0, 2.5, 3.0, 7.0], [0.1, 0.4, 0.6, 0.7]
    points = list(zip(costs, accuracies, strict=True))
    assert area_under_curve(points) == pytest.approx(auc(costs, accuracies) / 6)
    corners = hull(points)
    assert aiq(points) == pytest.approx(auc(*zip(*corners, strict=True)) / 6)


def test_apgr_by_hand():
    """Mixing at random gives a half; a router at half the cost with all the gap three quarters."""
    assert average_pgr([], (1, 0.4), (3, 0.8)) == pytest.approx(0.5)
    assert average_pgr([(2, 0.8)], (1, 0.4), (3, 0.8)) == pytest.approx(0.75)
    assert average_pgr([(2, 0.8), (9, 1.0)], (1, 0.4), (3, 0.8)) == pytest.approx(0.75)


def test_the_cheapest_point_that_reaches_an_accuracy():
    assert cost_to_reach([(3, 0.8), (2, 0.8), (1, 0.7)], 0.8) == 1
    assert cost_to_reach([(3, 0.8)], 0.9) is None


def test_a_mixture_outside_the_constants_costs_is_the_nearest_constant():
    points = [(1, 0.2), (2, 0.9), (3, 0.5)]
    assert best_mixture(points, 0.5) == [1, 0, 0]
    assert best_mixture(points, 2.5) == [0, 1, 0]
    assert best_mixture(points, 1.25) == [0.75, 0.25, 0]
    with pytest.raises(ValueError, match="no points"):
        best_mixture([], 1)


def test_curves_of_a_comparison_share_one_range_of_cost():
    """Costs 1 to 10. Constants: 0.25 to 0.75 on a line. Router: 0.75 from 2 on. Together: up to
    0.75 at 2, then flat."""
    curves = {curve.name: curve for curve in compared().curves}
    assert list(curves) == ["constants", "router", "all"]
    assert curves["constants"].aiq == pytest.approx(0.5)
    assert curves["router"].aiq == pytest.approx(8 * 0.75 / 9)
    assert curves["router"].aiq_with_constants == curves["all"].aiq == pytest.approx((0.5 + 8 * 0.75) / 9)
    assert curves["router"].apgr == pytest.approx((0.5 + 8) / 9)


def test_intervals_agree_with_scipys_bootstrap():
    chance = np.random.default_rng(5)
    ours, theirs = (chance.random(60) < 0.8).astype(float), (chance.random(60) < 0.6).astype(float)
    reference = stats.bootstrap(
        (ours, theirs),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True,
        vectorized=True,
        n_resamples=20000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    interval = paired_interval(ours, theirs, 20000, 2)
    assert interval.low == pytest.approx(reference.low, abs=0.02)
    assert interval.high == pytest.approx(reference.high, abs=0.02)


def test_a_paired_interval_is_narrower_than_an_unpaired_one_and_nought_for_the_same_method():
    right = np.array([1.0, 0.0] * 50)
    better = right.copy()
    better[1] = 1.0
    paired = paired_interval(better, right)
    assert paired.high - paired.low < 0.05
    assert paired_interval(right, right) == percentile_interval([0.0])


def test_resamples_are_the_same_for_every_method_and_whatever_the_chunk():
    columns = np.random.default_rng(0).random((30, 3))
    together = resampled_means(columns, 600, 4)
    assert np.allclose(resampled_means(columns[:, :1], 600, 4)[:, 0], together[:, 0])
    assert together.mean(axis=0) == pytest.approx(columns.mean(axis=0), abs=0.02)
    assert not np.allclose(resampled_means(columns, 600, 5), together)


def test_an_undefined_resample_leaves_no_interval():
    assert percentile_interval([1.0, float("nan")]) is None
    assert percentile_interval([]) is None


def test_seeds_are_averaged_within_a_problem():
    one = from_seeds(
        "r",
        "r2",
        ["a", "b"],
        ["all"] * 2,
        is_correct_PS=[[1, 0], [1, 1]],
        cost_usd_PS=[[1, 3], [2, 2]],
        latency_s_PS=np.zeros((2, 2)),
        n_calls_PS=np.ones((2, 2)),
        n_tokens_PS=np.ones((2, 2)),
        router_cost_usd_PS=np.zeros((2, 2)),
    )
    assert (one.is_correct.tolist(), one.cost_usd.tolist(), one.n_seeds) == ([0.5, 1.0], [2.0, 2.0], 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_correct": np.array([1.0])}, r"'weak', is_correct: shape \(1,\), expected \(4,\)"),
        ({"cost_usd": np.array([1, np.nan, 1, 1])}, "'weak', cost_usd, problem 'p1': nan; expected a number >= 0"),
        ({"cost_usd": np.array([1, 1, -1, 1])}, "'weak', cost_usd, problem 'p2': -1"),
        ({"is_correct": np.array([1, 2, 0, 0])}, "'weak', is_correct: above 1"),
        ({"difficulty": ("all",)}, "'weak': 1 difficulty labels for 4 problems"),
    ],
)
def test_outcomes_that_are_none_are_refused(change: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        replace(WEAK, **change)


def test_what_cannot_be_compared_is_named():
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare([])
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare([outcomes("weak", [], [])])
    with pytest.raises(ConfigError, match=r"no method is called 'best'\. Methods: weak"):
        compare([WEAK], constants=["best"])
    with pytest.raises(ConfigError, match="two methods are called 'weak'"):
        compare([WEAK, WEAK])
    with pytest.raises(ConfigError, match="'weak' and 'other' did not answer the same problems"):
        compare([WEAK, replace(STRONG, label="other", problem_ids=("a", "b", "c", "d"))])


def test_free_models_leave_cost_savings_undefined():
    free = outcomes("free", [1, 1, 1, 1], [0, 0, 0, 0])
    made = compare([free, ROUTER], constants=["free"], subject="router", n_bootstrap=50)
    mine = made["router"]
    assert (mine.cheaper_by, mine.cost_saved, made["free"].router_share) == (None, None, None)
    assert mine.beaten_by == ("free",)
    assert made["free"].usd_per_solved == 0
    assert compare([free], constants=["free"], n_bootstrap=50).curves[0].aiq == 1.0


def test_without_constants_nothing_is_held_against_them():
    mine = compare([ROUTER], subject="router", n_bootstrap=50)
    assert (mine.best_constant, mine.oracle_accuracy, mine["router"].gain_over_random) == (None, None, None)
    assert "no constant model was compared" in verdict(mine)
    assert outcomes("none", [0, 0], [1, 1]).accuracy == 0
    assert compare([outcomes("none", [0, 0], [1, 1])])["none"].usd_per_solved is None


def many(label: str, accuracy: float, cost: float, method: str = "cot", n: int = 400) -> MethodOutcomes:
    """The first share of the problems right, each at the same cost: a better method is right
    wherever a worse one is."""
    return outcomes(label, [float(i < accuracy * n) for i in range(n)], [cost] * n, method)


def judged(*others: MethodOutcomes, accuracy: float, cost: float = 1.0) -> str:
    methods = [many("big", 0.9, 10), *others, many("r2", accuracy, cost, "r2")]
    return verdict(compare(methods, constants=["big"], subject="r2", n_bootstrap=300))


def test_the_verdict_says_first_where_a_simpler_method_wins():
    said = judged(many("cheap", 0.9, 0.5, "datashunt"), accuracy=0.9)
    assert said.startswith(
        "r2 loses to cheap, which is simpler: 90.0% right at 500 USD per 1,000 problems against 90.0% at 1000"
    )


def test_the_verdict_says_where_a_cheaper_simpler_method_is_not_shown_to_be_worse():
    said = judged(many("cheap", 0.8975, 0.5, "datashunt"), accuracy=0.9)
    assert said.startswith("r2 is not shown to be more accurate than cheap, which is simpler and 50.0% cheaper")


def test_the_verdict_says_what_is_saved_and_how_accuracy_stands():
    assert judged(accuracy=0.9).startswith("r2 saves 90.0% (95 % interval 90.0% to 90.0%) of the cost of big")
    assert (
        "at no loss of accuracy beyond 2 points: accuracy +0.0 points (95 % interval +0.0 to +0.0), n = 400 problems."
        in judged(accuracy=0.9)
    )
    assert "and loses accuracy: accuracy -20.0 points" in judged(accuracy=0.7)
    elsewhere = outcomes(
        "r2", [float(i >= 40) for i in range(400)], [1.0] * 400, "r2"
    )  # as accurate, on other problems
    doubtful = verdict(compare([many("big", 0.9, 10), elsewhere], constants=["big"], subject="r2", n_bootstrap=300))
    assert "but whether accuracy holds within 2 points is not shown: accuracy +0.0 points" in doubtful
    assert judged(accuracy=0.95, cost=20).startswith("r2 costs 2.00 times what big")


def test_a_variant_of_the_subject_is_no_simpler_method():
    assert judged(many("r2 sft", 0.95, 0.5, "r2"), accuracy=0.9).startswith("r2 saves")


def test_a_verdict_needs_a_subject():
    with pytest.raises(ConfigError, match="no subject"):
        verdict(compare([WEAK]))


def test_the_subject_is_held_against_every_method():
    against = compared()["strong"].versus_subject
    assert (against.accuracy_gain.value, against.cost_saved.value) == (0.0, 0.8)
    assert compared()["router"].versus_subject is None


def test_a_comparison_survives_json():
    made = compared()
    assert from_json(to_json(made)) == made
    with pytest.raises(ConfigError, match="not a stored comparison"):
        from_json(b'{"n_problems": 3}')


quick = settings(max_examples=60, deadline=None)
shares = st.floats(0, 1, allow_subnormal=False)
costs = st.floats(0.001, 100)
points = st.lists(st.tuples(costs, shares), min_size=1, max_size=12)


@quick
@given(points)
def test_aiq_lies_between_the_least_and_the_greatest_accuracy(drawn):
    low, high = min(q for _, q in drawn), max(q for _, q in drawn)
    for area in (aiq(drawn), area_under_curve(drawn)):
        assert low - 1e-9 <= area <= high + 1e-9


@quick
@given(points, points)
def test_more_points_never_lower_the_hull(some, more):
    assert aiq([*some, *more], 0, 100) >= aiq(some, 0, 100) - 1e-9


@quick
@given(points, st.randoms(use_true_random=False))
def test_areas_do_not_depend_on_the_order_of_the_points(drawn, chance):
    shuffled = chance.sample(drawn, len(drawn))
    assert aiq(shuffled) == pytest.approx(aiq(drawn))
    assert area_under_curve(shuffled) == pytest.approx(area_under_curve(drawn))


@quick
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=3, max_size=15, unique=True))
def test_the_hull_is_the_upper_left_part_of_scipys(drawn):
    top = max(q for _, q in drawn)
    base = [*drawn, (51, 0), (51, top)]  # so that it has an area, and goes on flat
    if len({c for c, _ in base}) < 2 or top == 0:
        return
    vertices = {base[i] for i in ConvexHull(np.array(base, float)).vertices}
    ours = hull(drawn)
    assert {corner for corner in ours if corner not in vertices} == set()
    start, end = ours[0], ours[-1]
    above = {
        v
        for v in vertices
        if start[0] < v[0] < end[0]
        and (v[1] - start[1]) * (end[0] - start[0]) > (end[1] - start[1]) * (v[0] - start[0])
    }
    assert above <= set(ours)


@quick
@given(points, costs)
def test_random_at_matched_cost_lies_between_the_constants_and_costs_no_more(drawn, cost):
    mix = best_mixture(drawn, cost)
    accuracy, spent = (sum(p * point[i] for p, point in zip(mix, drawn, strict=True)) for i in (1, 0))
    assert sum(mix) == pytest.approx(1)
    assert min(q for _, q in drawn) - 1e-9 <= accuracy <= max(q for _, q in drawn) + 1e-9
    assert spent <= max(cost, min(c for c, _ in drawn)) + 1e-9


@st.composite
def method_sets(draw):
    n = draw(st.integers(2, 8))
    rights, prices = (
        st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=n, max_size=n),
        st.lists(costs, min_size=n, max_size=n),
    )
    return [outcomes(f"m{i}", draw(rights), draw(prices)) for i in range(draw(st.integers(2, 4)))]


@settings(max_examples=40, deadline=None)
@given(method_sets())
def test_properties_of_any_comparison(methods):
    constants = [one.label for one in methods[:-1]]
    made = compare(methods, constants=constants, subject=methods[-1].label, n_bootstrap=30)
    assert made.oracle_accuracy >= max(one.accuracy for one in methods[:-1])
    for one in made.methods:
        assert one.cost_saved is None or one.cost_saved.value <= 1
        assert one.is_on_frontier == (not one.beaten_by)
        assert one.random_accuracy <= made[made.best_constant].accuracy.value + 1e-9
    assert verdict(made)
    assert from_json(to_json(made)) == made


@settings(max_examples=20, deadline=None)
@given(method_sets(), st.randoms(use_true_random=False))
def test_the_order_of_methods_and_problems_changes_no_figure(methods, chance):
    order = chance.sample(range(methods[0].n_problems), methods[0].n_problems)
    names = ("is_correct", "cost_usd", "latency_s", "n_calls", "n_tokens", "router_cost_usd")
    moved = [
        replace(
            one,
            problem_ids=tuple(one.problem_ids[i] for i in order),
            **{name: getattr(one, name)[order] for name in names},
        )
        for one in reversed(methods)
    ]
    constants = [one.label for one in methods]
    before, after = (
        compare(methods, constants=constants, n_bootstrap=2),
        compare(moved, constants=constants, n_bootstrap=2),
    )
    assert before.oracle_usd_per_1k == pytest.approx(after.oracle_usd_per_1k)
    for one in before.methods:
        other = after[one.label]
        assert other.accuracy.value == pytest.approx(one.accuracy.value)
        assert other.random_accuracy == pytest.approx(one.random_accuracy)
        assert other.usd_per_1k.value == pytest.approx(one.usd_per_1k.value)
