"""Answering the whole question in one step: the part that all query-level ways to answer share.

Their plan is the direct one. Its single step keeps who was meant to answer (`choice`), who did (`model`) and what with
(`text`).
"""

from collections.abc import Generator

from r2.answering.allocation import Choice
from r2.answering.prompts import DIRECT_STEP
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Step, Stop, Wave, ask
from r2.answering.route import accept
from r2.call import Call, Completion
from r2.plan import DIRECT, Subtask
from r2.problem import Problem


def open_step(outcome: Outcome, choice: Choice) -> Step:
    """Makes the outcome one of a direct plan that goes to the chosen model."""
    step = Step(Subtask(DIRECT_STEP), choice, choice.model)
    outcome.plan, outcome.steps = DIRECT, [step]
    return step


def ask_step(
    problem: Problem, call: Call, outcome: Outcome, budget: QuestionBudget
) -> Generator[Wave, list[Completion], Completion]:
    """Asks for the outcome's only step; result, failed check or error are kept on it. An earlier result stays where
    none came."""
    [step] = outcome.steps
    [(sent, completion)] = yield from ask([call], budget, may_escalate=True)
    step.n_asks += 1
    step.model = completion.model or sent.model
    if check := accept(problem, step, completion):
        outcome.failed_checks.append(check)
    return completion


def result_of(step: Step, completion: Completion) -> str:
    """The step's result; `Stop` with its error type where there is none. `completion` is the last one received for
    it."""
    if step.text is None:
        raise Stop(step.error_type or "empty", completion.error_message or f"{step.model} returned no text")
    return step.text


def answer_once(problem: Problem, call: Call, choice: Choice, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """One call, one try."""
    step = open_step(outcome, choice)
    completion = yield from ask_step(problem, call, outcome, budget)
    return result_of(step, completion)
