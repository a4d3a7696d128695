"""Looking ahead on trees, against the same rule written as a plain recursion."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from r2.answering.attempts import Attempts
from r2.answering.lookahead import HORIZON
from r2.answering.scored import ScoredBeliefs
from r2.answering.scorer import ArmProfile, FloatArray
from r2.evaluation.recorded.method import VALUES
from r2.evaluation.recorded.playing import play
from r2.evaluation.recorded.table import OutcomeTable, Question, Replies
from r2.training.scorer.choice_states import TableStates
from r2.training.scorer.grpo import likeliest_reward
from r2.training.scorer.plan import ScoredPlan
from r2.training.scorer.table_method import ScorerPolicy, fit_policy
from r2.training.scorer.tree import MAX_ASKED, NOTHING, numbered, tree_of
from tests.r2.training.test_scorer_fit import ARMS, made


def table(confidence: bool) -> OutcomeTable:
    """Some replies give no result."""
    trials = made(80, confidence=confidence)
    results = np.where(np.arange(80) % 9 == 4, -1, trials.results_AU)
    right = np.where(results < 0, 0.0, trials.right_AU)
    problems = tuple(replace(problem, benchmark="made") for problem in trials.problems)
    return OutcomeTable(
        ARMS,
        problems,
        right,
        trials.cost_usd_AU,
        replies=Replies(results),
        output_tokens_MP=trials.tokens_AU,
        confidence_MP=trials.confidence_AU if confidence else None,
    )


def recursive(beliefs: ScoredBeliefs, attempts: Attempts, v_usd: FloatArray, horizon: int) -> FloatArray:
    """V of a state at each price, as docs/method.md, section 10, has it."""
    p_right = beliefs.p_right(attempts)
    best = v_usd * max(p_right, default=0.0) if attempts else np.full_like(v_usd, -np.inf)
    if horizon and len(attempts) < MAX_ASKED:
        for arm in set(beliefs.arms) - {one.arm for one in attempts}:
            best = np.maximum(best, asking(beliefs, attempts, arm, v_usd, horizon))
    return best


def asking(beliefs: ScoredBeliefs, attempts: Attempts, arm: str, v_usd: FloatArray, horizon: int) -> FloatArray:
    value = np.full_like(v_usd, -beliefs.cost_usd(arm, attempts))
    for probability, attempt in beliefs.outcomes(attempts, arm):
        value += probability * recursive(beliefs, (*attempts, attempt), v_usd, horizon - 1)
    return value


def profiles_of(policy: ScorerPolicy) -> Mapping[str, ArmProfile]:
    return {arm: policy.scorer.arms[arm] for arm in policy.scorer.shortlist("made", ARMS)}


@pytest.fixture
def policy() -> ScorerPolicy:
    return ScorerPolicy(_fitted().scorer, _fitted().cost_ref_usd)


@cache
def _fitted() -> ScorerPolicy:
    return fit_policy(table(False))


@pytest.mark.parametrize("confidence", [False, True])
def test_values_are_those_of_the_recursion(confidence: bool):
    rows = table(confidence)
    policy = fit_policy(rows) if confidence else _fitted()
    v_usd = np.array(VALUES) * policy.cost_ref_usd
    chance = np.random.default_rng(0)
    for at in range(0, 80, 20 if confidence else 4):
        question = Question(rows, at)
        plan = policy.plan_of(question)
        beliefs = ScoredBeliefs(policy.scorer, question.problem, "made", profiles_of(policy))
        for _ in range(3):
            found = plan.action_values(question.attempts)
            assert plan.p_right(question.attempts) == pytest.approx(list(beliefs.p_right(question.attempts)))
            for arm, values in found.items():
                if arm is not None:
                    assert values == pytest.approx(asking(beliefs, question.attempts, arm, v_usd, HORIZON), rel=1e-9)
            question.ask(str(chance.choice([arm for arm in found if arm is not None])))


def test_results_are_numbered_as_they_appear():
    assert numbered([7, NOTHING, 3, 7]) == [0, NOTHING, 1, 0]


def test_states_that_differ_in_the_order_of_attempts_are_one():
    depths = tree_of((), (0, 0), (False, False), 2)
    assert [len(depth.arms) for depth in depths] == [1, 2, 2]
    last = {(*arms[:2], *results[:2]) for arms, results in zip(depths[2].arms, depths[2].results, strict=True)}
    assert last == {(0, 1, 0, 0), (0, 1, 0, 1)}
    assert len(depths[1].edges.state) == 4


def test_nobody_is_asked_after_the_fourth():
    start = tuple((arm, 0) for arm in range(MAX_ASKED))
    assert not len(tree_of(start, (0,) * 6, (True,) * 6, 3)[0].edges.state)


def test_states_of_a_table_are_worth_what_playing_it_gives(policy: ScorerPolicy):
    rows = table(False).part(range(40))
    v_usd = np.array(VALUES) * policy.cost_ref_usd
    for weights in (np.zeros(6), np.array([0.02, -0.01, 0.03, -0.02, 0.1, 0.05])):
        policy.scorer = replace(policy.scorer, choice=tuple(weights.tolist()))
        states = TableStates(rows, [policy], np.zeros(40, np.int64))
        played = play(policy, rows)
        for price in (0, 6, 14, 17):
            reward = played.right_SQ[price] - played.cost_SQ[price] / v_usd[price]
            assert likeliest_reward(states, np.arange(40), weights, [price]) == pytest.approx(reward.mean(), abs=1e-9)


def test_weights_of_zero_are_the_rule_itself(policy: ScorerPolicy):
    rows = table(False).part(range(40))
    start = play(policy, rows)
    policy.scorer = replace(policy.scorer, choice=(0.0,) * 6)
    assert (play(policy, rows).cost_SQ == start.cost_SQ).all()


def test_a_plan_accepts_what_the_first_said_of_the_best_supported_result(policy: ScorerPolicy):
    rows = table(False)
    question = Question(rows, int(np.flatnonzero((rows.is_correct_MP == 1).all(axis=0))[0]))
    plan: ScoredPlan = policy.plan_of(question)
    for arm in ("middle", "cheap"):
        question.ask(arm)
    assert plan.accepted(question.attempts) == "middle"
