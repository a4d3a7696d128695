"""What a method expects to ask per question, for a dry run. Ours.

Stated assumptions stand in for what only the models know: subtasks per plan, tokens per reply, how often a small model
is unsure. The parts that several methods share are here; each method puts its own together.
"""

from dataclasses import dataclass

from r2.answering.expected_cost import FREE_STEP_TOKENS, FREE_TOKENS, PLAN_TOKENS, RESULT_TOKENS
from r2.answering.prompts import (
    FINAL_TASK,
    decompose_messages,
    free_messages,
    grade_messages,
    json_form,
    solve_messages,
)
from r2.answering.protocol import Router
from r2.call import Message, Purpose
from r2.plan import Plan, Subtask
from r2.problem import Problem
from r2.problems.own_check import OwnCheck
from r2.roster import PromptMode

BYTES_PER_TOKEN = 4
SUBTASKS_PER_QUESTION = 2.5
SECOND_PLANS = 0.1
"""Share of plans that fail their check, where a second decomposer stands by."""
UNSURE_SHARE = 0.3
"""Of a small model's answers; nothing is known before it was asked."""
JUDGEMENT_TOKENS = 40
"""Of a judge: a sentence and a number."""
FREE_ASSUMED = f"an answer in full has {FREE_TOKENS['direct']} tokens"
RANGE = (1 / 3, 3.0)
"""Of the expected bill: where the bill is likely to end. Measured in November 2026, as the bill over the middle: 30
questions of a mix (scan, words, arithmetic): 0.94 on pools/simulated.toml, 1.02 on its teacher, 1.08 on
pools/learning.toml; 1.79 on pools/faulty.toml, whose failed calls are billed. 14 easy and hard sums: 0.40 to 2.4."""
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


def whole_question(
    router: Router, model: str, per_question: float = 1, *, mode: PromptMode | None = None
) -> ExpectedCalls:
    """The question as a whole, in the model's own prompt mode or in another."""
    mode = mode or router.roster[model].prompt_mode
    return ExpectedCalls("solve", model, per_question, *_asked(router, None, {}, mode))


def one_step(router: Router, model: str, per_question: float = SUBTASKS_PER_QUESTION) -> ExpectedCalls:
    """A subtask that needs one earlier result."""
    mode = router.roster[model].prompt_mode
    return ExpectedCalls("solve", model, per_question, *_asked(router, PLAN.subtasks[1].text, {1: "48"}, mode))


def routed_steps(router: Router, per_question: float = SUBTASKS_PER_QUESTION) -> list[ExpectedCalls]:
    """What an allocator makes of a plan: half of the steps to the cheapest solver, half to the middle one. Measured on
    a mix of scan, words and arithmetic with the simulated pools."""
    ends = dict.fromkeys((router.roster.cheapest, router.roster.middle))
    return [one_step(router, model, per_question / len(ends)) for model in ends]


def _asked(
    router: Router, task: str | None, results: dict[int, str], mode: PromptMode
) -> tuple[tuple[Message, ...], float]:
    """The prompt around a question or a step, and how long the reply is: for rows without a benchmark where the
    estimate is theirs (`Router.expects_free`)."""
    if not router.expects_free:
        return solve_messages(EMPTY, task, results, mode, system=router.system), RESULT_TOKENS[mode]
    is_answer = task is None or task == FINAL_TASK
    form = json_form(router.schema.text) if router.schema is not None and is_answer else ""
    results = dict.fromkeys(results, "x" * (BYTES_PER_TOKEN * FREE_STEP_TOKENS))
    messages = free_messages(EMPTY, task, results, mode, system=router.system, form=form)
    n_tokens = FREE_TOKENS[mode] if is_answer else FREE_STEP_TOKENS
    return messages, min(n_tokens, router.settings.max_answer_tokens)


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
    """`model`'s, where the pool has a finalizer; None: nobody's. Answers in full are always written by one: the pool's,
    else the strongest model of the steps, here the middle one."""
    if router.expects_free and router.composes:
        model = model or router.roster.middle
    elif router.finalizer is None or model is None:
        return []
    mode = router.roster[model].prompt_mode
    return [ExpectedCalls("final", model, 1, *_asked(router, FINAL_TASK, {1: "48", 2: "39"}, mode))]
