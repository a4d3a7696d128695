"""Promised accuracy: the floor holds as often as it says, and a version is promoted no further than the rows show."""

import numpy as np
import pytest

from r2.errors import ConfigError
from r2.evaluation.floor import (
    certify,
    certify_counts,
    fewest_rows,
    margin_held,
    no_worse_by,
    rows_missing,
    rows_needed,
    tail,
)

THETAS = (8.0, 4.0, 2.0, 1.0, 0.5)
ACCURACIES = (0.985, 0.98, 0.97, 0.95, 0.90)


def test_the_tail_is_the_binomial_one():
    assert tail(3, 3, 0.5) == pytest.approx(1 / 8)
    assert tail(2, 3, 0.5) == pytest.approx(4 / 8)
    assert tail(0, 3, 0.5) == pytest.approx(1.0)


def test_the_path_ends_at_the_first_setting_that_is_not_shown():
    floor = certify_counts([100, 99, 90, 100], 100, (4.0, 3.0, 2.0, 1.0), 0.9, 0.05)

    assert floor.theta == 3.0
    assert [one.theta for one in floor.tested] == [4.0, 3.0, 2.0], "what comes after a miss is not tested"
    assert "Setting 3: at least 90.0% are right, with 95.0% confidence: 99 of 100 rows" in floor.said


def test_rows_and_counts_come_to_the_same():
    right_VR = [[1] * 60, [1] * 59 + [0]]

    assert certify(right_VR, (2.0, 1.0), 0.95, 0.05) == certify_counts([60, 59], 60, (2.0, 1.0), 0.95, 0.05)


def test_at_0_95_it_takes_59_rows_without_a_miss():
    assert fewest_rows(0.95, 0.05) == 59
    assert certify_counts([59], 59, (1.0,), 0.95, 0.05).theta == 1.0
    assert certify_counts([58], 58, (1.0,), 0.95, 0.05).theta is None


def test_a_dev_set_that_is_too_small_is_told_how_many_rows_it_needs():
    floor = certify_counts([49], 50, (1.0,), 0.95, 0.05)

    assert floor.theta is None and floor.rows_needed is not None
    needed = floor.rows_needed
    assert tail(int(0.98 * needed + 1e-9), needed, 0.95) <= 0.05
    assert f"it takes {needed} rows, {needed - 50} more" in floor.said


def test_no_number_of_rows_lifts_a_share_above_its_target():
    floor = certify_counts([93], 100, (1.0,), 0.95, 0.05)

    assert floor.theta is None and floor.rows_needed is None
    assert "no number of rows" in floor.said
    assert rows_needed(0.95, 0.95, 0.05) is None


@pytest.mark.parametrize("seed", [0, 1])
def test_the_promise_is_broken_in_at_most_delta_of_the_runs_and_not_kept_by_the_dearest_setting(seed):
    chance = np.random.default_rng(seed)
    n_broken = n_dearest = 0
    for _ in range(200):
        luck_R = chance.random(1000)
        right_VR = [(luck_R < accuracy).astype(int).tolist() for accuracy in ACCURACIES]
        theta = certify(right_VR, THETAS, 0.95, 0.05).theta
        if theta is not None:
            n_broken += ACCURACIES[THETAS.index(theta)] < 0.95
        n_dearest += theta in (None, THETAS[0])

    assert n_broken <= 16
    assert n_dearest <= 0.2 * 200


def test_a_setting_just_below_the_target_passes_in_at_most_delta_of_the_runs():
    chance = np.random.default_rng(0)
    n_passed = sum(
        certify_counts([int(chance.binomial(400, 0.9499))], 400, (1.0,), 0.95, 0.05).theta is not None
        for _ in range(200)
    )

    assert 0 < n_passed <= 16, "never passing would be no promise but a refusal"


def test_bounds_of_no_losses_and_no_wins():
    # Clopper-Pearson at 0.025 for 0 of 100: 1 - 0.025^(1/100)
    assert no_worse_by(0, 0, 100, 0.05) == pytest.approx(1 - 0.025 ** (1 / 100))
    assert no_worse_by(100, 0, 100, 0.05) == 1.0
    assert no_worse_by(0, 100, 100, 0.05) == pytest.approx(1 - 0.025 ** (1 / 100) - 0.025 ** (1 / 100))


def test_a_version_that_only_wins_holds_every_margin():
    assert margin_held(0, 40, 200, 0.05) == 0.0
    assert rows_missing(0, 40, 200, 0.01, 0.05) == 0


def test_what_the_rows_at_hand_cannot_show_is_counted_in_rows():
    n = 200
    missing = rows_missing(10, 10, n, 0.01, 0.05)

    assert missing is not None and missing > 2_700, "d = 0.10 at a margin of 0.01"
    rows = n + missing
    assert no_worse_by(round(0.05 * rows), round(0.05 * rows), rows, 0.05) == pytest.approx(0.01, abs=1e-3)
    assert margin_held(10, 10, n, 0.05) == pytest.approx(no_worse_by(10, 10, n, 0.05))


def test_a_version_that_loses_more_than_the_margin_is_never_shown_to_hold_it():
    assert rows_missing(20, 10, 200, 0.05, 0.05) is None


def test_a_true_loss_beyond_the_bound_is_rare():
    chance = np.random.default_rng(0)
    n_broken = 0
    for _ in range(200):
        losses, wins, _ = chance.multinomial(300, [0.08, 0.04, 0.88])
        n_broken += no_worse_by(int(losses), int(wins), 300, 0.05) < 0.08 - 0.04
    assert n_broken <= 16


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: certify([[1, 0]], (1.0, 2.0), 0.9, 0.05), "1 settings were run and 2 are named"),
        (lambda: certify([[1, 0], [1]], (2.0, 1.0), 0.9, 0.05), "1 to 2 rows"),
        (lambda: certify([[0.5]], (1.0,), 0.9, 0.05), "0.5 right"),
        (lambda: certify([], (), 0.95, 0.05), "at least 59"),
        (lambda: certify_counts([1], 1, (1.0,), 1.0, 0.05), "the target accuracy is 1"),
        (lambda: certify_counts([1], 1, (1.0,), 0.9, float("nan")), "delta is nan"),
        (lambda: no_worse_by(2, 2, 3, 0.05), "2 losses and 2 wins of 3"),
    ],
)
def test_what_cannot_be_promised_on_is_refused_by_name(call, said):
    with pytest.raises(ConfigError, match=said):
        call()
