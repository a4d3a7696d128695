"""Group-relative fine-tuning of choices, on a table whose best route is known."""

from collections.abc import Sequence

import numpy as np
import pytest

from r2.answering.attempts import Attempt, Attempts
from r2.answering.scorer import FloatArray
from r2.evaluation.recorded.table import OutcomeTable, Question, Replies
from r2.problem import Problem
from r2.training.scorer.choices import CHOICE_FEATURES, chosen, turn_of
from r2.training.scorer.grpo import ScorerGrpoSettings, tune

V_USD = 0.01


class Believed:
    """The cheap model is believed right with 0.97, whatever it says; the dear one with 0.98."""

    arms: Sequence[str] = ("cheap", "dear")

    def cost_usd(self, arm: str, attempts: Attempts) -> float:
        return {"cheap": 0.0001, "dear": 0.001}[arm]

    def p_right(self, attempts: Attempts) -> Sequence[float]:
        return [max({"cheap": 0.97, "dear": 0.98}[one.arm] for one in attempts)] if attempts else []

    def outcomes(self, attempts: Attempts, arm: str) -> Sequence[tuple[float, Attempt]]:
        return [(1.0, Attempt(arm, 0))]


class Plan:
    """A rule of one step: the value of an action is v * P(right) - cost."""

    beliefs = Believed()

    def action_values(self, attempts: Attempts) -> dict[str | None, FloatArray]:
        asked = {one.arm for one in attempts}
        found: dict[str | None, FloatArray] = {
            arm: np.array(
                [V_USD * max(self.alone(arm), *self.beliefs.p_right(attempts), 0) - self.beliefs.cost_usd(arm, ())]
            )
            for arm in self.beliefs.arms
            if arm not in asked
        }
        if attempts:
            found[None] = np.array([V_USD * self.beliefs.p_right(attempts)[0]])
        return found

    def accepted(self, attempts: Attempts) -> str:
        return max((one.arm for one in attempts), key=self.alone)

    def alone(self, arm: str) -> float:
        return {"cheap": 0.97, "dear": 0.98}[arm]


def table(cheap_right: float, n: int = 60) -> OutcomeTable:
    """The dear model is always right; the cheap one in this share of questions."""
    right = np.array([(np.arange(n) % 10 < 10 * cheap_right).astype(float), np.ones(n)])
    costs = np.array([[0.0001] * n, [0.001] * n])
    problems = tuple(Problem(f"q{i}", f"question {i}") for i in range(n))
    results = np.where(right > 0, 0, 1)
    return OutcomeTable(("cheap", "dear"), problems, right, costs, replies=Replies(results))


def route(weights: FloatArray) -> list[str]:
    """Whom the tuned rule asks about a question of the table."""
    question, plan = Question(table(0.5), 0), Plan()
    while (arm := chosen(turn_of(plan, question.attempts, 0, V_USD), weights)) is not None:  # type: ignore[arg-type]
        question.ask(arm)
    return [one.arm for one in question.attempts]


SETTINGS = ScorerGrpoSettings(steps=60, batch_size=30, temperature=0.05, kl=0.0, learning_rate=0.01)


def test_the_start_is_the_rule_itself() -> None:
    assert route(np.zeros(len(CHOICE_FEATURES))) == ["cheap"]


def test_it_learns_to_ask_the_dear_model_where_the_cheap_one_is_worse_than_believed() -> None:
    tuned = tune(table(0.5), lambda at: Plan(), 0, V_USD, SETTINGS)  # type: ignore[arg-type, return-value]
    assert "dear" in route(tuned.weights)
    assert np.mean(tuned.curve[-10:]) > np.mean(tuned.curve[:10]) + 0.05


def test_it_keeps_to_the_cheap_model_where_that_is_as_good_as_believed() -> None:
    tuned = tune(table(1.0), lambda at: Plan(), 0, V_USD, SETTINGS)  # type: ignore[arg-type, return-value]
    assert route(tuned.weights) == ["cheap"]


def test_a_strong_pull_to_the_start_holds_it_there() -> None:
    settings = ScorerGrpoSettings(steps=60, batch_size=30, temperature=0.05, kl=30.0, learning_rate=0.01)
    free = tune(table(0.5), lambda at: Plan(), 0, V_USD, SETTINGS)  # type: ignore[arg-type, return-value]
    held = tune(table(0.5), lambda at: Plan(), 0, V_USD, settings)  # type: ignore[arg-type, return-value]
    assert np.abs(held.weights).max() < np.abs(free.weights).max()


def test_the_same_seed_gives_the_same_weights() -> None:
    settings = ScorerGrpoSettings(steps=5, batch_size=10)
    first = tune(table(0.5), lambda at: Plan(), 0, V_USD, settings)  # type: ignore[arg-type, return-value]
    again = tune(table(0.5), lambda at: Plan(), 0, V_USD, settings)  # type: ignore[arg-type, return-value]
    assert first.weights == pytest.approx(again.weights, abs=0)
