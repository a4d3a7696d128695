"""One model that answers with a Python program: what the program prints is the answer (r2/answering/programs.py; after
PAL, arXiv:2211.10435, and program of thoughts, arXiv:2211.12588).

As `cot`, whatever the entry's own prompt mode. A pool entry with `prompt_mode = "program"` is the same as an arm that
every way to answer may use. Settings: `model`.
"""

from dataclasses import replace
from functools import partial

from r2.answering.allocation import Choice
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, concluded
from r2.answering.route import solver_call
from r2.methods.cot import one_model
from r2.methods.direct_step import answer_once
from r2.methods.expected import ExpectedCalls, whole_question
from r2.methods.record import Method
from r2.problem import Problem


def write_program(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """One call and the run of what it wrote; one try, no escalation."""
    model = one_model(router)
    call = replace(solver_call(problem, router, model, None, {}, "solve", mode="program"), subtask_index=0)
    return (yield from answer_once(problem, call, Choice(model, {}), outcome, budget))


def _expects(router: Router) -> list[ExpectedCalls]:
    return [whole_question(router, one_model(router), mode="program")]


METHOD = Method(
    name="program",
    summary="one model, a Python program that is run",
    run=partial(concluded, write_program),
    expects=_expects,
    family="constant",
    per_model=True,
    writes_programs=True,
)
