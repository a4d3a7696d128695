"""What a run would ask for, before anything is paid: calls, tokens, USD and the time the limits allow. Ours.

Stated assumptions stand in for what only the models know: subtasks per plan, tokens per reply, which model a subtask
goes to. The estimate is an order of magnitude for a first run, and says so; a cap (`--max-cost-usd`) is what is
certain.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from r2.answering.prompts import (
    allocate_messages,
    decompose_messages,
    judge_messages,
    rate_messages,
    solve_messages,
    teach_messages,
    think_messages,
    verify_messages,
)
from r2.answering.protocol import Router
from r2.call import Message, Purpose
from r2.ledger import Price, Usage, cost_usd
from r2.methods.automix import chain
from r2.methods.cot import one_model
from r2.methods.random_model import probabilities
from r2.methods.shunt import large_model, small_model
from r2.plan import Plan, Subtask
from r2.problem import Problem
from r2.settings import Labelling

BYTES_PER_TOKEN = 4
SUBTASKS_PER_QUESTION = 2.5
PLAN_TOKENS = 45
ALLOCATION_TOKENS_PER_SUBTASK = 12
SECOND_PLANS = 0.1
"""Share of plans that fail their check, where a second decomposer stands by."""
DISTINCT_SHARE = 0.5
"""Of a teacher's candidate plans, before anything is known about it."""
ALLOCATIONS_TRIED = 6
THOUGHT_TOKENS = 30
UNSURE_SHARE = 0.3
"""Of a small model's answers; nothing is known before it was asked."""
RESULT_TOKENS = {"direct": 12, "cot": 150, "bare": 12}


@dataclass(frozen=True, slots=True)
class CallEstimate:
    """Expected calls of one purpose to one model, over the whole run."""

    purpose: Purpose
    model: str
    n_calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class _Part:
    """Calls of one purpose to one model: how many per question, with which prompt around it, and
    how long the reply is."""

    purpose: Purpose
    model: str
    per_question: float
    messages: tuple[Message, ...]
    output_tokens: float


_EMPTY = Problem("", "")
_PLAN = Plan((Subtask("Compute 12 * 4"), Subtask("Subtract 9 from the result of step 1", (0,))))


def estimate_calls(
    router: Router, prices: Mapping[str, Price], n_questions: int, question_bytes: int
) -> list[CallEstimate]:
    """The calls `n_questions` of together `question_bytes` UTF-8 bytes (contexts included) are expected to need.

    What had to be assumed for the method is in `ASSUMED`.
    """
    return [_priced(part, prices, n_questions, question_bytes) for part in _PARTS[router.settings.method](router)]


def estimate_labelling(
    router: Router, prices: Mapping[str, Price], n_problems: int, question_bytes: int
) -> list[CallEstimate]:
    """As `estimate_calls`, for labelling."""
    return [_priced(part, prices, n_problems, question_bytes) for part in _label(router)]


def _priced(part: _Part, prices: Mapping[str, Price], n_questions: int, question_bytes: int) -> CallEstimate:
    n_calls = round(n_questions * part.per_question)
    fixed_bytes = sum(len(text.encode()) for _, text in part.messages)
    input_tokens = round((fixed_bytes * n_calls + question_bytes * part.per_question) / BYTES_PER_TOKEN)
    n_output = round(part.output_tokens * n_calls)
    cost = cost_usd(prices[part.model], Usage(input_tokens, 0, n_output, "estimated"))
    return CallEstimate(part.purpose, part.model, n_calls, input_tokens, n_output, cost)


def _whole(router: Router, model: str, per_question: float) -> _Part:
    mode = router.roster[model].prompt_mode
    return _Part("solve", model, per_question, solve_messages(_EMPTY, None, {}, mode), RESULT_TOKENS[mode])


def _step(router: Router, model: str, per_question: float) -> _Part:
    mode = router.roster[model].prompt_mode
    messages = solve_messages(_EMPTY, _PLAN.subtasks[1].text, {1: "48"}, mode)
    return _Part("solve", model, per_question, messages, RESULT_TOKENS[mode])


def _decompose(router: Router) -> list[_Part]:
    asked = [(router.decomposer, 1.0)]
    if router.second_decomposer is not None:
        asked.append((router.second_decomposer, SECOND_PLANS))
    return [
        _Part("decompose", name, share, decompose_messages(_EMPTY, router.roster[name].prompt_mode), PLAN_TOKENS)
        for name, share in asked
    ]


def _final(router: Router, model: str | None) -> list[_Part]:
    if router.finalizer is None or model is None:
        return []
    mode = router.roster[model].prompt_mode
    messages = solve_messages(_EMPTY, "", {1: "48", 2: "39"}, mode)
    return [_Part("final", model, 1, messages, RESULT_TOKENS[mode])]


def _r2(router: Router) -> list[_Part]:
    messages = allocate_messages(_EMPTY, _PLAN, router.roster.solvers, router.roster[router.allocator].prompt_mode)
    middle = router.roster.middle
    stronger = router.roster.stronger(middle) if router.settings.min_confidence else None
    return [
        *_decompose(router),
        _Part("allocate", router.allocator, 1, messages, ALLOCATION_TOKENS_PER_SUBTASK * SUBTASKS_PER_QUESTION),
        _step(router, middle, SUBTASKS_PER_QUESTION),
        *([_step(router, stronger, SUBTASKS_PER_QUESTION * UNSURE_SHARE)] if stronger else []),
        *_final(router, router.finalizer),
    ]


