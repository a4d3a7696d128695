"""DoT, division of thoughts: a plan as a dependency graph, each subtask to the small model or, where that is unsure, to
the large one.

Published (Shao et al., arXiv:2502.04392): two models; the graph is drawn by a further call and run level by level; a
trained adapter of the small model says which subtasks are hard, its training data made from the small model's
confidence. Ours: the decomposer writes the dependencies with the plan, and the confidence itself decides, at the price
of asking the small model first. Mended: the published runner skips the deepest level of the graph; every level is run
here, and no answer is tried again against the gold one. Settings: `decomposer` and those of r2/methods/shunt.py.
"""

from functools import partial

from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, concluded
from r2.answering.route import decompose, finalize
from r2.methods.expected import (
    STEPS_ASSUMED,
    UNSURE_ASSUMED,
    ExpectedCalls,
    final_answer,
    one_step,
    plans,
)
from r2.methods.record import Method
from r2.methods.shunt import execute_shunted, expected_shunted, open_steps, small_model
from r2.problem import Problem


def division_of_thoughts(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """Decomposes, then runs the graph; a direct plan goes the way of DataShunt."""
    outcome.plan = plan = yield from decompose(problem, router, outcome, budget)
    outcome.steps = open_steps(plan, small_model(router))
    yield from execute_shunted(problem, plan, router, outcome, budget)
    return (yield from finalize(problem, plan, router, outcome, budget))


def _expects(router: Router) -> list[ExpectedCalls]:
    steps = expected_shunted(one_step, router, router.shape.steps, is_step=True)
    return [*plans(router), *steps, *final_answer(router, router.finalizer)]


METHOD = Method(
    name="dot",
    summary="small model first at every step of a plan",
    run=partial(concluded, division_of_thoughts),
    expects=_expects,
    assumes=f"{STEPS_ASSUMED}, the small model is unsure of {UNSURE_ASSUMED}",
    routes=True,
    knob="threshold",
    values=(0.0, 0.5, 0.8, 0.95, 1.0),
    by_default=True,
)
