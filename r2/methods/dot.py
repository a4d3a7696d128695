"""DoT, division of thoughts: a plan as a dependency graph, each subtask to the small model or, where that is unsure, to
the large one.

Published (Shao et al., arXiv:2502.04392): two models; the graph is drawn by a further call and run level by level; a
trained adapter of the small model says which subtasks are hard, its training data made from the small model's
confidence. Ours: the decomposer writes the dependencies with the plan, and the confidence itself decides, at the price
of asking the small model first. Mended: the published runner skips the deepest level of the graph; every level is run
here, and no answer is tried again against the gold one. Settings: `decomposer` and those of r2/methods/shunt.py.
"""

from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router
from r2.answering.route import decompose, finalize
from r2.methods.shunt import execute_shunted, open_steps, small_model
from r2.problem import Problem


def division_of_thoughts(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """Decomposes, then runs the graph; a direct plan goes the way of DataShunt."""
    outcome.plan = plan = yield from decompose(problem, router, outcome, budget)
    outcome.steps = open_steps(plan, small_model(router))
    yield from execute_shunted(problem, plan, router, outcome, budget)
    return (yield from finalize(problem, plan, router, outcome, budget))
