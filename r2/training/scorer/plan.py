"""The rule of r2/answering/lookahead.py worked out at many prices of a right answer at once, for one question or for
many together: what comparisons and fine-tuning on recorded answers need.

The beliefs are those of r2/answering/scored.py. Questions of one kind that look ahead with the same arms, and whose
attempts so far have the same pattern, are worked out on one tree (r2/training/scorer/tree.py), as arrays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from r2.answering.attempts import Attempts
from r2.answering.choice import cannot_gain, choice_features
from r2.answering.lookahead import HORIZON, MAX_ARMS, Candidate, on_outer_fronts
from r2.answering.scored import LEAST
from r2.answering.scorer import (
    SUREST,
    ArmProfile,
    FloatArray,
    IntArray,
    Scorer,
    States,
    UnitView,
    arm_features,
    length_deviation,
    logit,
    result_features,
)
from r2.problem import Problem
from r2.training.scorer.tree import MAX_ASKED, NOTHING, Depth, Start, numbered, tree_of

MOST_ROWS = 40_000
"""States of questions that are worked out in one go."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of attempts that were made, in the order of a `Start`: questions x attempts. Lengths are
    deviations, confidences logits, NaN where they are not known."""

    lengths: FloatArray
    confidences: FloatArray


@dataclass(frozen=True, slots=True)
class Values:
    """A state of several questions. `asking` is questions x arms x prices, in USD, -inf for an arm that was asked;
    `p_right` questions x results of the state."""

    asking: FloatArray
    p_right: FloatArray


class Arms:
    """Some arms at one kind of unit, as what is looked ahead with: their constants as arrays."""

    def __init__(self, scorer: Scorer, kind: str, profiles: Mapping[str, ArmProfile]) -> None:
        self.names = tuple(profiles)
        self._scorer = scorer
        self._at = [profile.at(kind) for profile in profiles.values()]
        self._view = scorer.view(Problem("", ""), kind, profiles)
        self.costs = np.array([one.cost_usd for one in self._at])
        self._accuracy = np.array([one.accuracy for one in self._at])
        self._no_result = np.array([one.no_result for one in self._at])
        self._n_levels = tuple(len(one.levels) for one in self._at)
        shape = (len(self._at), max(1, *self._n_levels))
        self._typical, self._if_right, self._if_wrong = np.full(shape, np.nan), np.ones(shape), np.ones(shape)
        for row, one in enumerate(self._at):
            for column, level in enumerate(one.levels):
                self._typical[row, column] = logit(level.typical, SUREST)
                self._if_right[row, column], self._if_wrong[row, column] = level.if_right, level.if_wrong

    def evidence(self, places: Sequence[int], attempts: Attempts) -> tuple[list[float], list[float]]:
        """(lengths, confidences) of these attempts, whose arms have these places."""
        lengths = [
            np.nan if one.output_tokens is None else length_deviation(self._at[place], one.output_tokens)
            for place, one in zip(places, attempts, strict=True)
        ]
        return lengths, [np.nan if one.confidence is None else logit(one.confidence, SUREST) for one in attempts]

    def alone(self, difficulty: FloatArray) -> FloatArray:
        """Questions x arms: P(the arm's own result is right), before anybody was asked."""
        none = np.zeros((len(difficulty), 0))
        root, first = self._tree((), 1)
        p_first, _ = self._p(first, difficulty, Evidence(none, none), is_last=True)
        _, probability = self._transitions(root, difficulty, Evidence(none, none))
        edges = root.edges
        told = edges.result != NOTHING
        found = np.zeros((len(difficulty), len(self.names)))
        for arm in range(len(self.names)):
            its = told & (edges.arm == arm)
            found[:, arm] = (probability[:, its] * p_first[:, edges.child[its], 0]).sum(axis=1)
        return found

    def values(self, start: Start, difficulty: FloatArray, seen: Evidence, v_usd: FloatArray) -> Values:
        """After the attempts `start`, with the rule's look-ahead."""
        n_states = sum(len(depth.arms) for depth in self._tree(start, HORIZON))
        step = max(1, MOST_ROWS // n_states)
        parts = [
            self._values(
                start,
                difficulty[at : at + step],
                Evidence(seen.lengths[at : at + step], seen.confidences[at : at + step]),
                v_usd,
            )
            for at in range(0, len(difficulty), step)
        ]
        return Values(np.concatenate([one.asking for one in parts]), np.concatenate([one.p_right for one in parts]))

    def _values(self, start: Start, difficulty: FloatArray, seen: Evidence, v_usd: FloatArray) -> Values:
        depths = self._tree(start, HORIZON)
        n, prices, n_arms = len(difficulty), len(v_usd), len(self.names)
        below: FloatArray = np.zeros((n, 0, prices))
        asking: FloatArray = np.full((n, 1, n_arms, prices), -np.inf)
        p_right: FloatArray = np.zeros((n, 1, 0))
        for depth in reversed(depths):
            p_right, probability = self._transitions(depth, difficulty, seen)
            value = p_right.max(axis=2, initial=0.0)[:, :, None] * v_usd
            edges = depth.edges
            if len(edges.starts):
                gained = np.add.reduceat(probability[:, :, None] * below[:, edges.child], edges.starts, axis=1)
                asking = np.full((n, len(depth.arms), n_arms, prices), -np.inf)
                asking[:, edges.pair_state, edges.pair_arm] = gained - self.costs[edges.pair_arm, None]
                value = np.maximum(value, asking.max(axis=2))
            below = value
        return Values(asking[:, 0], p_right[:, 0])

    def _tree(self, start: Start, horizon: int) -> tuple[Depth, ...]:
        return tree_of(start, self._n_levels, tuple((self._no_result > 0).tolist()), horizon)

    def _states(self, depth: Depth, difficulty: FloatArray, seen: Evidence) -> tuple[UnitView, States]:
        n, made = len(difficulty), seen.lengths.shape[1]
        shape = (n, *depth.arms.shape)
        lengths, confidences = np.full(shape, np.nan), np.full(shape, np.nan)
        foreseen = self._typical[np.maximum(depth.arms, 0), np.maximum(depth.levels, 0)]
        confidences[:] = np.where(depth.levels == NOTHING, np.nan, foreseen)
        lengths[:, :, :made], confidences[:, :, :made] = seen.lengths[:, None], seen.confidences[:, None]
        n_states, width = depth.arms.shape
        states = States(
            np.tile(depth.arms, (n, 1)),
            np.tile(depth.results, (n, 1)),
            lengths.reshape(n * n_states, width),
            confidences.reshape(n * n_states, width),
        )
        return replace(self._view, difficulty=np.repeat(difficulty, n_states)), states

    def _p(
        self, depth: Depth, difficulty: FloatArray, seen: Evidence, *, is_last: bool
    ) -> tuple[FloatArray, tuple[FloatArray, FloatArray] | None]:
        """(P(right) of each result, (p1, p0) of each arm): questions x states x results, and x arms."""
        shape = (len(difficulty), len(depth.arms))
        if not depth.n_results.any():
            return np.zeros((*shape, 0)), None
        view, states = self._states(depth, difficulty, seen)
        x, there = result_features(view, states)
        p_right = self._scorer.p_of(x, there)
        if is_last:
            return p_right.reshape(*shape, -1), None
        p1, p0 = self._scorer.p_next(arm_features(view, x, p_right, states))
        return p_right.reshape(*shape, -1), (p1.reshape(*shape, -1), p0.reshape(*shape, -1))

    def _transitions(self, depth: Depth, difficulty: FloatArray, seen: Evidence) -> tuple[FloatArray, FloatArray]:
        """(P(right) of each result, probability of each edge): questions x states x results, questions x edges. As
        `ScoredBeliefs.outcomes` gives them."""
        edges = depth.edges
        p_right, following = self._p(depth, difficulty, seen, is_last=not len(edges.state))
        if not len(edges.state):
            return p_right, np.zeros((len(difficulty), 0))
        accuracy = self._accuracy[edges.arm]
        right, wrong = np.tile(accuracy, (len(difficulty), 1)), np.tile(1 - accuracy, (len(difficulty), 1))
        if following is not None:
            told = depth.n_results[edges.state] > 0
            its_right, its_wrong = self._after_a_result(depth, p_right, *following)
            right, wrong = np.where(told, its_right, right), np.where(told, its_wrong, wrong)
        level = np.maximum(edges.level, 0)
        some = 1 - self._no_result[edges.arm]
        its = right * self._if_right[edges.arm, level] + wrong * self._if_wrong[edges.arm, level]
        probability = np.where(edges.result == NOTHING, self._no_result[edges.arm], some * its)
        return p_right, _kept(probability, edges.starts)

    def _after_a_result(
        self, depth: Depth, p_right: FloatArray, p1: FloatArray, p0: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """P(the edge's result comes and is right), and P(it comes and is wrong): questions x edges."""
        edges = depth.edges
        best = p_right.argmax(axis=2)
        q = p_right.max(axis=2)
        total = p_right.sum(axis=2)
        none = np.maximum(1 - total, 1e-9)
        says_best = (depth.arms >= 0) & (depth.results >= 0) & (depth.results == best[:, :, None])
        kappas = self._view.kappa[edges.arm[:, None], np.maximum(depth.arms, 0)[edges.state]]
        says = says_best[:, edges.state]
        kappa = (says * kappas).sum(axis=2) / np.maximum(says.sum(axis=2), 1)
        q_E, none_E, total_E = q[:, edges.state], none[:, edges.state], total[:, edges.state]
        p1_E, p0_E = p1[:, edges.state, edges.arm], p0[:, edges.state, edges.arm]
        is_best = edges.result == best[:, edges.state]
        is_known = (edges.result < depth.n_results[edges.state]) & (edges.result >= 0)
        of_result = np.clip(edges.result, 0, p_right.shape[2] - 1)
        support = np.where(is_known, p_right[:, edges.state, of_result], none_E)
        share = support / (total_E - q_E + none_E)
        right = np.where(is_best, q_E * p1_E, share * (1 - q_E) * p0_E)
        apart = q_E * (1 - p1_E) + (1 - q_E) * (1 - p0_E) * (1 - kappa)
        wrong = np.where(is_best, (1 - q_E) * (1 - p0_E) * kappa, share * apart)
        return right, wrong


def _kept(probability: FloatArray, starts: IntArray) -> FloatArray:
    """Outcomes less probable than `LEAST` left out, and the others filling their place, for each state and arm."""
    sizes = np.diff([*starts, probability.shape[1]])
    is_kept = probability >= LEAST
    any_kept = np.repeat(np.logical_or.reduceat(is_kept, starts, axis=1), sizes, axis=1)
    kept = np.where(is_kept | ~any_kept, probability, 0.0)
    return np.asarray(kept / np.repeat(np.add.reduceat(kept, starts, axis=1), sizes, axis=1))


class KindPlans:
    """How questions of one kind are planned: which arms are looked ahead with, chosen at the price `middle_usd`, and
    the values of actions at each of the prices `v_usd`."""

    def __init__(
        self, scorer: Scorer, kind: str, profiles: Mapping[str, ArmProfile], v_usd: FloatArray, middle_usd: float
    ) -> None:
        self._scorer, self._kind, self._profiles, self._middle_usd = scorer, kind, profiles, middle_usd
        self.v_usd = v_usd
        self._of: dict[tuple[str, ...], Arms] = {}

    @cached_property
    def _all(self) -> Arms:
        return self.arms(tuple(self._profiles))

    def arms(self, names: tuple[str, ...]) -> Arms:
        """These arms, made once."""
        if names not in self._of:
            self._of[names] = Arms(self._scorer, self._kind, {name: self._profiles[name] for name in names})
        return self._of[names]

    def difficulty(self, problem: Problem) -> float:
        """Of its text, in standard deviations; more is easier."""
        return self._scorer.difficulty(problem, self._kind)

    def chosen_arms(self, difficulty: FloatArray) -> list[dict[str, float]]:
        """For each question the arms that are looked ahead with, the most promising first, each with P(right) alone."""
        every = self._all
        found = []
        for row in every.alone(difficulty).tolist():
            able = [
                Candidate(name, cost, p_right, None, None, None)
                for name, cost, p_right in zip(every.names, every.costs.tolist(), row, strict=True)
            ]
            able.sort(key=lambda one: (one.cost_usd - self._middle_usd * one.p_right, one.cost_usd, one.arm))
            found.append({one.arm: one.p_right for one in on_outer_fronts(able, MAX_ARMS)})
        return found


class ScoredPlan:
    """The best action after any attempts about one question, at each of the prices of `plans`."""

    def __init__(self, plans: KindPlans, problem: Problem) -> None:
        self._difficulty = np.array([plans.difficulty(problem)])
        self._alone = plans.chosen_arms(self._difficulty)[0]
        self._arms = plans.arms(tuple(self._alone))
        self._v_usd = plans.v_usd
        self._known: dict[Attempts, tuple[Values, list[int]]] = {}

    def ask_next(self, attempts: Attempts, setting: int) -> str | None:
        """Whom to ask at the price of this number; None: accept, which of equals is taken before the others."""
        values = self.action_values(attempts)
        return max(values, key=lambda arm: (values[arm][setting], arm is None))

    def ask_tuned(self, attempts: Attempts, setting: int, choice: Sequence[float]) -> str | None:
        """The same where each arm's value has its logit on top (r2/answering/choice.py)."""
        values = self.action_values(attempts)
        v_usd = float(self._v_usd[setting])
        q = np.array(max(self.p_right(attempts), default=0.0))
        arms = [arm for arm in values if arm is not None]
        share = np.array([self._arms.costs[self._arms.names.index(arm)] for arm in arms]) / v_usd
        alone = np.array([self._alone[arm] for arm in arms])
        logits = choice_features(q, np.array(len(attempts)), share, alone) @ np.array(choice)
        scores: dict[str | None, float] = {}
        for arm, logit_of, is_lost in zip(arms, logits.tolist(), cannot_gain(q, share).tolist(), strict=True):
            if not is_lost:
                scores[arm] = values[arm][setting] / v_usd + logit_of
        if attempts:
            scores[None] = float(q)
        return max(scores, key=lambda arm: (scores[arm], arm is None))

    def p_right(self, attempts: Attempts) -> list[float]:
        """P(right) of each distinct result, in their order."""
        values, numbers = self._solved(attempts)
        return [float(values.p_right[0, number]) for number in numbers]

    def action_values(self, attempts: Attempts) -> dict[str | None, FloatArray]:
        """Every action that there is now, None for accepting (without any result: for giving up), with its value in USD
        at each of the prices."""
        values, _ = self._solved(attempts)
        asked = {one.arm for one in attempts}
        is_open = len(attempts) < MAX_ASKED
        found: dict[str | None, FloatArray] = {
            arm: values.asking[0, place] for place, arm in enumerate(self._arms.names) if is_open and arm not in asked
        }
        if attempts:
            found[None] = self._v_usd * values.p_right[0].max(initial=0.0)
        return found

    def accepted(self, attempts: Attempts) -> str:
        """The arm whose result is accepted: the first that said the best-supported one; the last asked where nobody
        gave any."""
        p_results = self.p_right(attempts)
        if not p_results:
            return attempts[-1].arm
        best = max(range(len(p_results)), key=lambda number: p_results[number])
        return next(one.arm for one in attempts if one.result == best)

    def _solved(self, attempts: Attempts) -> tuple[Values, list[int]]:
        """(values, for each result as the attempts number it its number in `p_right`)."""
        if attempts not in self._known:
            by_place = sorted(attempts, key=lambda one: self._arms.names.index(one.arm))
            places = [self._arms.names.index(one.arm) for one in by_place]
            results = numbered(NOTHING if one.result is None else one.result for one in by_place)
            lengths, confidences = self._arms.evidence(places, tuple(by_place))
            seen = Evidence(np.array([lengths]), np.array([confidences]))
            start = tuple(zip(places, results, strict=True))
            values = self._arms.values(start, self._difficulty, seen, self._v_usd)
            number = {one.result: result for one, result in zip(by_place, results, strict=True)}
            given = sorted(result for result in number if result is not None)
            self._known[attempts] = values, [number[result] for result in given]
        return self._known[attempts]
