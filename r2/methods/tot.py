"""ToT, tree of thoughts with N = 2: at each level one model writes two next thoughts, scores them itself, and the
better one is kept.

Published (Yao et al., arXiv:2305.10601): breadth-first search with a generator and a value prompt; the baseline of
R2-Reasoner and DoT is N = 2. Mended: their runner sorts the wrong way and keeps the worst thought. Ours: a beam of one,
`depth` levels, then the question is answered from the kept thoughts with the same wording as everywhere; equal thoughts
are not scored. Settings: `model`, `n_thoughts`, `depth`, `sample_temperature`.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial

from r2.answering.allocation import Choice
from r2.answering.prompts import rate_messages, think_messages, with_thoughts
from r2.answering.protocol import Answering, Outcome, QuestionBudget, Router, Wave, ask, concluded
from r2.answering.question_shape import SENTENCE_TOKENS, text_of
from r2.answering.route import solver_call
from r2.call import Call, Completion
from r2.labelling.plan_scores import read_judgement
from r2.methods.cot import one_model
from r2.methods.direct_step import answer_once
from r2.methods.expected import EMPTY, ExpectedCalls, whole_question
from r2.methods.record import Method
from r2.problem import Problem
from r2.problems.benchmark import benchmark_of

THOUGHT_TOKENS = 64
"""Of a thought, beside the room for a result of the benchmark."""
RATING_TOKENS = 8


def tree_of_thoughts(problem: Problem, router: Router, outcome: Outcome, budget: QuestionBudget) -> Answering:
    """`depth` levels of `n_thoughts` thoughts and as many scores, then one answer."""
    model = one_model(router)
    kept: list[str] = []
    for _ in range(router.settings.depth):
        thoughts = yield from _think(problem, model, kept, router, budget)
        if not thoughts:
            outcome.failed_checks.append("no_thought")
            break
        kept.append((yield from _best(problem, model, kept, thoughts, router, outcome, budget)))
    call = solver_call(problem, router, model, None, {}, "solve")
    call = replace(call, messages=with_thoughts(call.messages, kept), subtask_index=0)
    return (yield from answer_once(problem, call, Choice(model, {}), outcome, budget))


def _think(
    problem: Problem, model: str, kept: Sequence[str], router: Router, budget: QuestionBudget
) -> Generator[Wave, list[Completion], list[str]]:
    """The level's distinct thoughts, in order of asking; those that failed or are empty are left out."""
    settings, benchmark = router.settings, benchmark_of(problem)
    calls = [
        Call(
            model,
            think_messages(problem, kept, benchmark.wording),
            "solve",
            THOUGHT_TOKENS + benchmark.answer_tokens,
            temperature=settings.sample_temperature,
            seed=1 + settings.seed,
            subtask_index=0,
            sample_index=n,
        )
        for n in range(settings.n_thoughts)
    ]
    answered = yield from ask(calls, budget)
    return list(dict.fromkeys(text for _, completion in answered if (text := completion.text.strip())))


def _best(
    problem: Problem,
    model: str,
    kept: Sequence[str],
    thoughts: Sequence[str],
    router: Router,
    outcome: Outcome,
    budget: QuestionBudget,
) -> Generator[Wave, list[Completion], str]:
    """The thought with the highest score, of equals the first; one without a readable score counts as 0."""
    if len(thoughts) == 1:
        return thoughts[0]
    wording = benchmark_of(problem).wording
    calls = [
        Call(model, rate_messages(problem, [*kept, thought], wording), "verify", RATING_TOKENS, subtask_index=0)
        for thought in thoughts
    ]
    scores = [read_judgement(completion.text) for _, completion in (yield from ask(calls, budget))]
    if None in scores:
        outcome.failed_checks.append("thought_unrated")
    return max(zip(thoughts, scores, strict=True), key=lambda rated: rated[1] or 0.0)[0]


EXPECTED_THOUGHT_TOKENS = SENTENCE_TOKENS


def _expects(router: Router) -> list[ExpectedCalls]:
    model, n_thoughts = one_model(router), router.settings.n_thoughts * router.settings.depth
    n_rated = n_thoughts if router.settings.n_thoughts > 1 else 0
    depth, shape = router.settings.depth, router.shape
    wording, thought = text_of(shape.wording_tokens), text_of(EXPECTED_THOUGHT_TOKENS)
    before = text_of(EXPECTED_THOUGHT_TOKENS * (depth - 1) / 2)
    answer = whole_question(router, model)
    limit = THOUGHT_TOKENS + shape.answer_limit
    return [
        ExpectedCalls(
            "solve", model, n_thoughts, think_messages(EMPTY, [before], wording), EXPECTED_THOUGHT_TOKENS, limit
        ),
        ExpectedCalls("verify", model, n_rated, rate_messages(EMPTY, [before, thought], wording), 4, RATING_TOKENS),
        replace(answer, messages=with_thoughts(answer.messages, [thought] * depth)),
    ]


METHOD = Method(
    name="tot",
    summary="one model, a tree of thoughts",
    run=partial(concluded, tree_of_thoughts),
    expects=_expects,
    by_default=True,
    takes_model="strongest",
)