def _cot(router: Router) -> list[_Part]:
    messages = solve_messages(_EMPTY, None, {}, "cot")
    return [_Part("solve", one_model(router), 1, messages, RESULT_TOKENS["cot"])]


def _tot(router: Router) -> list[_Part]:
    model, n_thoughts = one_model(router), router.settings.n_thoughts * router.settings.depth
    n_rated = n_thoughts if router.settings.n_thoughts > 1 else 0
    return [
        _Part("solve", model, n_thoughts, think_messages(_EMPTY, [""]), THOUGHT_TOKENS),
        _Part("judge", model, n_rated, rate_messages(_EMPTY, ["", ""]), 4),
        _whole(router, model, 1),
    ]


def _decompose_one(router: Router) -> list[_Part]:
    model = one_model(router)
    return [*_decompose(router), _step(router, model, SUBTASKS_PER_QUESTION), *_final(router, model)]


def _shunted(part: Callable[[Router, str, float], _Part], router: Router, n: float) -> list[_Part]:
    small, large = small_model(router), large_model(router)
    n_asked = n if router.roster[small].has_logprobs else n * (1 + router.settings.n_samples)
    return [part(router, small, n_asked), *([part(router, large, n * UNSURE_SHARE)] if large != small else [])]


def _datashunt(router: Router) -> list[_Part]:
    return _shunted(_whole, router, 1)


def _dot(router: Router) -> list[_Part]:
    steps = _shunted(_step, router, SUBTASKS_PER_QUESTION)
    return [*_decompose(router), *steps, *_final(router, router.finalizer)]


def _automix(router: Router) -> list[_Part]:
    parts = []
    models = chain(router)
    for place, model in enumerate(models):
        share = UNSURE_SHARE**place
        parts.append(_whole(router, model, share))
        if place < len(models) - 1:
            parts.append(_Part("verify", model, share * router.settings.n_samples, verify_messages(_EMPTY, "39"), 2))
    return parts


def _query_router(router: Router) -> list[_Part]:
    return [_whole(router, router.roster.middle, 1)]


def _random(router: Router) -> list[_Part]:
    shares = probabilities(router.settings, router.roster)
    if router.settings.random_level == "query":
        return [_whole(router, model, share) for model, share in shares.items()]
    steps = [_step(router, model, share * SUBTASKS_PER_QUESTION) for model, share in shares.items()]
    return [*_decompose(router), *steps, *_final(router, router.finalizer)]


def _label(router: Router) -> list[_Part]:
    """The teacher's calls, M_eval's over the distinct plans, the judge's, and the search's on the middle solver, one
    new call per allocation tried."""
    chosen, roster = router.settings.labelling or Labelling(), router.roster
    n_plans = max(1.0, chosen.n_candidates * DISTINCT_SHARE)
    teacher = chosen.teacher or roster.strongest
    parts = [
        _Part("teach", teacher, chosen.n_candidates, teach_messages(_EMPTY, ""), PLAN_TOKENS),
        _step(router, chosen.m_eval or roster.middle, n_plans * SUBTASKS_PER_QUESTION),
        _step(router, roster.middle, ALLOCATIONS_TRIED),
    ]
    if chosen.judge in roster.by_name:
        n_pairs = n_plans * (SUBTASKS_PER_QUESTION - 1)
        parts.append(_Part("judge", chosen.judge, n_pairs, judge_messages(_EMPTY, _PLAN, 1), 4))
    return parts


_PARTS: dict[str, Callable[[Router], list[_Part]]] = {
    "r2": _r2,
    "cot": _cot,
    "tot": _tot,
    "decompose_one": _decompose_one,
    "datashunt": _datashunt,
    "automix": _automix,
    "dot": _dot,
    "query_router": _query_router,
    "random": _random,
    "label": _label,
}

_STEPS = f"{SUBTASKS_PER_QUESTION} subtasks a question"
ASSUMED = {
    "r2": (
        f"{_STEPS} on the pool's middle model; with --min-confidence {UNSURE_SHARE:.0%} of them asked again of the "
        "next stronger one"
    ),
    "decompose_one": _STEPS,
    "datashunt": f"the small model is unsure of {UNSURE_SHARE:.0%} of its answers",
    "dot": f"{_STEPS}, the small model is unsure of {UNSURE_SHARE:.0%} of its results",
    "automix": f"{UNSURE_SHARE:.0%} of a model's answers do not pass its own verification",
    "query_router": "every question on the pool's middle model",
}
"""Method -> what its estimate takes for granted beside the lengths of replies."""


def minutes_by_limits(
    n_calls: int, n_tokens: int, requests_per_minute: float | None, tokens_per_minute: float | None
) -> float:
    """The least time a quota allows for so many calls and tokens; 0 where it sets no limit."""
    by_requests = n_calls / requests_per_minute if requests_per_minute else 0.0
    by_tokens = n_tokens / tokens_per_minute if tokens_per_minute else 0.0
    return max(by_requests, by_tokens)
