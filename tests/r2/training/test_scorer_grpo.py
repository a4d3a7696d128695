"""Group-relative fine-tuning of choices, on states whose best route is known."""

import numpy as np
import pytest

from r2.answering.choice import CHOICE_FEATURES, cannot_gain, choice_features
from r2.answering.scorer import FloatArray, IntArray
from r2.training.scorer.grpo import ScorerGrpoSettings, likeliest_reward, tune

COSTS = np.array([0.01, 0.1])
BELIEVED = np.array([0.97, 0.98])
CHEAP, DEAR = 0b01, 0b10


class Two:
    """Questions to a cheap model, believed right with 0.97, which is right in `cheap_right` of them, and to a dear one,
    believed right with 0.98, which always is. Costs are shares of a right answer."""

    def __init__(self, cheap_right: float, n: int = 60) -> None:
        self.n_questions = n
        self.cheap = (np.arange(n) % 10 < 10 * cheap_right).astype(float)

    def actions(self, at: IntArray, state: IntArray, price: IntArray) -> tuple[FloatArray, FloatArray]:
        asked = np.stack([state & CHEAP > 0, state & DEAR > 0], axis=1)
        q = np.where(asked, BELIEVED, 0.0).max(axis=1)
        base = np.full((len(at), 3), -np.inf)
        base[:, :2] = np.where(asked, -np.inf, np.maximum(BELIEVED, q[:, None]) - COSTS)
        base[:, 2] = np.where(state > 0, q, -np.inf)
        found = np.zeros((len(at), 3, len(CHOICE_FEATURES)))
        found[:, :2] = choice_features(q[:, None], asked.sum(axis=1)[:, None], COSTS[None], BELIEVED[None])
        return base, found

    def rewards(self, at: IntArray, state: IntArray, price: IntArray) -> FloatArray:
        right = np.where(state & DEAR > 0, 1.0, self.cheap[at])
        return np.asarray(right - np.stack([state & CHEAP > 0, state & DEAR > 0], axis=1) @ COSTS)


def asks_dear(weights: FloatArray) -> bool:
    """Whether the likeliest route of a question that the cheap model has wrong asks the dear one."""
    return likeliest_reward(Two(0.0, 1), np.array([0]), weights, [0]) > 0.5


SETTINGS = ScorerGrpoSettings(steps=60, batch_size=30, temperature=0.05, kl=0.0, learning_rate=0.01)


def test_the_start_is_the_rule_itself() -> None:
    assert not asks_dear(np.zeros(len(CHOICE_FEATURES)))


def test_it_learns_to_ask_the_dear_model_where_the_cheap_one_is_worse_than_believed() -> None:
    tuned = tune(Two(0.5), SETTINGS, [0])
    assert asks_dear(tuned.weights)
    assert tuned.best_step > 0
    assert max(tuned.dev_curve) > tuned.dev_curve[0] + 0.1
    assert np.mean(tuned.curve[-5:]) > np.mean(tuned.curve[:5]) + 0.05


def test_it_keeps_the_start_where_the_cheap_model_is_as_good_as_believed() -> None:
    tuned = tune(Two(1.0), SETTINGS, [0])
    assert not asks_dear(tuned.weights)
    assert tuned.best_step == 0
    assert not tuned.weights.any()


def test_training_ends_when_it_gains_nothing_more() -> None:
    tuned = tune(Two(1.0), ScorerGrpoSettings(steps=200, check_every=5, patience=2), [0])
    assert len(tuned.curve) == 10


def test_a_strong_pull_to_the_start_holds_it_there() -> None:
    held = tune(Two(0.5), ScorerGrpoSettings(steps=60, batch_size=30, temperature=0.05, kl=30.0), [0])
    free = tune(Two(0.5), SETTINGS, [0])
    assert np.abs(held.weights).max() < np.abs(free.weights).max()


def test_questions_that_say_when_to_stop_are_not_learned_from() -> None:
    learned: set[int] = set()

    class Told(Two):
        def rewards(self, at: IntArray, state: IntArray, price: IntArray) -> FloatArray:
            if len(set(at.tolist())) > 1 and len(at) != 15:
                learned.update(at.tolist())
            return super().rewards(at, state, price)

    tune(Told(0.5), ScorerGrpoSettings(steps=2, batch_size=45, group_size=4), [0], dev=range(15))
    assert learned == set(range(15, 60))


def test_the_same_seed_gives_the_same_weights() -> None:
    first, again = (tune(Two(0.5), ScorerGrpoSettings(steps=20, batch_size=10), [0]) for _ in range(2))
    assert first.weights == pytest.approx(again.weights, abs=0)


def test_features_say_what_there_is() -> None:
    found = choice_features(np.array([0.0, 0.5, 0.9]), np.array([0, 1, 2]), np.array([0.1] * 3), np.array([0.8] * 3))
    assert found[0].tolist() == [1, 0, 0, 0, 0.1, 0.8]
    assert found[1].tolist() == [1, 0, 1, 1, 0.1, 0.8]
    assert found[2, 1] == pytest.approx(np.log(9))


def test_an_arm_that_costs_more_than_is_left_to_gain_is_not_asked() -> None:
    q, share = np.array([0.0, 0.9, 0.9]), np.array([1.5, 0.2, 0.05])
    assert cannot_gain(q, share).tolist() == [False, True, False]
