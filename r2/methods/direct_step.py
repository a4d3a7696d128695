"""Answering the whole question in one step: the part that all query-level ways to answer share.

Their plan is the direct one. Its single step keeps who was meant to answer (`choice`), who did (`model`) and what with
(`text`).
"""

from collections.abc import Generator
from dataclasses import replace

from r2.answering.allocation import Choice
from r2.answering.confidence import token_confidence
from r2.answering.prompts import DIRECT_STEP
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Step, Stop, Wave, ask
from r2.answering.route import accept
from r2.answering.wanted import Again, schema_of
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
    none came. An answer that is cut, or does not match its schema, is asked for once more of the same entry."""
    completion, _ = yield from asked_step(problem, call, outcome, budget)
    return completion


def asked_step(
    problem: Problem, call: Call, outcome: Outcome, budget: QuestionBudget
) -> Generator[Wave, list[Completion], tuple[Completion, str | None]]:
    """The same, with the check that the last reply failed; None where it may stand."""
    [step], router = outcome.steps, budget.router
    schema, tried = schema_of(problem, router), Again()
    while True:
        [(sent, completion)] = yield from ask([call], budget, may_escalate=True)
        step.n_asks += 1
        step.model = completion.model or sent.model
        step.confidence = token_confidence(completion, router.settings.confidence_quantile)
        check = accept(problem, step, completion, schema=schema)
        if check is None:
            return completion, None
        outcome.failed_checks.append(check)
        again = tried.call(problem, check, sent, completion, schema, router, budget)
        if again is None:
            return completion, check
        call = replace(again, sample_index=step.n_asks)


def result_of(step: Step, completion: Completion) -> str:
    """The step's result; `Stop` with its error type where there is none. `completion` is the last one received for
    it."""
    if step.text is None:
        raise Stop(step.error_type or "empty", completion.error_message or f"{step.model} returned {lack_of(step)}")
    return step.text


def lack_of(step: Step) -> str:
    """What a model returned where there is no result, for a message."""
    return f"JSON that does not match the schema ({step.misfit})" if step.misfit else "no text"


def answer_once(problem: Problem, call: Call, choice: Choice, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """One call, one try."""
    step = open_step(outcome, choice)
    completion = yield from ask_step(problem, call, outcome, budget)
    return result_of(step, completion)
