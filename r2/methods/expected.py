"""What a method expects to ask per question, for a dry run. Ours.

Steps, lengths of replies and how often a model is unsure follow from the questions (r2/answering/question_shape.py)
and from the pool's profiles where these speak of them; else stated assumptions stand in for what only the models know.
The parts that several methods share are here; each method puts its own together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from r2.answering.expected_cost import FREE_STEP_TOKENS, FREE_TOKENS, RESULT_TOKENS
from r2.answering.judging import JUDGE_TOKENS
from r2.answering.prompts import (
    FINAL_TASK,
    decompose_messages,
    free_messages,
    grade_messages,
    json_form,
    solve_messages,
)
from r2.answering.protocol import Router
from r2.answering.question_shape import ASSUMED, text_of
from r2.call import Message, Purpose
from r2.plan import Plan, Subtask
from r2.problem import Problem
from r2.problems.own_check import OwnCheck
from r2.roster import PromptMode

SUBTASKS_PER_QUESTION = ASSUMED.steps
SECOND_PLANS = 0.1
"""Share of plans that fail their check, where a second decomposer stands by."""
UNSURE_SHARE = 0.3
"""Of a small model's answers; nothing is known before it was asked."""
SURE_SHARE = 0.97
"""Right results of a kind of step from which on an allocator is expected to look at the price alone."""
JUDGEMENT_TOKENS = 40
"""Of a judge: a sentence and a number."""
UNSURE_ASSUMED = f"what its profile leaves, {UNSURE_SHARE:.0%} where it does not speak of it"
FREE_ASSUMED = f"an answer in full has {FREE_TOKENS['direct']} tokens"
RANGE = (1 / 3, 3.0)
"""Of the expected bill: where the bill is likely to end. Measured in November 2026, as the bill over the middle: 210
questions of a mix (scan, words, arithmetic) by five ways on pools/simulated.toml, pools/faulty.toml and
pools/learning.toml: 0.80 to 1.06; files of 14 to 40 questions: 0.57 to 1.8, and 2.9 where models do not know them. On
pools/specialists.toml a few long replies are most of the bill of so small a file."""
STEPS_ASSUMED = f"{SUBTASKS_PER_QUESTION} subtasks a question whose text does not show them"

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
    limit: float | None = None
    """Output limit that they are sent with; None: of no importance."""
    has_question: bool = True
    """The prompt repeats the question."""


def whole_question(
    router: Router, model: str, per_question: float = 1, *, mode: PromptMode | None = None
) -> ExpectedCalls:
    """The question as a whole, in the model's own prompt mode or in another."""
    mode = mode or router.roster[model].prompt_mode
    return ExpectedCalls("solve", model, per_question, *_asked(router, model, None, {}, mode))


def one_step(router: Router, model: str, per_question: float | None = None) -> ExpectedCalls:
    """A subtask with the earlier results that it needs; as many per question as its plan has, where no number is
    given."""
    mode, shape = router.roster[model].prompt_mode, router.shape
    task, needed = text_of(shape.task_tokens), text_of(shape.needed_tokens)
    n = shape.steps if per_question is None else per_question
    asked = _asked(router, model, task, {1: needed} if needed else {}, mode)
    return ExpectedCalls("solve", model, n, *asked, has_question=mode != "bare" or router.expects_free)


def unsure_share(router: Router, model: str, *, is_step: bool = False) -> float:
    """Share of a model's answers, or of its results of steps, that it is not sure of: what its profile leaves of the
    questions' kinds; `UNSURE_SHARE` of those that it does not speak of."""
    skills = router.roster[model].skills
    kinds = router.shape.step_kinds if is_step else router.shape.kinds
    known = {kind: share for kind, share in kinds.items() if kind in skills} if not router.expects_free else {}
    unsure = sum(share * (1 - skills[kind]) for kind, share in known.items())
    return unsure + (1 - sum(known.values())) * UNSURE_SHARE


