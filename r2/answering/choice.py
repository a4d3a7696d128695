"""What group-relative fine-tuning of a scorer moves: a logit on top of the rule's value of asking each arm
(docs/method.md, section 11; ours).

The logit is linear in `CHOICE_FEATURES`; that of accepting is 0. An action's score is its value over v, in right
answers, plus its logit; the highest is taken. So the weights can say that the rule asks too much or too little, of what
kind of arm, and when; zero weights are the rule itself. Trained by r2/training/scorer/grpo.py.
"""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from r2.answering.attempts import Attempts
from r2.answering.lookahead import Decision
from r2.answering.scored import ScoredBeliefs
from r2.answering.scorer import CHOICE_FEATURES, FloatArray

__all__ = ["CHOICE_FEATURES", "cannot_gain", "choice_features", "tuned"]

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


def tuned(decision: Decision, beliefs: ScoredBeliefs, attempts: Attempts) -> Decision:
    """The rule's decision in this state, a right answer taken as 1, where the weights of the beliefs' scorer have their
    say: the likeliest action of the tuned softmax. They weigh asking against accepting; a decision to decompose stays,
    and so does every decision without such weights, or without an arm that the rule looked ahead with."""
    if not beliefs.choice or decision.action == "decompose":
        return decision
    q = np.array(decision.q)
    valued = [
        one for one in decision.candidates if one.value_usd is not None and not cannot_gain(q, np.array(one.cost_usd))
    ]
    if not valued:
        return decision
    costs, alone = np.array([one.cost_usd for one in valued]), np.array([beliefs.alone(one.arm) for one in valued])
    logits = choice_features(q, np.array(len(attempts)), costs, alone) @ np.array(beliefs.choice)
    scores = {one.arm: float(one.value_usd or 0.0) + its for one, its in zip(valued, logits.tolist(), strict=True)}
    best = min(valued, key=lambda one: (-scores[one.arm], one.cost_usd, one.arm))
    p_results = beliefs.p_right(attempts)
    if p_results and scores[best.arm] <= decision.q:
        number = max(range(len(p_results)), key=lambda result: p_results[result])
        accepted = replace(decision, action="accept", arm=None, result=number, value_usd=decision.q, cost_usd=0.0)
        return replace(accepted, reason="not_worth_more")
    asked = replace(
        decision, action="ask", arm=best.arm, result=None, value_usd=best.value_usd or 0.0, cost_usd=best.cost_usd
    )
    return replace(asked, reason="worth_asking" if p_results else "no_result_yet")
