"""The states of the questions of a table that group-relative fine-tuning walks through, many at a time.

A state is a question with the set of arms that were asked about it, as bits over the arms that its plan looks ahead
with: the table says what each of them answers. When a set of arms is first reached, it is worked out for all questions,
those of one pattern together (r2/training/scorer/plan.py).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from r2.answering.choice import CHOICE_FEATURES, cannot_gain, choice_features
from r2.answering.lookahead import MAX_ARMS
from r2.answering.scorer import FloatArray, IntArray
from r2.evaluation.recorded.method import VALUES
from r2.evaluation.recorded.table import OutcomeTable, Question
from r2.training.scorer.plan import Arms, Evidence
from r2.training.scorer.table_method import ScorerPolicy
from r2.training.scorer.tree import NOTHING, Start, numbered

ACCEPT = MAX_ARMS
"""The place of accepting among the actions; before it are the arms."""


class States(Protocol):
    """What `tune` (r2/training/scorer/grpo.py) plays on. States are numbered as bits over the arms that were asked; 0:
    nobody."""

    n_questions: int

    def actions(self, at: IntArray, state: IntArray, price: IntArray) -> tuple[FloatArray, FloatArray]:
        """(scores of the rule, V / v, -inf for what cannot be done; features of the logits), of these questions in
        these states at the prices of these numbers: states x actions, and x features. The last action is to accept."""

    def rewards(self, at: IntArray, state: IntArray, price: IntArray) -> FloatArray:
        """1[right] - cost / v where what there is is accepted."""


class TableStates:
    """Of a table's questions, each planned by the policy that its place names in `policies`."""

    def __init__(self, table: OutcomeTable, policies: Sequence[ScorerPolicy], policy_of: IntArray) -> None:
        self.n_questions = n = table.n_problems
        self.v_usd = np.array(VALUES) * policies[0].cost_ref_usd
        self._arms: list[Arms] = []
        self._difficulty = np.zeros(n)
        shape = (n, MAX_ARMS)
        self._alone, self._expected, self._cost, self._right = (np.zeros(shape) for _ in range(4))
        self._lengths, self._confidences = np.full(shape, np.nan), np.full(shape, np.nan)
        self._results = np.full(shape, NOTHING, np.int64)
        self._n_arms = np.zeros(n, np.int64)
        for at in range(n):
            self._prepare(table, at, policies[policy_of[at]])
        n_states = 1 << MAX_ARMS
        self._n_asked = np.array([state.bit_count() for state in range(n_states)])
        self._is_known = np.zeros((n, n_states), np.bool_)
        self._scores = np.full((n, n_states, MAX_ARMS + 1, len(self.v_usd)), -np.inf, np.float32)
        self._q, self._is_right = np.zeros((n, n_states)), np.zeros((n, n_states))

    def actions(self, at: IntArray, state: IntArray, price: IntArray) -> tuple[FloatArray, FloatArray]:
        self._work_out(at, state)
        base = self._scores[at, state, :, price].astype(np.float64)
        share = self._expected[at] / self.v_usd[price][:, None]
        found = np.zeros((len(at), MAX_ARMS + 1, len(CHOICE_FEATURES)))
        q, n_asked = self._q[at, state][:, None], self._n_asked[state][:, None]
        found[:, :ACCEPT] = choice_features(q, n_asked, share, self._alone[at])
        base[:, :ACCEPT][cannot_gain(q, share)] = -np.inf
        return base, found

    def rewards(self, at: IntArray, state: IntArray, price: IntArray) -> FloatArray:
        self._work_out(at, state)
        bits = (state[:, None] >> np.arange(MAX_ARMS)) & 1
        cost = (bits * self._cost[at]).sum(axis=1)
        return np.asarray(self._is_right[at, state] - cost / self.v_usd[price])

    def _prepare(self, table: OutcomeTable, at: int, policy: ScorerPolicy) -> None:
        question = Question(table, at)
        plans = policy.plans_of(question.problem.benchmark or "all", question.models)
        self._difficulty[at] = plans.difficulty(question.problem)
        alone = plans.chosen_arms(self._difficulty[at : at + 1])[0]
        alone = dict(
            sorted(alone.items())
        )  # many questions look ahead with the same arms: they are worked out together
        arms = plans.arms(tuple(alone))
        self._arms.append(arms)
        n = self._n_arms[at] = len(alone)
        attempts = tuple(question.ask(name) for name in arms.names)
        lengths, confidences = arms.evidence(range(n), attempts)
        rows = [table.models.index(name) for name in arms.names]
        self._alone[at, :n], self._expected[at, :n] = list(alone.values()), arms.costs
        self._cost[at, :n], self._right[at, :n] = table.cost_usd_MP[rows, at], table.is_correct_MP[rows, at]
        self._lengths[at, :n], self._confidences[at, :n] = lengths, confidences
        self._results[at, :n] = [NOTHING if one.result is None else one.result for one in attempts]

    def _work_out(self, at: IntArray, state: IntArray) -> None:
        for asked in np.unique(state[~self._is_known[at, state]]).tolist():
            places = [place for place in range(MAX_ARMS) if asked >> place & 1]
            is_new = ~self._is_known[:, asked] & (self._n_arms > max(places, default=0))
            alike: dict[tuple[int, Start], list[int]] = {}
            for question in np.flatnonzero(is_new).tolist():
                start = tuple(zip(places, numbered(self._results[question, places].tolist()), strict=True))
                alike.setdefault((id(self._arms[question]), start), []).append(question)
            for (_, start), questions in alike.items():
                self._work_out_alike(np.array(questions), asked, start)

    def _work_out_alike(self, at: IntArray, state: int, start: Start) -> None:
        arms, places = self._arms[at[0]], np.array([place for place, _ in start], np.int64)
        seen = Evidence(self._lengths[at[:, None], places], self._confidences[at[:, None], places])
        values = arms.values(start, self._difficulty[at], seen, self.v_usd)
        self._is_known[at, state] = True
        self._scores[at, state, : len(arms.names)] = values.asking / self.v_usd
        if not start:
            return
        q = values.p_right.max(axis=1, initial=0.0)
        self._q[at, state] = q
        self._scores[at, state, ACCEPT] = q[:, None]
        self._is_right[at, state] = self._right[at, _accepted(values.p_right, start)]


def _accepted(p_right: FloatArray, start: Start) -> IntArray:
    """The place of the arm whose result is accepted: the first that said the best-supported one; the last where nobody
    gave any."""
    firsts: dict[int, int] = {}
    for place, result in start:
        firsts.setdefault(result, place)
    if not p_right.shape[1]:
        return np.full(len(p_right), start[-1][0])
    return np.array([firsts[number] for number in p_right.argmax(axis=1).tolist()])