def routed_steps(router: Router, per_question: float | None = None) -> list[ExpectedCalls]:
    """What an allocator makes of a plan. It is asked for the cheapest model that gets a step right: by the profiles,
    the cheapest that is right in `SURE_SHARE` of a kind, else the best. Steps of a kind that no profile speaks of go
    half to the cheapest solver, half to the middle one."""
    n = router.shape.steps if per_question is None else per_question
    shares: dict[str, float] = {}
    for kind, share in router.shape.step_kinds.items() if not router.expects_free else ():
        if (model := _cheapest_sure(router, kind)) is not None:
            shares[model] = shares.get(model, 0.0) + share
    rest, ends = 1 - sum(shares.values()), dict.fromkeys((router.roster.cheapest, router.roster.middle))
    for model in ends:
        shares[model] = shares.get(model, 0.0) + rest / len(ends)
    return [one_step(router, model, n * share) for model, share in shares.items() if share > 0]


def _cheapest_sure(router: Router, kind: str) -> str | None:
    known = [card for card in router.roster.solvers if kind in card.skills]
    if not known:
        return None
    sure = [card for card in known if card.skills[kind] >= SURE_SHARE]
    return (
        min(sure, key=lambda card: card.blended_price).name
        if sure
        else max(known, key=lambda card: card.skills[kind]).name
    )


def _asked(
    router: Router, model: str, task: str | None, results: Mapping[int, str], mode: PromptMode
) -> tuple[tuple[Message, ...], float, float]:
    """The prompt around a question or a step, how long the reply is, and the output limit: for rows without a benchmark
    where the estimate is theirs (`Router.expects_free`)."""
    shape, examples = router.shape, router.roster[model].examples_for(mode)
    if not router.expects_free:
        wording = text_of(shape.wording_tokens)
        messages = solve_messages(EMPTY, task, results, mode, wording, router.system, examples)
        limit = shape.answer_limit if mode == "direct" else max(router.settings.cot_tokens, shape.answer_limit)
        return messages, shape.within_own_limits(_result_tokens(router, task, mode)), limit
    is_answer = task is None or task == FINAL_TASK
    form = json_form(router.schema.text) if router.schema is not None and is_answer else ""
    results = dict.fromkeys(results, text_of(FREE_STEP_TOKENS))
    messages = free_messages(EMPTY, task, results, mode, system=router.system, form=form, examples=examples)
    limit = router.settings.max_answer_tokens
    n_tokens = min(FREE_TOKENS[mode] if is_answer else FREE_STEP_TOKENS, limit)
    return messages, shape.within_own_limits(n_tokens) if is_answer else n_tokens, limit


def _result_tokens(router: Router, task: str | None, mode: PromptMode) -> float:
    """Of a short result: of a step, or of the whole question."""
    shape = router.shape
    is_step = task is not None and task != FINAL_TASK
    n_tokens = shape.step_tokens if is_step else shape.answer_tokens
    if mode == "cot":
        return n_tokens + (shape.step_thought_tokens if is_step else shape.thought_tokens)
    return RESULT_TOKENS[mode] if mode == "program" else n_tokens


def judgements(check: OwnCheck, per_question: float = 1, purpose: Purpose = "judge") -> ExpectedCalls:
    """An answer graded by the judge of the user's own check, which has one."""
    messages = grade_messages(EMPTY, "", check.rubric)
    return ExpectedCalls(purpose, check.judge or "", per_question, messages, JUDGEMENT_TOKENS, JUDGE_TOKENS)


def plans(router: Router) -> list[ExpectedCalls]:
    """The decomposer's, and the second one's where one stands by."""
    asked = [(router.decomposer, 1.0)]
    if router.second_decomposer is not None:
        asked.append((router.second_decomposer, SECOND_PLANS))
    return [
        ExpectedCalls(
            "decompose",
            name,
            share,
            decompose_messages(EMPTY, router.roster[name].prompt_mode),
            router.shape.plan_tokens,
            router.settings.plan_tokens,
        )
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
    return [ExpectedCalls("final", model, 1, *_asked(router, model, FINAL_TASK, {1: "48", 2: "39"}, mode))]
