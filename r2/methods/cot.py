"""Chain of thought with one model: the constant router, and the line any router has to beat (docs/method.md, section
8).

Settings: `model`.
"""

from dataclasses import replace

from r2.answering.allocation import Choice
from r2.answering.prompts import solve_messages
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, Solving, concluded
from r2.answering.route import solver_call
from r2.methods.direct_step import answer_once
from r2.methods.expected import EMPTY, RESULT_TOKENS, ExpectedCalls
from r2.methods.record import Method
from r2.problem import Problem
from r2.problems.benchmark import benchmark_of


def chain_of_thought(problem: Problem, router: Router, model: str | None = None) -> Solving:
    """One call to `model` (None: the settings', else the strongest), thinking step by step whatever the entry's own
    prompt mode; one try, no escalation."""

    def answering(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
        name = model or one_model(router)
        benchmark = benchmark_of(problem)
        call = replace(
            solver_call(problem, router, name, None, {}, "solve"),
            messages=solve_messages(problem, None, {}, "cot", benchmark.wording),
            max_output_tokens=max(router.settings.cot_tokens, benchmark.answer_tokens),
            subtask_index=0,
        )
        return (yield from answer_once(problem, call, Choice(name, {}), outcome, budget))

    return concluded(answering, problem, router)


def one_model(router: Router) -> str:
    """The model of the ways to answer that use just one."""
    return router.settings.model or router.roster.strongest


def _expects(router: Router) -> list[ExpectedCalls]:
    messages = solve_messages(EMPTY, None, {}, "cot")
    return [ExpectedCalls("solve", one_model(router), 1, messages, RESULT_TOKENS["cot"])]


METHOD = Method(
    name="cot",
    summary="one model, step by step",
    run=chain_of_thought,
    expects=_expects,
    family="constant",
    by_default=True,
    per_model=True,
)
