"""The learned query-level router: the question as a whole goes to the cheapest model that is probable enough to answer
it right.

RouteLLM-style (arXiv:2406.18665) with any number of models; what is learned and how it predicts is in
r2/answering/query_router.py. Settings: `query_router` (the fitted file), `threshold`.
"""

from dataclasses import replace
from functools import partial

from r2.answering.allocation import Choice
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, concluded
from r2.answering.route import solver_call
from r2.errors import ConfigError
from r2.methods.direct_step import answer_once
from r2.methods.expected import ExpectedCalls, whole_question
from r2.methods.record import Method
from r2.problem import Problem


def learned_query_router(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """One call. Routing costs nothing: no model is asked for it."""
    if router.query_router is None:
        raise ConfigError("method query_router: no fitted router is loaded; name its JSON file with --query-router.")
    model = router.query_router.pick(problem, router.settings.threshold)
    call = replace(solver_call(problem, router, model, None, {}, "solve"), subtask_index=0)
    return (yield from answer_once(problem, call, Choice(model, {}), outcome, budget))


def _expects(router: Router) -> list[ExpectedCalls]:
    return [whole_question(router, router.roster.middle)]


METHOD = Method(
    name="query_router",
    summary="a learned model for each question",
    run=partial(concluded, learned_query_router),
    expects=_expects,
    assumes="every question on the pool's middle model",
    routes=True,
    knob="threshold",
    values=(0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99),
    by_default=True,
    uses_query_router=True,
)
