"""AutoMix-style cascade: a model answers and verifies its own answer; below the threshold the next model of the chain
answers instead.

Published (Aggarwal et al., arXiv:2310.12963): few-shot self-verification, sampled several times, over two or three
models; the share of "correct" verdicts goes through a meta-verifier (a threshold, or a POMDP). Ours: the threshold.
Left out: the POMDP, and the context as the verifier's only source (our problems rarely have one). Settings: `chain`, or
`small_model` and `large_model`; `threshold`, `n_samples`, `sample_temperature`.
"""

import re
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial

from r2.answering.allocation import Choice
from r2.answering.prompts import verify_messages
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, Wave, ask, concluded
from r2.answering.route import solver_call
from r2.answering.wanted import is_whole, schema_of
from r2.call import Call, Completion
from r2.methods.direct_step import ask_step, open_step, result_of
from r2.methods.expected import EMPTY, UNSURE_ASSUMED, ExpectedCalls, unsure_share, whole_question
from r2.methods.record import Method
from r2.methods.shunt import large_model, small_model
from r2.problem import Problem
from r2.problems.benchmark import benchmark_of, result_in

VERDICT_TOKENS = 16

_VERDICT = re.compile(r"\b(correct|right|incorrect|wrong|not (?:correct|right))\b", re.IGNORECASE)


def automix(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """Climbs the chain until an answer's verified share reaches the threshold; the last model's
    answer is not verified."""
    models = chain(router)
    step = open_step(outcome, Choice(models[0], {}))
    for place, model in enumerate(models):
        outcome.n_escalations = place
        call = replace(
            solver_call(problem, router, model, None, {}, "solve"), subtask_index=0, sample_index=step.n_asks
        )
        completion = yield from ask_step(problem, call, outcome, budget)
        if place == len(models) - 1:
            break
        if text := _answer_in(problem, completion, router):
            share = yield from _verified_share(problem, step.model, text, router, budget)
            if share >= router.settings.threshold:
                break
    return result_of(step, completion)


def _answer_in(problem: Problem, completion: Completion, router: Router) -> str:
    """What there is to verify: nothing where the answer does not match its schema."""
    if schema := schema_of(problem, router):
        return schema.find(completion.text, is_cut=completion.finish_reason == "length").text or ""
    return result_in(problem, completion.text)


def chain(router: Router) -> Sequence[str]:
    """The models that are asked, in order, without repeats."""
    return router.settings.chain or tuple(dict.fromkeys((small_model(router), large_model(router))))


def _verified_share(
    problem: Problem, model: str, answer: str, router: Router, budget: QuestionBudget
) -> Generator[Wave, list[Completion], float]:
    """Share of `n_samples` verdicts that call the answer correct; a verdict that says neither counts against it."""
    settings = router.settings
    whole = is_whole(problem, router)
    messages = verify_messages(problem, answer, benchmark_of(problem).wording, is_whole=whole)
    calls = [
        Call(
            model,
            messages,
            "verify",
            VERDICT_TOKENS,
            temperature=settings.sample_temperature,
            seed=1 + settings.seed,
            subtask_index=0,
            sample_index=n,
        )
        for n in range(settings.n_samples)
    ]
    answered = yield from ask(calls, budget)
    return sum(says_correct(completion.text) for _, completion in answered) / len(calls)


def says_correct(text: str) -> bool:
    """The first verdict in a verifier's text; False where there is none."""
    match = _VERDICT.search(text)
    return match is not None and match[1].lower() in ("correct", "right")


def _expects(router: Router) -> list[ExpectedCalls]:
    parts = []
    models = chain(router)
    share = 1.0
    for place, model in enumerate(models):
        parts.append(whole_question(router, model, share))
        if place < len(models) - 1:
            n_verdicts = share * router.settings.n_samples
            messages = verify_messages(EMPTY, "39")
            parts.append(ExpectedCalls("verify", model, n_verdicts, messages, 2, VERDICT_TOKENS))
        share *= unsure_share(router, model)
    return parts


METHOD = Method(
    name="automix",
    summary="a chain of models, each verifies its own answer",
    run=partial(concluded, automix),
    expects=_expects,
    assumes=f"of a model's answers do not pass its own verification: {UNSURE_ASSUMED}",
    routes=True,
    knob="threshold",
    values=(0.0, 0.25, 0.5, 0.75, 1.0),
    by_default=True,
)
