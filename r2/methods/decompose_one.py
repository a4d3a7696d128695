"""The decomposer's plan with every subtask on one model: what decomposing brings without routing (docs/method.md,
section 8).

No allocator and no escalation: an escalation would be routing. Where the pool has a finalizer, the one model does that
too. Settings: `model`, `decomposer`.
"""

from dataclasses import replace
from functools import partial

from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, concluded
from r2.answering.route import decompose, execute_steps, finalize
from r2.methods.cot import one_model
from r2.methods.expected import STEPS_ASSUMED, ExpectedCalls, final_answer, one_step, plans
from r2.methods.record import Method
from r2.methods.shunt import open_steps
from r2.problem import Problem


def decompose_then_one_model(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """A decompose call, then one call per subtask."""
    model = one_model(router)
    outcome.plan = plan = yield from decompose(problem, router, outcome, budget)
    outcome.steps = open_steps(plan, model)
    yield from execute_steps(problem, plan, router, outcome, budget, max_escalations=0)
    finalizer = model if router.finalizer is not None else None
    return (yield from finalize(problem, plan, replace(router, finalizer=finalizer), outcome, budget))


def _expects(router: Router) -> list[ExpectedCalls]:
    model = one_model(router)
    return [*plans(router), one_step(router, model), *final_answer(router, model)]


METHOD = Method(
    name="decompose_one",
    summary="a plan, every step on one model",
    run=partial(concluded, decompose_then_one_model),
    expects=_expects,
    assumes=STEPS_ASSUMED,
    by_default=True,
    takes_model="strongest",
)
