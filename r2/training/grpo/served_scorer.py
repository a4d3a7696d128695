"""A scorer on recorded answers as it is served: asked question by question by the rule that answers with it
(r2/answering/sequential.py), at one price of a right answer. What the promotion of a tuned choice is decided by."""

from dataclasses import replace

import numpy as np

from r2.answering.lookahead import HORIZON
from r2.answering.scored import ScoredBeliefs
from r2.answering.scored_unit import decided, worth_considering
from r2.answering.scorer import Scorer
from r2.evaluation.recorded.table import OutcomeTable, Question
from r2.training.grpo.promotion import HeldOut
from r2.training.scorer.tree import MAX_ASKED


def served(scorer: Scorer, table: OutcomeTable, v_usd: float, cost_ref_usd: float) -> HeldOut:
    """Every question of the table answered at `v_usd` per right answer; shares of cost are of `cost_ref_usd`."""
    right, cost = np.zeros(table.n_problems), np.zeros(table.n_problems)
    for at in range(table.n_problems):
        question = Question(table, at)
        answers = answered(scorer, question, v_usd)
        right[at] = table.is_correct_MP[table.models.index(answers), at]
        cost[at] = question.cost_usd
    ids = tuple(problem.problem_id for problem in table.problems)
    shares = cost / cost_ref_usd if cost_ref_usd else np.zeros_like(cost)
    return HeldOut(ids, tuple(right.tolist()), tuple(cost.tolist()), tuple(shares.tolist()))


def answered(scorer: Scorer, question: Question, v_usd: float) -> str:
    """The model whose answer is given: the first that said the accepted result; the last asked where nobody gave
    any."""
    kind = question.problem.benchmark or "all"
    known = [arm for arm in question.models if arm in scorer.arms]
    profiles = {arm: scorer.arms[arm] for arm in worth_considering(scorer, kind, known)}
    costs = {arm: profile.at(kind).cost_usd / v_usd for arm, profile in profiles.items()}
    beliefs = ScoredBeliefs(scorer, question.problem, kind, profiles, costs)
    while True:
        left = beliefs if len(question.attempts) < MAX_ASKED else beliefs.without(set(profiles))
        attempts = tuple(
            replace(
                one,
                confidence=beliefs.told(one.arm, one.confidence),
                output_tokens=beliefs.told_length(one.output_tokens),
            )
            for one in question.attempts
        )
        decision = decided(left, attempts, HORIZON, None)
        if decision.arm is None:
            break
        question.ask(decision.arm)
    said = [one.arm for one in question.attempts if one.result is not None and one.result == decision.result]
    return said[0] if said else question.attempts[-1].arm
