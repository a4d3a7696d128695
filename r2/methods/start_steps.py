"""The decomposer's plan with every step started at one model; where its check fails, or the model is not sure of the
result, the next stronger entry is asked.

A plan without an allocator, and with the cheap check that r2 had before it routed by a rule: what an allocator brings
beyond it is what it is worth (ours). With `max_escalations` 0 it is `decompose_one`. Settings: `model`, `decomposer`,
`min_confidence`, `max_escalations` (of the whole question).
"""

from functools import partial

from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, concluded
from r2.answering.route import decompose, execute_steps, finalize
from r2.methods.cot import one_model
from r2.methods.expected import (
    STEPS_ASSUMED,
    SUBTASKS_PER_QUESTION,
    UNSURE_SHARE,
    ExpectedCalls,
    final_answer,
    one_step,
    plans,
)
from r2.methods.record import Method
from r2.methods.shunt import open_steps
from r2.methods.start import check_confidence
from r2.problem import Problem


def start_every_step(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """A decompose call, then one call per subtask, and one more for each escalation."""
    outcome.plan = plan = yield from decompose(problem, router, outcome, budget)
    outcome.steps = open_steps(plan, one_model(router))
    most = router.settings.max_escalations
    yield from execute_steps(problem, plan, router, outcome, budget, max_escalations=most)
    return (yield from finalize(problem, plan, router, outcome, budget, max_escalations=most))


def _expects(router: Router) -> list[ExpectedCalls]:
    model = one_model(router)
    stronger = router.roster.stronger(model) if router.settings.min_confidence else None
    return [
        *plans(router),
        one_step(router, model),
        *([one_step(router, stronger, SUBTASKS_PER_QUESTION * UNSURE_SHARE)] if stronger else []),
        *final_answer(router, router.finalizer),
    ]


METHOD = Method(
    name="start_steps",
    summary="a plan, every step as start",
    run=partial(concluded, start_every_step),
    expects=_expects,
    assumes=f"{STEPS_ASSUMED}, with --min-confidence {UNSURE_SHARE:.0%} of their results are not sure",
    routes=True,
    escalates=True,
    knob="min_confidence",
    values=(0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99),
    takes_model="all",
    check=check_confidence,
)
