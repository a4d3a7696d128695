"""Planning with a trained scorer: a plan is a unit of work too. Its arms are the entries that were seen planning, its
results are plans, the same where their texts are, and a plan that fails its cheap check is no result. So the rule says
who plans, whether a second opinion pays, and what decomposing is worth before anybody planned. Ours.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Final

from r2.answering.attempts import Attempt
from r2.answering.beliefs import Arm
from r2.answering.expected_cost import PLAN_TOKENS, call_usd
from r2.answering.plan_check import plan_defect
from r2.answering.prompts import decompose_messages
from r2.answering.protocol import Decided, Outcome, QuestionBudget, Router, Wave
from r2.answering.route import plan_by
from r2.answering.scored import ScoredBeliefs
from r2.answering.scored_unit import (
    decided,
    expected_tokens,
    plan_kind,
    question_kind,
    shared_beliefs,
    worth_considering,
)
from r2.answering.scorer import Scorer
from r2.answering.wanted import composes
from r2.call import Completion
from r2.plan import DIRECT, Plan
from r2.problem import Problem
from r2.problems.kind import steps_of

TYPICAL: Final = (-1.2, 0.0, 1.2)
"""Difficulties that stand for those of a kind's steps."""


@dataclass(frozen=True, slots=True)
class Planning:
    """`beliefs`: of the plan, its decomposers as arms. `worth`: what decomposing is worth, in units of a right answer:
    P(the plan is right) less its calls, less what its steps are expected to lose by being wrong or by their costs."""

    beliefs: ScoredBeliefs
    worth: float


def planning(problem: Problem, router: Router, scorer: Scorer, v_usd: float) -> Planning | None:
    """None where the scorer has seen nobody plan for such a question, or its steps are not known."""
    kind = question_kind(problem)
    name = plan_kind(kind)
    steps: Mapping[str, float] = steps_of(problem.question) or scorer.kind(kind).steps
    cards = [card for _, card in sorted(router.roster.by_name.items()) if _has_planned(scorer, card.name, name)]
    if not cards or not steps:
        return None
    costs = {}
    for card in cards:
        n_tokens = expected_tokens(scorer.arms[card.name].at(name))
        messages = decompose_messages(problem, card.prompt_mode)
        costs[card.name] = call_usd(card, messages, PLAN_TOKENS if n_tokens is None else n_tokens) / v_usd
    arms = [Arm(card.name, scorer.arms[card.name].at(name).accuracy, 0.0, (), card.weights) for card in cards]
    beliefs = shared_beliefs(scorer, name, arms, costs, scorer.difficulty(problem, name))
    horizon = router.settings.horizon
    worth = decided(beliefs, (), horizon, None).value_usd
    for step_kind, n in steps.items():
        worth -= n * (1 - _step_value(scorer, router, step_kind, v_usd))
    return Planning(beliefs, round(worth, 5))


def _has_planned(scorer: Scorer, name: str, kind: str) -> bool:
    return name in scorer.arms and kind in scorer.arms[name].kinds


def _step_value(scorer: Scorer, router: Router, kind: str, v_usd: float) -> float:
    """What a step of this kind is worth before anybody was asked, on average over easier and harder ones."""
    cards = [card for card in router.roster.solvers if card.name in scorer.arms]
    kept = set(worth_considering(scorer, kind, [card.name for card in cards]))
    at = {card.name: scorer.arms[card.name].at(kind) for card in cards if card.name in kept}
    arms = [Arm(card.name, at[card.name].accuracy, 0.0, (), card.weights) for card in cards if card.name in at]
    costs = {name: its.cost_usd / v_usd for name, its in at.items()}
    values = [
        decided(shared_beliefs(scorer, kind, arms, costs, hard), (), router.settings.horizon, None).value_usd
        for hard in TYPICAL
    ]
    return sum(values) / len(values)


def plan_by_scorer(
    problem: Problem, router: Router, its: Planning, v_usd: float, outcome: Outcome, budget: QuestionBudget
) -> Generator[Wave, list[Completion], Plan]:
    """The plan that the rule accepts; DIRECT where nobody gave one, and the trajectory says why. `Stop` where a failure
    says nothing about the question."""
    attempts: tuple[Attempt, ...] = ()
    plans: list[Plan] = []
    doubtful = DIRECT
    while True:
        decision = decided(its.beliefs, attempts, router.settings.horizon, None)
        outcome.decisions.append(
            Decided(None, len(attempts), v_usd, decision, decision.arm, f"planning_{decision.reason}")
        )
        if decision.arm is None:
            return doubtful if decision.result is None else plans[decision.result]
        plan, failed = yield from plan_by(decision.arm, problem, router, budget, may_escalate=True)
        if failed is None:
            failed = no_plan(problem, plan, is_last_step_answer=not composes(problem, router))
        if failed is not None:
            outcome.failed_checks.append(failed)
            doubtful = plan if not plan.is_direct else doubtful
        if failed is None and plan not in plans:
            plans.append(plan)
        result = None if failed is not None else plans.index(plan)
        attempts = (*attempts, Attempt(decision.arm, result))


def no_plan(problem: Problem, plan: Plan, *, is_last_step_answer: bool) -> str | None:
    """Why a plan is no result: it is direct, or fails its cheap check; None where it is one."""
    if plan.is_direct:
        return "plan_direct"
    return plan_defect(problem, plan, is_last_step_answer=is_last_step_answer)
