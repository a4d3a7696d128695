"""What group-relative fine-tuning moves: a logit on top of the rule's value of each action.

The logit of asking an arm is linear in `CHOICE_FEATURES`; that of accepting is 0. So it can say that the rule asks too
much or too little, of what kind of arm, and when; zero weights are the rule itself. After docs/method.md, section 11.
"""

from dataclasses import dataclass

import numpy as np

from r2.answering.attempts import Attempts
from r2.answering.scorer import FloatArray, logit
from r2.training.scorer.plan import ScoredPlan

CHOICE_FEATURES = (
    "one",
    "logit of P(the best-supported result is right), 0 without one",
    "whether there is a result",
    "attempts so far",
    "the arm's cost over v",
    "the arm's P(right) alone",
)


@dataclass(frozen=True, slots=True)
class Turn:
    """A state of one question: its actions, their scores under the rule (V / v), and their features."""

    actions: tuple[str | None, ...]
    base_A: FloatArray
    features_AF: FloatArray


def turn_of(plan: ScoredPlan, attempts: Attempts, setting: int, v_usd: float) -> Turn:
    """The state as the choice logits see it."""
    values = plan.action_values(attempts)
    actions = tuple(sorted(values, key=lambda action: action or ""))
    p_results = plan.beliefs.p_right(attempts)
    q = max(p_results, default=0.0)
    rows = np.zeros((len(actions), len(CHOICE_FEATURES)))
    for row, arm in enumerate(actions):
        if arm is not None:
            rows[row] = (
                1.0,
                logit(q) if p_results else 0.0,
                float(bool(p_results)),
                len(attempts),
                plan.beliefs.cost_usd(arm, attempts) / v_usd,
                plan.alone(arm),
            )
    return Turn(actions, np.array([values[arm][setting] for arm in actions]) / v_usd, rows)


def chosen(turn: Turn, weights: FloatArray) -> str | None:
    """The action of the highest score; the first by name of equals."""
    return turn.actions[int(np.argmax(turn.base_A + turn.features_AF @ weights))]
