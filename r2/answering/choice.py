"""What group-relative fine-tuning of a scorer moves: a logit on top of the rule's value of asking each arm
(docs/method.md, section 11; ours).

The logit is linear in `CHOICE_FEATURES`; that of accepting is 0. An action's score is its value over v, in right
answers, plus its logit; the highest is taken. So the weights can say that the rule asks too much or too little, of what
kind of arm, and when; zero weights are the rule itself. Trained by r2/training/scorer/grpo.py.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from r2.answering.scorer import FloatArray

CHOICE_FEATURES: Final = (
    "one",
    "logit of P(the best-supported result is right), 0 without one",
    "whether there is a result",
    "attempts so far",
    "the arm's cost over v",
    "the arm's P(right) alone",
)
LEAST_Q: Final = 0.005
"""Probabilities are cut to this, and to 1 less this, before their logit is taken."""


def choice_features(q: FloatArray, n_attempts: FloatArray, cost_share: FloatArray, alone: FloatArray) -> FloatArray:
    """`CHOICE_FEATURES` over the last axis, of arrays that go together: P(the best-supported result is right) (0: there
    is none), attempts so far, the arm's cost over v, and its P(right) before anybody was asked."""
    q, n_attempts, cost_share, alone = np.broadcast_arrays(q, n_attempts, cost_share, alone)
    is_told = q > 0
    cut = np.clip(q, LEAST_Q, 1 - LEAST_Q)
    logits = np.where(is_told, np.log(cut / (1 - cut)), 0.0)
    return np.stack([np.ones_like(logits), logits, is_told, n_attempts, cost_share, alone], axis=-1)


def cannot_gain(q: FloatArray, cost_share: FloatArray) -> NDArray[np.bool_]:
    """Whether an arm costs more than a right answer could still gain, so that it is not asked, whatever its logit; it
    is asked where nobody gave a result."""
    return np.asarray((q > 0) & (cost_share >= 1 - q))
