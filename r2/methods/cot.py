"""Chain of thought with one model: the constant router, and the line any router has to beat (docs/method.md, section
8).

Settings: `model`.
"""

from dataclasses import replace

from r2.answering.allocation import Choice
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, Solving, concluded
from r2.answering.route import solver_call
from r2.methods.direct_step import answer_once
from r2.methods.expected import ExpectedCalls, whole_question
from r2.methods.record import Method
from r2.problem import Problem


def chain_of_thought(problem: Problem, router: Router, model: str | None = None) -> Solving:
    """One call to `model` (None: the settings', else the strongest), thinking step by step whatever the entry's own
    prompt mode; one try, no escalation."""

    def answering(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
        name = model or one_model(router)
        call = replace(solver_call(problem, router, name, None, {}, "solve", mode="cot"), subtask_index=0)
        return (yield from answer_once(problem, call, Choice(name, {}), outcome, budget))

    return concluded(answering, problem, router)


def one_model(router: Router) -> str:
    """The model of the ways to answer that use just one."""
    return router.settings.model or router.roster.strongest


def _expects(router: Router) -> list[ExpectedCalls]:
    return [whole_question(router, one_model(router), mode="cot")]


METHOD = Method(
    name="cot",
    summary="one model, step by step",
    run=chain_of_thought,
    expects=_expects,
    family="constant",
    by_default=True,
    per_model=True,
)
