"""What a right answer to a question is worth, and what the rule of sequential routing is then expected to ask, to cost
and to reach (docs/method.md, section 10; ours). Pure.

Where no value is named, a right answer counts fifty chains of thought of the largest model, or less: so much less that
the question is expected to cost the share of one that a router is for. That is done only where the errors of the chain
of thought are not exceeded. So kinds at which nobody is good are not asked dearly in vain, and second opinions on
results that are sure already are not bought at any price.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from r2.answering.attempts import Attempts
from r2.answering.beliefs import ProfileBeliefs
from r2.answering.expected_cost import cost_ref_usd
from r2.answering.lookahead import Decision, Waits
from r2.answering.open_unit import PLAN_ARM, STEP_BY_STEP, able, decided, open_step, step_beliefs, unit_of, waits_of
from r2.answering.prompts import DIRECT_STEP
from r2.answering.protocol import Router
from r2.answering.unit import Unit
from r2.plan import Subtask
from r2.problem import Problem

if TYPE_CHECKING:
    from r2.answering.scored import ScoredBeliefs

VALUES_IN_REFS: Final = (50.0, 35.0, 25.0, 18.0, 12.0, 8.0, 6.0, 4.0, 3.0)
"""What a right answer may be worth by default, in costs of the question on the largest model thinking step by step: the
first one, where the goals below do not ask for less."""
COST_GOAL: Final = 0.6
"""Share of the cost of that chain of thought that a question is expected to come to at most."""
ERROR_GOAL: Final = 1.05
"""Of the errors that the chain of thought is expected to make: more are not taken for a lower bill."""
LEAST_SHARE: Final = 0.01
"""Of questions: what happens to fewer is left out of an estimate."""
LEAST_SHARE_FOR_VALUE: Final = 0.05
"""Likewise where only the value is sought: that is done for every question, and must be quick."""


def value_usd(problem: Problem, router: Router) -> float:
    """What a right answer is worth, v: `value_usd` of the settings, else `value_in_refs` times the cost of the question
    on the largest model; times exp(-b)."""
    chosen = router.settings
    worth = chosen.value_usd
    if worth is None:
        worth = value_in_refs(problem, router) * cost_ref_usd(problem, router)
    return worth * math.exp(-chosen.b)


def value_in_refs(problem: Problem, router: Router) -> float:
    """The highest of `VALUES_IN_REFS` at which the question is expected to cost no more than `COST_GOAL`, if it is then
    expected to be wrong no more often than `ERROR_GOAL` allows; else the first one. With a trained scorer, and where
    the chain of thought is no arm, the first one."""
    most = VALUES_IN_REFS[0]
    name = router.roster.step_by_step(router.roster.strongest)
    if router.scorer is not None:
        return most
    ref_usd = cost_ref_usd(problem, router)
    for refs in VALUES_IN_REFS:
        v_usd = refs * ref_usd
        unit = _question(problem, router, v_usd)
        if not isinstance(unit.beliefs, ProfileBeliefs):
            return most
        its = _expected(unit.beliefs, router.settings.horizon, router.settings.max_escalations, unit.waits)
        if its.cost * refs > COST_GOAL:
            continue
        p_ref = next((arm.p_right for arm in unit.beliefs.known if arm.name in (name, name + STEP_BY_STEP)), None)
        is_as_good = p_ref is not None and 1 - its.p_right <= ERROR_GOAL * (1 - p_ref)
        return refs if is_as_good else most
    return most


@dataclass(frozen=True, slots=True)
class Expected:
    """What a question is expected to cost, in units of v, and P(its answer is right)."""

    cost: float
    p_right: float


@lru_cache(maxsize=4096)
def _expected(beliefs: ProfileBeliefs, horizon: int, n_further: int, waits: Waits) -> Expected:
    """If what is believed is true and every call succeeds."""
    cost = p_right = ended = 0.0
    for share, decision in _states(beliefs, horizon, n_further, None, waits, LEAST_SHARE_FOR_VALUE):
        if decision.action == "accept":
            p_right, ended = p_right + share * decision.q, ended + share
        else:
            cost += share * decision.cost_usd
    return Expected(cost, p_right / ended if ended else 0.0)


@dataclass(slots=True)
class ExpectedAsks:
    """How often a question is expected to be asked of each arm, to be decomposed, and its steps of each arm."""

    whole: dict[str, float] = field(default_factory=dict)
    plans: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)


def expected_asks(problem: Problem, router: Router) -> ExpectedAsks:
    """What the rule is expected to do with such a question, if what it believes is true and every call succeeds."""
    v_usd, expected = value_usd(problem, router), ExpectedAsks()
    unit = _question(problem, router, v_usd)
    expected.plans = _add_asks(expected.whole, 1.0, unit.beliefs, unit.decompose, router, unit.waits)
    if expected.plans:
        waits = waits_of(router, able(problem, router), v_usd)
        for n, beliefs in step_beliefs(problem, router, v_usd):
            _add_asks(expected.steps, expected.plans * n, beliefs, None, router, waits)
    return expected


def _question(problem: Problem, router: Router, v_usd: float) -> Unit:
    return unit_of(problem, router, open_step(Subtask(DIRECT_STEP), router), v_usd, None, is_answer=True)


def _add_asks(
    asks: dict[str, float],
    weight: float,
    beliefs: "ProfileBeliefs | ScoredBeliefs",
    decompose: float | None,
    router: Router,
    waits: Waits,
) -> float:
    """Adds what a unit is expected to ask, times `weight`; returns the share that is decomposed."""
    decomposed = 0.0
    chosen = router.settings
    for share, decision in _states(beliefs, chosen.horizon, chosen.max_escalations, decompose, waits):
        if decision.action == "decompose":
            decomposed += share
        for arm in (decision.arm, decision.beside):
            if arm is not None:
                asks[arm] = asks.get(arm, 0.0) + weight * share
    return decomposed


def _states(
    beliefs: "ProfileBeliefs | ScoredBeliefs",
    horizon: int,
    n_further: int,
    decompose: float | None,
    waits: Waits,
    least_share: float = LEAST_SHARE,
) -> Iterator[tuple[float, Decision]]:
    """The states that a unit is expected to come to: how probable each is, and what is decided there."""
    ahead: list[tuple[float, Attempts, int]] = [(1.0, (), n_further + 1)]
    while ahead:
        further: list[tuple[float, Attempts, int]] = []
        for share, attempts, n_left in ahead:
            its_horizon = min(horizon, max(n_left, 1))
            decision = decided(_left(beliefs, n_left), attempts, its_horizon, decompose, waits)
            yield share, decision
            is_plan = decision.action == "decompose" and PLAN_ARM in beliefs.arms
            asked = [PLAN_ARM] if is_plan else [arm for arm in (decision.arm, decision.beside) if arm is not None]
            reached = [(share, attempts)]
            for arm in asked:
                reached = [
                    (p_before * p, (*before, attempt))
                    for p_before, before in reached
                    for p, attempt in beliefs.outcomes(before, arm)
                    if p_before * p > least_share
                ]
            n_then = n_left if is_plan else n_left - len(asked)
            further += [(p, reaching, n_then) for p, reaching in reached if asked]
        ahead = further


def _left(beliefs: "ProfileBeliefs | ScoredBeliefs", n_left: int) -> "ProfileBeliefs | ScoredBeliefs":
    """With the arms that may still be asked: none but the plan where the bound on further asks is reached."""
    return beliefs if n_left > 0 else beliefs.without(set(beliefs.arms) - {PLAN_ARM})
