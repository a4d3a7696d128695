"""What a method expects to ask per question, for a dry run. Ours.

Stated assumptions stand in for what only the models know: subtasks per plan, tokens per reply, how often a small model
is unsure. The parts that several methods share are here; each method puts its own together.
"""

from dataclasses import dataclass

from r2.answering.prompts import decompose_messages, grade_messages, solve_messages
from r2.answering.protocol import Router
from r2.call import Message, Purpose
from r2.plan import Plan, Subtask
from r2.problem import Problem
from r2.problems.own_check import OwnCheck

SUBTASKS_PER_QUESTION = 2.5
PLAN_TOKENS = 45
SECOND_PLANS = 0.1
"""Share of plans that fail their check, where a second decomposer stands by."""
UNSURE_SHARE = 0.3
"""Of a small model's answers; nothing is known before it was asked."""
RESULT_TOKENS = {"direct": 12, "cot": 150, "bare": 12}
"""By prompt mode."""
JUDGEMENT_TOKENS = 40
"""Of a judge: a sentence and a number."""
STEPS_ASSUMED = f"{SUBTASKS_PER_QUESTION} subtasks a question"

EMPTY = Problem("", "")
PLAN = Plan((Subtask("Compute 12 * 4"), Subtask("Subtract 9 from the result of step 1", (0,))))
"""What prompts are made with: the questions' own length is added by the estimate."""


@dataclass(frozen=True, slots=True)
class ExpectedCalls:
    """Calls of one purpose to one model: how many per question, with which prompt around it, and
    how long the reply is."""

    purpose: Purpose
    model: str
    per_question: float
    messages: tuple[Message, ...]
    output_tokens: float


def whole_question(router: Router, model: str, per_question: float = 1) -> ExpectedCalls:
    """The question as a whole, in the model's own prompt mode."""
    mode = router.roster[model].prompt_mode
    return ExpectedCalls("solve", model, per_question, solve_messages(EMPTY, None, {}, mode), RESULT_TOKENS[mode])


def one_step(router: Router, model: str, per_question: float = SUBTASKS_PER_QUESTION) -> ExpectedCalls:
    """A subtask that needs one earlier result."""
    mode = router.roster[model].prompt_mode
    messages = solve_messages(EMPTY, PLAN.subtasks[1].text, {1: "48"}, mode)
    return ExpectedCalls("solve", model, per_question, messages, RESULT_TOKENS[mode])


def judgements(check: OwnCheck, per_question: float = 1, purpose: Purpose = "judge") -> ExpectedCalls:
    """An answer graded by the judge of the user's own check, which has one."""
    messages = grade_messages(EMPTY, "", check.rubric)
    return ExpectedCalls(purpose, check.judge or "", per_question, messages, JUDGEMENT_TOKENS)


def plans(router: Router) -> list[ExpectedCalls]:
    """The decomposer's, and the second one's where one stands by."""
    asked = [(router.decomposer, 1.0)]
    if router.second_decomposer is not None:
        asked.append((router.second_decomposer, SECOND_PLANS))
    return [
        ExpectedCalls("decompose", name, share, decompose_messages(EMPTY, router.roster[name].prompt_mode), PLAN_TOKENS)
        for name, share in asked
    ]


def final_answer(router: Router, model: str | None) -> list[ExpectedCalls]:
    """`model`'s, where the pool has a finalizer; None: nobody's."""
    if router.finalizer is None or model is None:
        return []
    mode = router.roster[model].prompt_mode
    messages = solve_messages(EMPTY, "", {1: "48", 2: "39"}, mode)
    return [ExpectedCalls("final", model, 1, messages, RESULT_TOKENS[mode])]
